"""How each class is folded from paper: one function a class, random in shape and colour.

Each function returns parts in painting order, in unit coordinates (see toyworld.paint).
"""

from collections.abc import Callable

import numpy as np

from toyworld.paint import GLASS, INK, WHITE, WOOD, Part, folded, oval, paper, part, shade


def house(rng: np.random.Generator) -> list[Part]:
    """Two walls, a roof with a ridge, a door, windows and often a chimney."""
    wall = paper(rng, "cream cocoa")
    roof = paper(rng, "coral plum", (wall,))
    eaves, ridge, side = rng.uniform(-0.3, -0.05), rng.uniform(-0.98, -0.8), rng.uniform(0.6, 0.78)
    corner, over = rng.uniform(-0.1, 0.35), side + rng.uniform(0.1, 0.22)
    parts = []
    if rng.random() < 0.6:
        parts.append(part(shade(wall, 0.7), (0.3, ridge), (0.52, ridge), (0.52, eaves), (0.3, eaves)))
    parts += [
        part(wall, (-side, eaves - 0.02), (corner, eaves - 0.02), (corner, 0.95), (-side, 0.95)),
        part(shade(wall, 0.86), (corner, eaves - 0.02), (side, eaves - 0.02), (side, 0.95), (corner, 0.95)),
        part(roof, (-over, eaves + 0.05), (-0.35, ridge), (corner + 0.05, eaves + 0.05)),
        part(shade(roof, 0.85), (-0.35, ridge), (0.35, ridge), (over, eaves + 0.05), (corner + 0.05, eaves + 0.05)),
    ]
    left, right, top = (-side + corner) / 2 - 0.14, (-side + corner) / 2 + 0.14, rng.uniform(0.35, 0.45)
    parts.append(part(shade(roof, 0.7), (left, top), (right, top), (right, 0.95), (left, 0.95)))
    middle, half, sill = (corner + side) / 2, 0.12, rng.uniform(0.35, 0.5)
    for x in (middle - 0.16, middle + 0.16) if side - corner > 0.75 else (middle,):
        parts.append(part(GLASS, (x - half, sill - 0.26), (x + half, sill - 0.26), (x + half, sill), (x - half, sill)))
    return parts


def car(rng: np.random.Generator) -> list[Part]:
    """A body with a cabin, two windows, two wheels and a lamp; it drives to the right."""
    body = paper(rng, "navy teal")
    roof, belt, floor = rng.uniform(-0.62, -0.45), rng.uniform(-0.1, 0.05), rng.uniform(0.38, 0.46)
    back, front = rng.uniform(-0.72, -0.5), rng.uniform(0.2, 0.4)
    middle, pane, rear = (back + front) / 2, roof + 0.1, shade(GLASS, 0.92)
    wheel = rng.uniform(0.2, 0.26)
    parts = [
        part(shade(body, 1.08), (back, roof), (front, roof), (front + 0.3, belt + 0.02), (back - 0.18, belt + 0.02)),
        part(GLASS, (back + 0.05, pane), (middle - 0.05, pane), (middle - 0.05, belt), (back - 0.07, belt)),
        part(rear, (middle + 0.05, pane), (front - 0.04, pane), (front + 0.17, belt), (middle + 0.05, belt)),
        part(body, (-0.97, belt), (0.75, belt), (0.98, belt + 0.2), (0.98, 0.25), (-0.97, 0.25)),
        part(shade(body, 0.84), (-0.97, 0.2), (0.98, 0.2), (0.95, floor), (-0.92, floor)),
        part((250, 226, 130), (0.84, belt + 0.12), (0.98, belt + 0.22), (0.98, belt + 0.32), (0.84, belt + 0.3)),
    ]
    for x in (-0.52, 0.54):
        parts.append(Part(oval(x, floor, wheel, wheel), INK))
        parts.append(Part(oval(x, floor, wheel * 0.5, wheel * 0.5), (206, 206, 204)))
    return parts


