"""Masks cut into objects: the connected parts of each class, and their outlines as polygons.

Image-level labels do not tell two things of one class apart: an object is a part that touches no other of its class.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Point = tuple[int, int]  # (x, y)


@dataclass(frozen=True)
class Object:
    """One connected part of a class; pixels that touch at a corner are connected.

    value  its mask value
    crop   (h, w) bool, its pixels within its box
    left, top  of the box in the image
    """

    value: int
    crop: np.ndarray
    left: int
    top: int
    area: int

    def full(self, shape: tuple[int, ...]) -> np.ndarray:
        """(H, W) uint8, 1 for its pixels, in an image of this shape."""
        mask = np.zeros(shape, np.uint8)
        height, width = self.crop.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.crop
        return mask

    def outline(self) -> np.ndarray:
        """(n, 2) int64 corners (x, y) of one closed polygon through the outermost pixels, which belong to it.

        For readers that fill a polygon with its border (cv2.fillPoly, PIL). Holes are cut out: `_joined`.
        """
        return self._polygon(self.crop.astype(np.uint8))

    def edges(self) -> np.ndarray:
        """(n, 2) int64 corners (x, y) of one closed polygon along the edges of pixels: its area is the object's.

        For readers that take coordinates as places between pixels (COCO). Holes are cut out: `_joined`.
        """
        return self._polygon(np.kron(self.crop, np.ones((2, 2), np.uint8)), doubled=True)

    def _polygon(self, mask: np.ndarray, doubled: bool = False) -> np.ndarray:
        contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        rings = [
            [((x + doubled) // (1 + doubled), (y + doubled) // (1 + doubled)) for x, y in contour[:, 0].tolist()]
            for contour in contours
        ]
        outer = next(ring for ring, entry in zip(rings, tree[0]) if entry[3] < 0)
        holes = [ring for ring, entry in zip(rings, tree[0]) if entry[3] >= 0]
        return _corners(_joined(outer, holes)) + np.array([self.left, self.top])


def objects_of(labels: np.ndarray, values: Collection[int]) -> Iterator[Object]:
    """The objects of an (H, W) uint8 mask, for the classes with these mask values."""
    for value in sorted(set(np.unique(labels).tolist()) & set(values)):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((labels == value).astype(np.uint8), connectivity=8)
        for index in range(1, count):
            left, top, width, height, area = stats[index].tolist()
            crop = parts[top : top + height, left : left + width] == index
            yield Object(int(value), crop, left, top, area)


def _joined(outer: list[Point], holes: Sequence[list[Point]]) -> list[Point]:
    """One closed ring of an outer ring and its holes, all of them without gaps between neighbouring points.

    From the top of each hole a seam leads straight up to the ring, and the same way back: by either rule of filling
    it takes nothing away. What lies above a hole was joined before it.
    """
    points = list(outer)
    after = [*range(1, len(points)), 0]
    nodes = {point: node for node, point in enumerate(points)}
    for hole in sorted(holes, key=lambda ring: min(y for _, y in ring)):
        start = min(range(len(hole)), key=lambda index: hole[index][::-1])
        x, y = hole[start]
        while (x, y) not in nodes:
            y -= 1
        node = nodes[x, y]
        chain = [*hole[start:], *hole[: start + 1], (x, y)]
        first = len(points)
        points += chain
        after += [*range(first + 1, first + len(chain)), after[node]]
        after[node] = first
        for offset, point in enumerate(chain):
            nodes.setdefault(point, first + offset)
    ring, node = [points[0]], after[0]
    while node:
        ring.append(points[node])
        node = after[node]
    return ring


def _corners(ring: list[Point]) -> np.ndarray:
    """The points of a closed ring at which its direction changes; all that is left of a single pixel is one point."""
    points = np.array(ring, np.int64)
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    if not len(points):
        return np.array(ring[:1], np.int64)
    (x, y), (dx, dy) = (points - np.roll(points, 1, axis=0)).T, (np.roll(points, -1, axis=0) - points).T
    return points[(x * dy != y * dx) | (x * dx + y * dy < 0)]
