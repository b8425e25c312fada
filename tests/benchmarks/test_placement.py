"""Labels of a crowded picture."""

from itertools import combinations

import pytest

from benchmarks.placement import Label, overlap, place

FRAME = (0.0, 0.0, 500.0, 400.0)


def test_overlap():
    assert overlap((0, 0, 2, 2), (1, 1, 3, 3)) == 1
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0


@pytest.mark.parametrize("distance", [0.0, 2.0, 9.0])
def test_labels_keep_clear_of_each_other(distance):
    labels = [Label(200, 100 + distance * k, 70, 11) for k in range(7)]
    boxes = [label.box(spot) for label, spot in zip(labels, place(labels, FRAME), strict=True)]
    assert not any(overlap(a, b) for a, b in combinations(boxes, 2))
    assert all(overlap(box, FRAME) == pytest.approx(70 * 11) for box in boxes)


def test_a_label_alone_is_beside_its_point():
    (spot,) = place([Label(200, 100, 70, 11)], FRAME)
    assert spot[1] == 100
    assert 200 < spot[0] < 215
    (spot,) = place([Label(480, 100, 70, 11)], FRAME)
    assert spot[0] + 70 < 480
