"""Whether two programs take the same steps over the reals, by algebra alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from optdsl.algebra.facts import facts
from optdsl.algebra.normal_form import MAX_WORK, Algebra, TooMuchWork
from optdsl.algebra.polynomial import Polynomial
from optdsl.ir.numbering import alike, coarsest
from optdsl.ir.program import Program, Value
from optdsl.prove.axes import aligned

# The class of each state of a program.
Classes = Mapping[str, Hashable]
# Called with the side of a program (0 or 1), some of its values, and the classes of its states;
# gives for each value a form, which is the same for values that are equal.
_Forms = Callable[[int, Sequence[Value], Classes], Sequence[Hashable]]

# States that are not told apart within so many rounds are taken to be different.
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
    renamed = aligned(left, right, work)
    if renamed is None:
        return False
    try:
        return Matching(left, renamed, work).equal
    except TooMuchWork:
        return False


def written_alike(left: Program, right: Program) -> bool:
    """Whether the parameters of two programs are computed by the same operations from equal states.

    That takes no algebra, and is enough for most claims of blends.
    """
    if left.axes or right.axes:
        return False  # their lengths would have to be compared, too
    after = zip((left, right), _as_written((left, right)), strict=True)
    first, second = ([found[v] for v in _compared(program)] for program, found in after)
    return first == second


def _compared(program: Program) -> tuple[Value, ...]:
    """What must be equal of two programs: the parameter, and the point of evaluation if any."""
    return (program.parameter, *program.points)


class Matching:
    """Two programs whose states are divided into classes of equal ones.

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
        self._written = _as_written(self._programs)
        found = _matched(self._programs, self._forms)
        assert found is not None
        self.classes = found

    @property
    def equal(self) -> bool:
        """Whether the new parameters are equal, and the points of evaluation if there are any."""
        # In the second pass, each program knows what the other one shows to be finite.
        for _ in range(2):
            after = [self.forms(i, _compared(p)) for i, p in enumerate(self._programs)]
        return after[0] == after[1]

    def forms(self, side: int, roots: Iterable[Value]) -> list[Polynomial]:
        """The normal forms of values of the left (0) or right (1) program."""
        return self._forms(side, tuple(roots), self.classes[side])

    def _forms(self, side: int, roots: Sequence[Value], classes: Classes) -> list[Polynomial]:
        found = self._algebra.forms(
            self._programs[side],
            roots,
            classes,
            facts=self._facts[side],
            written=self._written[side],
        )
        return [found[value] for value in roots]


def _as_written(programs: Sequence[Program]) -> list[list[int]]:
    """For each program, a number for each of its values.

    Values with equal numbers are computed by the same operations from equal states.
    """
    numbers: dict[Hashable, int] = {}

    def written(side: int, classes: Classes) -> list[int]:
        operations = programs[side].operations
        return alike(operations, numbers, classes.__getitem__, lambda name: None)

    def forms(side: int, roots: Sequence[Value], classes: Classes) -> list[int]:
        found = written(side, classes)
        return [found[value] for value in roots]

    classes = _matched(programs, forms, _ROUNDS) or _distinct(programs)
    return [written(side, known) for side, known in enumerate(classes)]


def _distinct(programs: Sequence[Program]) -> list[Classes]:
    """Classes of one state each."""
    return [{s.name: ("state", i, s.name) for s in p.states} for i, p in enumerate(programs)]


def _matched(
    programs: Sequence[Program], forms: _Forms, rounds: int | None = None
) -> list[Classes] | None:
    """The coarsest classes of states that start and stay equal; None if that takes more rounds."""
    # An input is what is given under its name, and equal to no other state.
    types = [(s.type, s.name if s.input else "") for p in programs for s in p.states]
    start = _all_forms(forms, [p.initial_values for p in programs], _distinct(programs))

    def by_name(numbers: Sequence[int]) -> list[Classes]:
        rest = iter(numbers)
        return [{s.name: next(rest) for s in p.states} for p in programs]

    def after(numbers: list[int]) -> list[Hashable]:
        return _all_forms(forms, [[s.next for s in p.states] for p in programs], by_name(numbers))

    found = coarsest(zip(types, start, strict=True), after, rounds)
    return None if found is None else by_name(found)


def _all_forms(
    forms: _Forms, roots: Sequence[Sequence[Value]], classes: Sequence[Classes]
) -> list[Hashable]:
    """The forms of values of both programs, in one list."""
    both = enumerate(zip(roots, classes, strict=True))
    return [form for side, (values, known) in both for form in forms(side, values, known)]
