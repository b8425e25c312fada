"""Where labels go in a crowded picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MARKER = 4.5  # half the width of a marker, in points
GAP = 7.0  # from a point to a label at its side
ROWS = 9  # heights that are tried above and below a point

Box = tuple[float, float, float, float]  # left, bottom, right, top


@dataclass(frozen=True)
class Label:
    """A point and the size of its label, all in points."""

    x: float
    y: float
    width: float
    height: float

    def candidates(self) -> list[tuple[float, float]]:
        """Places for the left end of the label's middle line, the best first."""
        heights = sorted((k * self.height / 2 for k in range(-ROWS, ROWS + 1)), key=abs)
        sides = (GAP, -GAP - self.width, 2.5 * GAP, -2.5 * GAP - self.width)
        places = [(dx, dy) for dy in heights for dx in sides]
        # A label that is not at the height of its point is further away than it seems.
        places.sort(key=lambda p: 1.5 * abs(p[1]) + (p[0] if p[0] > 0 else 6 - p[0] - self.width))
        return [(self.x + dx, self.y + dy) for dx, dy in places]

    def box(self, place: tuple[float, float]) -> Box:
        """What the label covers at a place."""
        x, y = place
        return x, y - self.height / 2, x + self.width, y + self.height / 2


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def place(labels: Sequence[Label], frame: Box) -> list[tuple[float, float]]:
    """Places that cover neither another label nor a point, as far as there are such.

    Args:
        labels: each takes the best place that is left, those with close neighbours first.
        frame: what labels have to stay within.
    """
    taken = [(p.x - MARKER, p.y - MARKER, p.x + MARKER, p.y + MARKER) for p in labels]

    def crowd(index: int) -> float:
        own = labels[index]
        return -sum(
            1 / (1 + abs(own.y - p.y)) for p in labels if p is not own and abs(own.x - p.x) < 1
        )

    def covered(box: Box) -> float:
        area = (box[2] - box[0]) * (box[3] - box[1])
        return area - overlap(box, frame) + sum(overlap(box, other) for other in taken)

    found: dict[int, tuple[float, float]] = {}
    for index in sorted(range(len(labels)), key=crowd):
        label = labels[index]
        best = min(label.candidates(), key=lambda spot: covered(label.box(spot)))
        found[index] = best
        taken.append(label.box(best))
    return [found[index] for index in range(len(labels))]
