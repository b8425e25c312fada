"""Whether two programs take the same steps over the reals, by algebra alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from optdsl.algebra.normal_form import Algebra
from optdsl.algebra.polynomial import Polynomial
from optdsl.ir.program import Program, Value

# The class of each state, in either program.
Classes = dict[str, int]


def equal(left: Program, right: Program) -> bool:
    """Whether the parameters of two programs are equal after every step, from equal ones.

    True is a proof over the reals: states are matched by the coarsest partition into states that
    start equal and stay equal (Moore, 1956), and the new parameters have one normal form. False
    says that no proof was found.
    """
    algebra, (first, second) = matched(left, right)
    after = algebra.forms(left, (left.parameter,), first)[left.parameter]
    return after == algebra.forms(right, (right.parameter,), second)[right.parameter]


def matched(left: Program, right: Program) -> tuple[Algebra, tuple[Classes, Classes]]:
    """The states of two programs in classes of equal ones, and the algebra that compared them."""
    algebra = Algebra()
    programs = (left, right)
    keys: list[Hashable] = [
        (state.type, form)
        for program in programs
        for state, form in zip(
            program.states, _forms(algebra, program, program.initial_values, None), strict=True
        )
    ]
    numbers = _numbered(keys)
    while True:
        classes = _by_name(programs, numbers)
        keys = [
            form
            for program, known in zip(programs, classes, strict=True)
            for form in _forms(algebra, program, [s.next for s in program.states], known)
        ]
        split = _numbered(list(zip(numbers, keys, strict=True)))
        if len(set(split)) == len(set(numbers)):
            return algebra, classes
        numbers = split


def _forms(
    algebra: Algebra, program: Program, roots: Iterable[Value], classes: Classes | None
) -> list[Polynomial]:
    wanted = tuple(roots)
    found = algebra.forms(program, wanted, classes)
    return [found[value] for value in wanted]


def _numbered(keys: list[Hashable]) -> list[int]:
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


def _by_name(programs: tuple[Program, Program], numbers: list[int]) -> tuple[Classes, Classes]:
    left, right = programs
    cut = len(left.states)
    return (
        dict(zip((s.name for s in left.states), numbers[:cut], strict=True)),
        dict(zip((s.name for s in right.states), numbers[cut:], strict=True)),
    )
