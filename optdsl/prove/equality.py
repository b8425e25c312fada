"""Whether two programs take the same steps over the reals, by algebra alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from optdsl.algebra.facts import facts
from optdsl.algebra.normal_form import MAX_WORK, Algebra, TooMuchWork
from optdsl.algebra.polynomial import Polynomial
from optdsl.ir.numbering import alike, coarsest
from optdsl.ir.program import Program, Value

# The class of each state, in either program.
Classes = dict[str, int]
# The forms of some values of a program, with its states in classes.
_Forms = Callable[[int, Sequence[Value], Classes | None], Sequence[Hashable]]

# States that take more rounds than this to tell apart are taken for different.
_ROUNDS = 24


def equal(left: Program, right: Program, work: int = MAX_WORK) -> bool:
    """Whether the parameters of two programs are equal after every step, from equal ones.

    True is a proof over the reals, for finite gradients and as long as parameters are finite:
    states are matched by the coarsest partition into states that start equal and stay equal
    (Moore, 1956), and the new parameters have one normal form. False says that no proof was found.

    Args:
        left: a program.
        right: another one.
        work: how large normal forms may become together before the search is given up.
    """
    try:
        return Matching(left, right, work).equal
    except TooMuchWork:
        return False


class Matching:
    """Two programs with their states in classes of equal ones.

    Attributes:
        classes: the class of each state, for the left and for the right program.
    """

    def __init__(self, left: Program, right: Program, work: int = MAX_WORK) -> None:
        """Match the states.

        Raises:
            TooMuchWork: when the normal forms outgrow the limit.
        """
        self._programs = (left, right)
        self._algebra = Algebra(work, doubles=True)
        self._facts = tuple(facts(program) for program in self._programs)
        self._written = self._as_written()
        found = _matched(self._programs, self._compared)
        assert found is not None
        self.classes = found

    @property
    def equal(self) -> bool:
        """Whether the new parameters are equal."""
        # What one program is known to keep finite is finite in the other one, too, once compared.
        for _ in range(2):
            after = [self.forms(i, (p.parameter,))[0] for i, p in enumerate(self._programs)]
        return after[0] == after[1]

    def forms(self, side: int, roots: Iterable[Value]) -> list[Polynomial]:
        """The normal forms of values of the left (0) or right (1) program."""
        return self._compared(side, tuple(roots), self.classes[side])

    def _compared(
        self, side: int, roots: Sequence[Value], classes: Classes | None
    ) -> list[Polynomial]:
        program = self._programs[side]
        known = {s.name: ("first", side, s.name) for s in program.states}
        found = self._algebra.forms(
            program,
            roots,
            known if classes is None else classes,
            facts=self._facts[side],
            written=self._written[side],
        )
        return [found[value] for value in roots]

    def _as_written(self) -> tuple[list[int], list[int]]:
        """A number for each value; equal ones are computed in one way, from equal states."""
        numbers: dict[Hashable, int] = {}

        def written(side: int, classes: Classes | None) -> list[int]:
            def state(name: str) -> Hashable:
                return (name, side) if classes is None else classes[name]

            return alike(self._programs[side].operations, numbers, state)

        def forms(side: int, roots: Sequence[Value], classes: Classes | None) -> list[int]:
            found = written(side, classes)
            return [found[value] for value in roots]

        classes = _matched(self._programs, forms, _ROUNDS) or (None, None)
        return written(0, classes[0]), written(1, classes[1])


def _matched(
    programs: tuple[Program, Program], forms: _Forms, rounds: int | None = None
) -> tuple[Classes, Classes] | None:
    """The coarsest classes of states that start and stay equal; None beyond some rounds."""
    sides = list(enumerate(programs))
    states = [(side, s.name) for side, p in sides for s in p.states]
    types = [s.type for p in programs for s in p.states]
    start = [form for side, p in sides for form in forms(side, p.initial_values, None)]

    def by_name(numbers: list[int]) -> tuple[Classes, Classes]:
        known: tuple[Classes, Classes] = ({}, {})
        for (side, name), number in zip(states, numbers, strict=True):
            known[side][name] = number
        return known

    def after(numbers: list[int]) -> list[Hashable]:
        known = by_name(numbers)
        nexts = [[s.next for s in p.states] for p in programs]
        return [form for side, _ in sides for form in forms(side, nexts[side], known[side])]

    found = coarsest(zip(types, start, strict=True), after, rounds)
    return None if found is None else by_name(found)