def fish(rng: np.random.Generator) -> list[Part]:
    """A creased body with stripes, a tail, fins and an eye; it swims to the left."""
    body = paper(rng, "orange yellow")
    fins = paper(rng, "coral yellow", (body,))
    deep, tail = rng.uniform(0.42, 0.62), rng.uniform(0.4, 0.6)
    outline = np.array([(-0.95, 0.05), (-0.55, -0.75 * deep), (-0.05, -deep), (0.45, -0.5 * deep), (0.68, 0.0),
                        (0.45, 0.5 * deep), (-0.05, 0.95 * deep), (-0.6, 0.7 * deep)], np.float32)  # fmt: skip
    parts = [
        part(fins, (0.55, 0), (0.98, -tail), (0.86, 0)),
        part(shade(fins, 0.82), (0.55, 0), (0.98, tail), (0.86, 0)),
        part(shade(fins, 0.92), (-0.25, -0.8 * deep), (0.3, -deep - rng.uniform(0.15, 0.35)), (0.45, -0.45 * deep)),
        *folded(outline, (-0.1, 0.05), body, 0.14),
    ]
    for x in np.linspace(0.02, 0.36, rng.integers(1, 4)):
        reach = deep * (0.8 - x)
        parts.append(part(fins, (x, -reach), (x + 0.1, -0.9 * reach), (x + 0.04, 0.9 * reach), (x - 0.06, reach)))
    parts.append(part(shade(fins, 0.9), (-0.3, 0.12), (0.0, 0.3), (-0.05, 0.08)))
    return [*parts, Part(oval(-0.6, -0.1, 0.11, 0.11), WHITE), Part(oval(-0.61, -0.1, 0.055, 0.055), INK)]


def cup(rng: np.random.Generator) -> list[Part]:
    """A tapering mug with a handle on the right, a band and a drink."""
    glaze = paper(rng, "aqua lime")
    band = paper(rng, "cream plum", (glaze,))
    top, foot, reach = rng.uniform(0.55, 0.66), rng.uniform(0.38, 0.55), rng.uniform(0.88, 0.99)
    rim, bottom, tilt = rng.uniform(-0.85, -0.65), rng.uniform(0.75, 0.92), rng.uniform(0.1, 0.17)
    grip = oval(0.5, 0.0, reach - 0.5, 0.42)[[*range(18, 24), *range(0, 7)]]  # right half, top to bottom
    hollow = oval(0.45, 0.0, reach - 0.62, 0.25)[[*range(18, 24), *range(0, 7)]]
    parts = [Part(np.concatenate([grip, hollow[::-1]]), shade(glaze, 0.78))]

    def strip(colour: tuple[float, float, float], start: float, end: float, left: float, right: float) -> Part:
        upper, lower = (top + (foot - top) * share for share in (start, end))
        y0, y1 = (rim + (bottom - rim) * share for share in (start, end))
        return part(colour, (left * upper, y0), (right * upper, y0), (right * lower, y1), (left * lower, y1))

    for colour, start, end in ((glaze, 0.0, 1.0), (band, 0.4, rng.uniform(0.55, 0.72))):
        parts += [strip(shade(colour, 1.04), start, end, -1, 0.2), strip(shade(colour, 0.88), start, end, 0.2, 1)]
    drink = ((110, 70, 44), (160, 96, 50), (236, 226, 206))[rng.integers(3)]
    parts += [Part(oval(0, rim, top, tilt), shade(glaze, 1.12))]
    return [*parts, Part(oval(0, rim + 0.01, top * 0.86, tilt * 0.72), drink)]


def flower(rng: np.random.Generator) -> list[Part]:
    """Creased petals around a disc, on a stem with two leaves."""
    petal = paper(rng, "pink lilac")
    heart = paper(rng, "yellow", (petal,))
    green = shade((104, 160, 74), rng.uniform(0.85, 1.1))
    count, turn = int(rng.integers(5, 9)), rng.uniform(0, 1)
    y, size, lean = rng.uniform(-0.42, -0.34), rng.uniform(0.54, 0.62), rng.uniform(-0.15, 0.15)
    parts = [
        part(shade(green, 0.85), (-0.06, y), (0.06, y), (lean + 0.07, 0.98), (lean - 0.07, 0.98)),
        part(green, (lean, 0.85), (-0.55, 0.3), (-0.35, 0.68)),
        part(shade(green, 0.8), (lean, 0.85), (0.55, 0.3), (0.35, 0.7)),
    ]
    spread = np.pi / count * rng.uniform(0.95, 1.15)
    for angle in (np.arange(count) + turn) * 2 * np.pi / count:
        tip, left, right = (
            (reach * size * np.cos(angle + aside), y + reach * size * np.sin(angle + aside))
            for reach, aside in ((1.0, 0.0), (0.72, -spread), (0.72, spread))
        )
        parts += [part(shade(petal, 1.05), (0, y), left, tip), part(shade(petal, 0.88), (0, y), right, tip)]
    return [*parts, *folded(oval(0, y, 0.22 * size / 0.58, 0.22 * size / 0.58, 8), (0, y), heart)]


