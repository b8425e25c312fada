"""What memory and arithmetic cost on a machine: the ratio decides what is worth keeping."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optdsl.options import OptionError

BALANCE_VARIABLE = "OPTDSL_BALANCE"


@dataclass(frozen=True)
class Balance:
    """The time that a kernel takes, with all threads that it runs on.

    Attributes:
        byte: nanoseconds to read or write one byte of memory.
        operation: nanoseconds for one addition of one element; see `optdsl.ir.laws.Laws.price`.
    """

    byte: float
    operation: float

    def nanoseconds(self, moved: float, operations: float) -> float:
        """The time for one element.

        It is a sum: a learned step computes hundreds of operations for each element, more than the
        window in which a core looks ahead, and waits for memory between them.

        Args:
            moved: bytes that are read and written for it.
            operations: what is computed for it, in additions.
        """
        return moved * self.byte + operations * self.operation


# Two cores of a server's processor with vectors of 256 bits, for where nothing can be measured.
PROCESSOR = Balance(byte=0.03, operation=0.006)
# A GPU of a data centre: rates of the H200's data sheet, 4.8 TB/s and 60 Tflop/s in float32.
DEVICE = Balance(byte=0.0002, operation=0.00003)


def parsed(text: str) -> Balance:
    """The balance that the environment variable OPTDSL_BALANCE gives.

    Args:
        text: two positive numbers with a comma between them: nanoseconds per byte, and
            nanoseconds per operation.

    Raises:
        OptionError: for anything else.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or not all(math.isfinite(x) and x > 0 for x in numbers):
        raise OptionError(
            f"{BALANCE_VARIABLE}={text!r} should be nanoseconds per byte and per operation, two "
            f"positive numbers such as 0.03,0.006; without it, the machine is measured"
        )
    return Balance(*numbers)
