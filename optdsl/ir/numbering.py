"""Value numbering: which values are computed in the same way, and which states stay equal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence

from optdsl.ir.laws import Stage
from optdsl.ir.ops import laws_of
from optdsl.ir.program import Operation


def numbered(keys: Iterable[Hashable]) -> list[int]:
    """A number for each key, the same for equal keys, counted in the order of the keys."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


def alike(
    operations: Sequence[Operation],
    numbers: dict[Hashable, int],
    state: Callable[[str], Hashable] = str,
    total: Callable[[str], Hashable | None] | None = None,
) -> list[int]:
    """A number for each value; values with equal numbers have the same bits.

    Args:
        operations: the operations of a program.
        numbers: numbers that are given already, for instance to another program; others are added.
        state: gives a key for the name of a state; states with equal keys are equal.
        total: the same for sums over all tensors; None where those of equal values are equal.
            Without it, they are equal if they have one name, too.
    """
    found: list[int] = []
    for operation in operations:
        laws, arguments = laws_of(operation), [found[a] for a in operation.arguments]
        if laws.alias:
            found += arguments
            continue
        name: Hashable = repr(operation.attribute)
        if operation.opcode == "state":
            name = state(str(operation.attribute))
        elif total is not None and laws.stage is Stage.TOTAL:
            name = total(str(operation.attribute))
            arguments = arguments if name is None else []
        # Identity matrices of different axes are one operation with different types.
        kind = str(operation.type)
        key = (
            operation.opcode,
            name,
            kind,
            *(sorted(arguments) if laws.commutative else arguments),
        )
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def coarsest(
    start: Iterable[Hashable],
    after: Callable[[list[int]], Sequence[Hashable]],
    rounds: int | None = None,
) -> list[int] | None:
    """The coarsest classes of states that start equal and stay equal (Moore, 1956).

    Args:
        start: a key for each state; states with equal keys start equal.
        after: gives a key for each state, from the class of each state before a step; states with
            equal keys are equal after the step if the states of each class are equal before it.
        rounds: how often classes may be split; beyond that, the result is None.
    """
    classes = numbered(start)
    for _ in itertools.count() if rounds is None else range(rounds):
        split = numbered(zip(classes, after(classes), strict=True))
        if max(split, default=0) == max(classes, default=0):
            return classes
        classes = split
    return None
