"""Loops that are cut up: every value is there where it is read, and nothing is computed in vain."""

from __future__ import annotations

import pytest

from optdsl.backends.base import needed_kernels
from optdsl.backends.c.functions import Functions
from optdsl.backends.c.pieces import cut
from optdsl.ir.program import Value
from optdsl.plan import plans
from optdsl.schedule import schedule

from . import rules


@pytest.mark.parametrize("size", [4, 9, 20, 24])
@pytest.mark.parametrize("rule", ["mada", "adan"])
def test_rows_hold_what_later_pieces_read_of_them(rule: str, size: int) -> None:
    """The pieces are followed one after the other, with the value of each row and each buffer."""
    again = 0
    for plan in plans(rules.differentiated(rule), False):
        for kernel in needed_kernels(schedule(plan), "overlapped"):
            made = Functions(kernel, "float32")
            values = made.finite or made.values
            (loop,) = values.kernel.loops
            stored = [r for r in values.kernel.results if r.name in {s.name for s in kernel.stored}]
            results = [r.value for r in stored]
            homes = [values.kernel.home(r) for r in stored]
            leaves = {values.buffer_of(v): v for v in loop.body if values.given(v)}
            kept = [leaves.get(home) for home in homes]
            exact = [k for k, v in enumerate(results) if not values.given(v)]
            pieces, height = cut(values, loop.body, results, kept, exact, size)

            rows: dict[int, Value] = {}
            memory = dict(leaves)
            inside = set(loop.body)
            for piece in pieces:
                assert all(memory[values.buffer_of(v)] == v for v in piece.leaves)
                assert all(rows[row] == v for v, row in piece.fetched.items())
                assert all(memory[homes[k]] == v for v, k in piece.reread.items())
                have = {*piece.leaves, *piece.fetched, *piece.reread}
                for k in piece.kept:
                    rows[k] = memory[homes[k]]
                for value in piece.computed:
                    tensors = inside.intersection(values.operation(value).arguments)
                    assert {v for v in tensors if not values.inline(v)} <= have
                    have.add(value)
                read = {a for v in piece.computed for a in values.operation(v).arguments}
                out = inside.intersection(v for _, v in (*piece.stored, *piece.written))
                inlined = {v for v in inside if values.inline(v)}
                read |= {a for v in inlined for a in values.operation(v).arguments}
                assert set(piece.computed) <= read | out
                assert out <= have
                memory |= {homes[k]: v for k, v in piece.written}
                rows |= dict(piece.stored)
                assert all(row < height for row in rows)
            assert [memory[home] for home in homes] == results
            computed = [v for piece in pieces for v in piece.computed]
            again += len(computed) - len(set(computed))
    if rule == "mada":
        assert again or size > 9
