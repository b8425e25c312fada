"""Updates of coefficients on the host.

The program of `optdsl.learning` runs on Python floats. The memory of a coefficient's rule is stored
under flat keys of the parameter groups, which checkpoints of every kind preserve.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from optdsl.backends.base import SourceModule
from optdsl.learning import TAKEN, Block, measured_key, square_keys
from optdsl.runtime.build.python_modules import build

Group = MutableMapping[str, Any]


class CoefficientUpdate:
    """Moves a block of coefficients by their hyper-gradients.

    Attributes:
        block: the coefficients.
    """

    def __init__(self, block: Block, source: SourceModule) -> None:
        """Build the program that was emitted for a block of coefficients."""
        self.block = block
        self._rule = build(source)

    def update(self, groups: Sequence[Group], sums: Mapping[str, float], steps: int) -> None:
        """Move the coefficients in every group.

        Args:
            groups: the parameter groups, which share the coefficients.
            sums: the measured hyper-gradients by coefficient, and the squared norms for cosines.
            steps: the number of steps before this one; `Learned.after` is compared with it.

        If a hyper-gradient is missing, the others are recorded and nothing moves; see
        `optdsl.learning.Block.program` for those that are not finite.
        """
        coefficients = self.block.coefficients
        entries: dict[str, float]
        if all(c.name in sums for c in coefficients):
            inputs = {measured_key(c.name): sums[c.name] for c in coefficients}
            inputs |= {key: sums[key] for c in coefficients for key in square_keys(c.name)
                       if c.learned.signal == "cosine"}  # fmt: skip
            state = {key: float(groups[0][key]) for key in self._rule.step.entry.states}
            found = self._rule.step(0.0, 0.0, state, inputs | {TAKEN: float(steps)}, 1.0)
            # Emitted literals may be Python integers, and counts are integers.
            counts = {c.step_key for c in coefficients}
            entries = {key: int(new) if key in counts else float(new)
                       for key, new in found.items() if key != "theta"}  # fmt: skip
        else:
            entries = {c.hypergradient_key: sums[c.name] for c in coefficients if c.name in sums}
        for group in groups:
            group.update(entries)
