"""Axes that two programs declare: which of them are one and the same."""

from __future__ import annotations

from optdsl.algebra.normal_form import MAX_WORK, Algebra, TooMuchWork
from optdsl.algebra.polynomial import Polynomial
from optdsl.ir.lengths import renamed_axes
from optdsl.ir.program import Program


def aligned(left: Program, right: Program, work: int = MAX_WORK) -> Program | None:
    """The right program with the left one's names for axes of equal lengths.

    Args:
        left: a program.
        right: another one, over the same hyperparameters.
        work: how large normal forms may become together before the search is given up.

    Returns:
        None where axes of one name are not shown to have one length.
    """
    if not left.axes or not right.axes:
        return right
    algebra = Algebra(work, doubles=True)
    try:
        mine, theirs = (_lengths(p, algebra) for p in (left, right))
    except TooMuchWork:
        return None
    free = {name: form for name, form in mine.items() if name not in theirs}
    names: dict[str, str] = {}
    for name, form in theirs.items():
        if name in mine and mine[name] != form:
            return None
        equal = next((other for other, own in free.items() if own == form), None)
        if name not in mine and equal is not None:
            names[name] = equal
            del free[equal]
    return renamed_axes(right, names)


def _lengths(program: Program, algebra: Algebra) -> dict[str, Polynomial]:
    forms = algebra.forms(program, [length for _, length in program.axes])
    return {name: forms[length] for name, length in program.axes}
