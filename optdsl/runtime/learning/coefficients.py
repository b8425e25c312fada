"""Updates of coefficients on the host.

The program of `optdsl.learning` runs on Python floats. The memory of a coefficient's rule is stored
under flat keys of the parameter groups, which checkpoints of every kind preserve.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from operator import itemgetter
from typing import Any

from optdsl.backends.base import SourceModule
from optdsl.learning import TAKEN, Block, measured_key
from optdsl.runtime.build.python_modules import function

Group = MutableMapping[str, Any]


class CoefficientUpdate:
    """Moves a block of coefficients by their hyper-gradients.

    Attributes:
        block: the coefficients.
    """

    def __init__(self, block: Block, source: SourceModule) -> None:
        """Build the program that was emitted for a block of coefficients."""
        self.block = block
        step = function(source, "step")
        self._call = step.call
        # Of one key it would give no tuple; but there are a value, a count, and more.
        self._before = itemgetter(*step.entry.states)
        names = [c.name for c in block.coefficients]
        # Under which keywords it takes what; squared norms have the same names in sums.
        measured = {measured_key(name): name for name in names}
        keywords = dict(zip(step.entry.keywords, step.entry.hypers, strict=True))
        self._taken = [keyword for keyword, name in keywords.items() if name == TAKEN]
        self._inputs = [
            (keyword, measured.get(name, name))
            for keyword, name in keywords.items()
            if name != TAKEN
        ]
        # Emitted literals may be Python integers, and counts are integers.
        counts = {c.step_key for c in block.coefficients}
        self._results = step.entry.results[1:]
        self._counts = [key for key in self._results if key in counts]
        self._recorded = {
            name: c.hypergradient_key for name, c in zip(names, block.coefficients, strict=True)
        }

    def update(self, groups: Sequence[Group], sums: Mapping[str, float], steps: int) -> None:
        """Move the coefficients in every group.

        Args:
            groups: the parameter groups, which share the coefficients.
            sums: the measured hyper-gradients by coefficient, and the squared norms that
                their signals need.
            steps: the number of steps before this one; `Learned.after` is compared with it.

        If a hyper-gradient is missing, the others are recorded and nothing moves; see
        `optdsl.learning.Block.program` for those that are not finite.
        """
        entries: dict[str, float]
        if self._recorded.keys() <= sums.keys():
            keywords = {keyword: sums[name] for keyword, name in self._inputs}
            for keyword in self._taken:
                keywords[keyword] = float(steps)
            before = map(float, self._before(groups[0]))
            _, *after = self._call(0.0, 0.0, *before, **keywords)
            entries = dict(zip(self._results, map(float, after), strict=True))
            for key in self._counts:
                entries[key] = int(entries[key])
        else:
            entries = {key: sums[name] for name, key in self._recorded.items() if name in sums}
        for group in groups:
            group.update(entries)
