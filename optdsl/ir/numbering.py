"""Value numbering: which values are computed in one way, and which states always are."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

from optdsl.ir.ops import laws_of
from optdsl.ir.program import Operation


def numbered(keys: Iterable[Hashable]) -> list[int]:
    """The keys as numbers, equal ones alike, in the order in which they come."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(key, len(seen)) for key in keys]


def alike(
    operations: Sequence[Operation],
    numbers: dict[Hashable, int],
    state: Callable[[str], Hashable] = str,
) -> list[int]:
    """A number for each value, the same for values that are computed in one way, to the bit.

    Args:
        operations: those of a program.
        numbers: what has a number already, as of another program; it grows.
        state: what a state is known as, by its name; states known as the same are equal.
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
        key = (operation.opcode, name, *(sorted(arguments) if laws.commutative else arguments))
        found.append(numbers.setdefault(key, len(numbers)))
    return found


def coarsest(
    start: Iterable[Hashable],
    after: Callable[[list[int]], Sequence[Hashable]],
    rounds: int | None = None,
) -> list[int] | None:
    """The coarsest classes of states that start equal and stay equal (Moore, 1956).

    Args:
        start: for each state what is equal for those that start equal.
        after: for each state what is equal for those that are equal after a step, given the
            class of each before it.
        rounds: how often classes may be split; beyond that, the result is None.
    """
    classes = numbered(start)
    while rounds is None or rounds > 0:
        split = numbered(zip(classes, after(classes), strict=True))
        if max(split, default=0) == max(classes, default=0):
            return classes
        classes, rounds = split, None if rounds is None else rounds - 1
    return None
