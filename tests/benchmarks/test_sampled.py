"""How far trajectories are apart; nothing is trained."""

import numpy as np
import pytest

from benchmarks.sampled import COEFFICIENTS, Difference, difference, draw, table


def test_differences_are_means_over_steps():
    every = np.array([[0.0, 0.0], [1.0, 3.0], [2.0, 0.0]])
    sampled = every + np.array([[0.5, -0.5], [0.0, 0.0], [0.0, 2.0]])
    # Pairs of seeds are 2 (of 1 and 3), 1 (of 2 and 0) and 2 (of 1 and 3) apart.
    assert difference(every, sampled) == Difference(pytest.approx(0.5), pytest.approx(5 / 3))


def test_trajectories_of_other_seeds_are_not_compared():
    with pytest.raises(ValueError, match="same two or more seeds"):
        difference(np.zeros((3, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="same two or more seeds"):
        difference(np.zeros((1, 2)), np.zeros((1, 2)))


def test_the_table_and_the_picture(tmp_path):
    told = table({"c": Difference(0.01, 0.04)})
    assert told.splitlines()[-1] == "| `c` | 0.0100 | 0.0400 | 0.25 |"
    values = dict.fromkeys(COEFFICIENTS, np.zeros((2, 3)))
    draw(values, values, tmp_path / "sampled.png")
    assert (tmp_path / "sampled.png").stat().st_size > 0
