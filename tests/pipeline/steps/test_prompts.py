"""Prompts from labels and labels from answers, against loops over pixels."""

import numpy as np

from pipeline.steps.prompts import answered, prompts_of

RANDOM = np.random.default_rng(4)
PROBABILITIES = RANDOM.dirichlet([1, 1, 1], (12, 15)).transpose(2, 0, 1).astype(np.float32)


def naive_parts(best: np.ndarray, plane: int) -> list[set[tuple[int, int]]]:
    """Connected by sides or corners, in the order of their first pixel."""
    left = {(y, x) for y in range(best.shape[0]) for x in range(best.shape[1]) if best[y, x] == plane}
    parts = []
    while left:
        part, waiting = set(), [min(left)]
        while waiting:
            y, x = waiting.pop()
            if (y, x) in left:
                left.remove((y, x))
                part.add((y, x))
                waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        parts.append(part)
    return parts


def test_a_prompt_for_each_large_sure_part() -> None:
    best = PROBABILITIES.argmax(axis=0)
    found = prompts_of(PROBABILITIES, 1, 0.75, 3)
    wanted = []
    for plane in (1, 2):
        for part in naive_parts(best, plane):
            top = max(part, key=lambda place: PROBABILITIES[plane][place])
            if len(part) >= 3 and PROBABILITIES[plane][top] >= 0.75:
                rows, columns = zip(*part)
                box = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
                wanted.append((plane, box, (top[1] + 0.5, top[0] + 0.5), len(part)))
    given = zip(found.planes.tolist(), found.boxes.tolist(), found.points.tolist(), found.parts)
    assert [(plane, tuple(box), tuple(point), int(inside.sum())) for plane, box, point, (_, inside) in given] == wanted
    assert len(wanted) > 2 and len(prompts_of(PROBABILITIES, 1, 1.1, 1)) == 0


def test_good_masks_take_the_place_of_parts() -> None:
    prompts = prompts_of(PROBABILITIES, 1, 0, 4)
    logits = RANDOM.normal(0, 3, (len(prompts), 12, 15)).astype(np.float32)
    qualities = RANDOM.random(len(prompts))
    found = answered(PROBABILITIES, prompts, zip(logits, qualities), 0.5)
    wanted = PROBABILITIES.argmax(axis=0)
    for y in range(12):
        for x in range(15):
            scores = {}
            for number, (plane, (place, inside)) in enumerate(zip(prompts.planes, prompts.parts)):
                part = np.zeros((12, 15), bool)
                part[place] = inside
                if qualities[number] > 0.5 and logits[number, y, x] > 0:
                    score = PROBABILITIES[plane, y, x] / (1 + np.exp(-logits[number, y, x]))
                elif qualities[number] <= 0.5 and part[y, x]:
                    score = PROBABILITIES[plane, y, x]
                else:
                    continue
                scores[plane] = max(score, scores.get(plane, 0))
            if scores:
                wanted[y, x] = max(scores, key=lambda plane: scores[plane])
    assert 0 < (qualities > 0.5).sum() < len(prompts) and np.array_equal(found, wanted)
    assert not np.array_equal(wanted, PROBABILITIES.argmax(axis=0))
