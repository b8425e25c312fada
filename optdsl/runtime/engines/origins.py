"""The origins of random numbers, in memory, as emitted C reads them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from optdsl.ir.program import Program
from optdsl.runtime.core.draws import Draws
from optdsl.runtime.core.tasks import ParameterTask


@dataclass
class Origins:
    """The origins of the tensors of a call, kept until those of another call are asked for.

    Attributes:
        drawn: what drew, for each tensor, at the last call.
        numbers: one origin after the other.
        addresses: where each begins.
    """

    drawn: list[Draws | None] = field(default_factory=list)
    numbers: array[int] = field(default_factory=lambda: array("q"))
    addresses: list[int] = field(default_factory=list)

    def of(self, works: Sequence[ParameterTask], program: Program) -> list[int]:
        """The addresses of the origins of works.

        Args:
            works: the works.
            program: the rule, for the message.

        Raises:
            RuntimeError: where it is not known which tensor of which optimizer one is.
        """
        drawn = [work.draws for work in works]
        # The shapes of shards are not told by their draws.
        if drawn == self.drawn and not any(d.whole for d in drawn if d is not None):
            return self.addresses
        numbers, begins = array("q"), []
        for work in works:
            if work.draws is None:
                raise RuntimeError(
                    f"{program.name}: random numbers are drawn, and it is not known for which "
                    f"tensor of which optimizer"
                )
            begins.append(len(numbers))
            numbers.extend(_origin(work.draws, tuple(work.parameter.shape)))
        start, width = numbers.buffer_info()[0], numbers.itemsize
        self.drawn, self.numbers = drawn, numbers
        self.addresses = [start + width * begin for begin in begins]
        return self.addresses


def _origin(draws: Draws, shape: tuple[int, ...]) -> list[int]:
    """The seed and the number of a tensor, and where its elements are in the whole tensor.

    That is the index of the first one, and the lengths and strides of the dimensions of a shard
    whose elements do not follow one another there; dimensions that do are one.
    """
    signed = draws.seed - 2**64 if draws.seed >= 2**63 else draws.seed
    if draws.whole is None:
        return [signed, draws.tensor, 0, 0]
    strides = [math.prod(draws.whole[n + 1 :]) for n in range(len(shape))]
    first = sum(begin * stride for begin, stride in zip(draws.offset, strides, strict=True))
    found: list[list[int]] = []
    for length, stride in zip(shape, strides, strict=True):
        if length == 1:
            continue
        if found and found[-1][1] == length * stride:
            found[-1] = [found[-1][0] * length, stride]
        else:
            found.append([length, stride])
    if not found or (len(found) == 1 and found[0][1] == 1):
        return [signed, draws.tensor, first, 0]
    if found[-1][1] != 1:
        found.append([1, 1])
    return [signed, draws.tensor, first, len(found), *(n for pair in found for n in pair)]
