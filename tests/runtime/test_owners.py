"""Which rank works on which whole tensor."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import optdsl
from optdsl.ir.program import Program
from optdsl.passes.specialize import specialize
from optdsl.runtime.engines.sharded.owners import cost, owners


def program_of(rule: str) -> Program:
    """The program for matrices."""
    compiled: Any = optdsl.load(rule).compiled
    return specialize(compiled.program, 0)


@pytest.mark.parametrize("rule", ["muon", "soap"])
def test_the_cost_of_a_matrix_is_cubic(rule: str) -> None:
    program = program_of(rule)
    assert cost(program, (200, 200)) / cost(program, (100, 100)) == pytest.approx(8, rel=0.02)
    assert cost(program, (200, 0)) == 1


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_no_rank_has_much_more_to_do_than_it_must(ranks: int) -> None:
    """The largest load is at most 4/3 of the smallest possible one (Graham, 1969)."""
    program = program_of("muon")
    shapes = [*itertools.product((64, 48, 7), (96, 33, 5)), *[(768, 768)] * 5]
    costs = [cost(program, shape) for shape in shapes]
    loads = [0.0] * ranks
    for owner, own in zip(owners(program, shapes, ranks), costs, strict=True):
        loads[owner] += own
    assert max(loads) <= 4 / 3 * max(sum(costs) / ranks, max(costs), -(-5 // ranks) * costs[-1])


def test_rows_of_equal_matrices_are_dealt_out_evenly() -> None:
    found = owners(program_of("muon"), [(4, 4)] * 12, 4)
    assert sorted(found) == sorted([*range(4)] * 3)