def boat(rng: np.random.Generator) -> list[Part]:
    """A two-coloured hull, a mast with a flag and two sails."""
    hull = paper(rng, "red plum")
    sail = paper(rng, "cream", (hull,)) if rng.random() < 0.3 else shade(WHITE, 0.98)
    deck, keel = rng.uniform(0.38, 0.5), rng.uniform(0.8, 0.92)
    foot = deck - 0.05
    step, high = rng.uniform(-0.12, 0.1), rng.uniform(-0.92, -0.8)
    return [
        part(WOOD, (step - 0.04, high - 0.06), (step + 0.04, high - 0.06), (step + 0.04, deck), (step - 0.04, deck)),
        part(hull, (step, high - 0.06), (step - 0.3, high + 0.04), (step, high + 0.12)),
        part(sail, (step + 0.03, high), (step + 0.03, foot), (0.4, foot)),
        part(shade(sail, 0.86), (step + 0.03, high), (0.4, foot), (rng.uniform(0.68, 0.85), foot)),
        part(shade(sail, 0.93), (step - 0.03, high + 0.22), (step - 0.03, foot), (rng.uniform(-0.8, -0.62), foot)),
        part(hull, (-0.97, deck - 0.1), (0.97, deck - 0.1), (0.8, deck + 0.14), (-0.85, deck + 0.14)),
        part(shade(hull, 0.78), (-0.86, deck + 0.12), (0.81, deck + 0.12), (0.55, keel), (-0.62, keel)),
    ]


def ball(rng: np.random.Generator) -> list[Part]:
    """A beach ball: wedges of two or three papers around a button."""
    first = paper(rng, "violet")
    second = paper(rng, "yellow red", (first,)) if rng.random() < 0.5 else WHITE
    colours = (first, second, *([paper(rng, "red yellow", (first, second))] if rng.random() < 0.5 else []))
    rim = oval(0, 0, 0.95, 0.95, 36)
    hub = (rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3))
    start, wedges = int(rng.integers(36)), 6
    parts = []
    for wedge in range(wedges):
        arc = np.roll(rim, -start, 0)[np.arange(wedge * 6, wedge * 6 + 7) % 36]
        lit = 1 - 0.09 * float(arc.mean(0) @ (0.6, 0.8))
        parts.append(Part(np.concatenate([arc, [hub]]).astype(np.float32), shade(colours[wedge % len(colours)], lit)))
    return [*parts, Part(oval(*hub, 0.15, 0.15), shade(WHITE, 0.96))]


def tree(rng: np.random.Generator) -> list[Part]:
    """A trunk under creased tiers (a fir) or under a creased round crown."""
    greens = ((70, 132, 84), (104, 150, 62), (46, 112, 98), (136, 156, 50), (190, 92, 48))
    leaf = shade(greens[rng.integers(len(greens))], rng.uniform(0.9, 1.1))
    stem = rng.uniform(0.1, 0.16)
    trunk = [part(shade(WOOD, 1.05), (-stem, 0.2), (0, 0.2), (0, 0.98), (-stem * 1.2, 0.98)),
             part(shade(WOOD, 0.85), (0, 0.2), (stem, 0.2), (stem * 1.2, 0.98), (0, 0.98))]  # fmt: skip
    if rng.random() < 0.5:
        crown = oval(0, -0.3, rng.uniform(0.6, 0.75), rng.uniform(0.58, 0.68), int(rng.integers(8, 12)))
        crown *= rng.uniform(0.94, 1.06, crown.shape).astype(np.float32)
        return [*trunk, *folded(crown, (-0.08, -0.4), leaf, 0.2)]
    parts = list(trunk)
    for tier in range(3):
        bottom, top, half = 0.62 - 0.42 * tier, -0.12 - 0.42 * tier, rng.uniform(0.62, 0.74) - 0.14 * tier
        parts += [part(shade(leaf, 1.08), (0, top), (0, bottom), (-half, bottom)),
                  part(shade(leaf, 0.84), (0, top), (half, bottom), (0, bottom))]  # fmt: skip
    return parts


DESIGNS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "house": house, "car": car, "fish": fish, "cup": cup, "flower": flower, "boat": boat, "ball": ball, "tree": tree,
}  # fmt: skip
