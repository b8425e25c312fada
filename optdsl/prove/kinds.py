"""Whether two rules take the same steps for every kind of tensors, with sums over all of them.

What is proved kind by kind may depend on sums over the tensors of all kinds. Two such sums are
equal if what every kind adds to them is, which may use other sums itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from optdsl.algebra.facts import facts
from optdsl.algebra.fix import fixed_further, partly_fixed
from optdsl.algebra.normal_form import MAX_WORK, Algebra, TooMuchWork
from optdsl.ir.laws import Stage
from optdsl.ir.numbering import alike, coarsest
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Tangent, Value
from optdsl.prove.axes import aligned

# A program for each side of a claim.
Pair = tuple[Program, Program]
# A key for each state of each program, and for each total of each side.
_Keys = tuple[list[dict[str, Hashable]], list[dict[str, Hashable]]]
# Gives a key for each of some values of a program, which is the same for values that are equal.
_Of = Callable[[int, Sequence[Value], _Keys], list[Hashable]]
_ROUNDS = 24


def totals_of(program: Program) -> dict[str, Value]:
    """The sums over all tensors, by their names."""
    named = enumerate(program.operations)
    return {str(o.attribute): Value(v) for v, o in named if TABLE[o.opcode].stage is Stage.TOTAL}


def with_totals(program: Program) -> Program:
    """A rule with its sums over all tensors as results, so that every kind keeps all of them.

    What a kind does not read still counts for those that read it.
    """
    found = totals_of(program).items()
    return replace(program, tangents=tuple(Tangent(name, value) for name, value in found))


def fixed(program: Program, settings: Mapping[str, float]) -> Program:
    """A program of one kind, made by `with_totals`, at some settings."""
    return replace(fixed_further(partly_fixed(program, settings)), tangents=())


def equal_kinds(pairs: Sequence[Pair], work: int = MAX_WORK) -> list[bool]:
    """For each kind, whether the parameters of its two programs are equal after every step.

    As `optdsl.prove.equality.equal`, for all kinds together: the coarsest classes of states, and of
    sums over all tensors, that are equal if those of one class are. A sum does not depend on
    itself within a step, so that this is an induction for sums, too.

    Args:
        pairs: the programs of each kind, made by `fixed`.
        work: how large normal forms may become together before the search is given up.
    """
    both: list[Pair] = []
    for left, right in pairs:
        renamed = aligned(left, right, work)
        if renamed is None:
            return [False] * len(pairs)
        both.append((left, renamed))
    try:
        return _Kinds(both, work).equal()
    except TooMuchWork:
        return [False] * len(pairs)


class _Kinds:
    def __init__(self, pairs: Sequence[Pair], work: int) -> None:
        self._programs = [p for pair in pairs for p in pair]
        self._algebra = Algebra(work, doubles=True)
        self._facts = [facts(p) for p in self._programs]
        self._totals = [totals_of(p) for p in self._programs]
        # The names of the totals of each side, of all kinds.
        self._names = [
            list(dict.fromkeys(n for found in self._totals[side::2] for n in found))
            for side in (0, 1)
        ]

    def equal(self) -> list[bool]:
        """See `equal_kinds`."""
        numbers: dict[Hashable, int] = {}
        keys = self._matched(lambda at, roots, keys: self._numbered(at, roots, keys, numbers))
        self._written = [self._alike(at, keys, numbers) for at in range(len(self._programs))]
        keys = self._matched(self._forms)
        # In the second pass, each program knows what the other one shows to be finite.
        for _ in range(2):
            after = [
                self._forms(at, [p.parameter, *p.points], keys)
                for at, p in enumerate(self._programs)
            ]
        return [x == y for x, y in zip(after[0::2], after[1::2], strict=True)]

    def _forms(self, at: int, roots: Sequence[Value], keys: _Keys) -> list[Hashable]:
        states, totals = keys
        found = self._algebra.forms(
            self._programs[at],
            roots,
            states[at],
            facts=self._facts[at],
            written=self._written[at],
            totals=totals[at % 2],
        )
        return [found[value] for value in roots]

    def _alike(self, at: int, keys: _Keys, numbers: dict[Hashable, int]) -> list[int]:
        states, totals = keys[0][at].__getitem__, keys[1][at % 2].__getitem__
        return alike(self._programs[at].operations, numbers, states, totals)

    def _numbered(
        self, at: int, roots: Sequence[Value], keys: _Keys, numbers: dict[Hashable, int]
    ) -> list[Hashable]:
        found = self._alike(at, keys, numbers)
        return [found[value] for value in roots]

    def _matched(self, forms: _Of) -> _Keys:
        """The coarsest classes, where `forms` tells which values are equal."""
        # States before the first step are told apart by nothing but their initial values.
        alone: _Keys = (
            [{s.name: (at, s.name) for s in p.states} for at, p in enumerate(self._programs)],
            [{name: ("total", side, name) for name in own} for side, own in enumerate(self._names)],
        )
        start: list[Hashable] = []
        for at, program in enumerate(self._programs):
            first = forms(at, program.initial_values, alone)
            for state, form in zip(program.states, first, strict=True):
                start.append((at // 2, state.type, state.name if state.input else "", form))
        start += ["total" for own in self._names for _ in own]

        def after(numbers: list[int]) -> list[Hashable]:
            keys, found = self._by_name(numbers), list[Hashable]()
            for at, program in enumerate(self._programs):
                found += forms(at, [s.next for s in program.states], keys)
            for side, names in enumerate(self._names):
                found += (self._summed(side, name, keys, forms) for name in names)
            return found

        found = coarsest(start, after, _ROUNDS)
        return alone if found is None else self._by_name(found)

    def _by_name(self, numbers: Sequence[int]) -> _Keys:
        rest = iter(numbers)
        return (
            [{s.name: next(rest) for s in p.states} for p in self._programs],
            [{name: next(rest) for name in own} for own in self._names],
        )

    def _summed(self, side: int, name: str, keys: _Keys, forms: _Of) -> Hashable:
        """What each kind adds to a total: its type and its form."""
        found: list[Hashable] = []
        for at in range(side, len(self._programs), 2):
            program, value = self._programs[at], self._totals[at].get(name)
            if value is None:
                found.append(None)
                continue
            total = program.operations[value]
            (argument,) = total.arguments
            found.append((total.opcode, program.type(argument), *forms(at, [argument], keys)))
        return tuple(found)
