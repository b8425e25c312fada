"""Coefficients that learn on the host: hyper-gradient in, coefficient out.

`optdsl.learning` says what happens; here its program runs on Python floats. What a coefficient
remembers lies in flat keys of the parameter groups, because checkpoints of every kind carry those.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import Any

from optdsl.backends.eager import EagerBackend
from optdsl.backends.text import parse_module, print_module
from optdsl.ir.text import print_program
from optdsl.learning import TAKEN, Block, measured_key, square_keys
from optdsl.plan import Plan
from optdsl.runtime.build.artifact_cache import noted
from optdsl.runtime.build.python_modules import Rule, build
from optdsl.schedule import schedule

Group = MutableMapping[str, Any]


class CoefficientUpdate:
    """Moves coefficients by their hyper-gradients.

    Attributes:
        block: the coefficients, which move as one.
    """

    def __init__(self, block: Block) -> None:
        """Build nothing yet."""
        self.block = block

    @cached_property
    def _rule(self) -> Rule:
        def make() -> str:
            return print_module(EagerBackend().emit(schedule(Plan("none", self.block.program))))

        rules = [print_program(c.rule) for c in self.block.coefficients]
        learned = [repr(c.learned) for c in self.block.coefficients]
        key = [*rules, *learned, repr(self.block.vector)]
        return build(noted("learning", key, make, parse_module))

    def update(self, groups: Sequence[Group], sums: Mapping[str, float], steps: int) -> None:
        """Move the coefficients in every group.

        Args:
            groups: the parameter groups, which share the coefficients.
            sums: the derivatives of the loss that were measured, by coefficient, and the squared
                norms that a cosine needs.
            steps: how many steps were taken before this one; learning starts after some.

        Hyper-gradients that are not all there are recorded and move nothing; see
        `optdsl.learning.learning_program` for those that are not finite.
        """
        coefficients = self.block.coefficients
        entries: dict[str, float]
        if all(c.name in sums for c in coefficients):
            inputs = {measured_key(c.name): sums[c.name] for c in coefficients}
            inputs |= {key: sums[key] for c in coefficients for key in square_keys(c.name)
                       if c.learned.signal == "cosine"}  # fmt: skip
            state = {key: float(groups[0][key]) for key in self._rule.step.entry.states}
            found = self._rule.step(0.0, 0.0, state, inputs | {TAKEN: float(steps)}, 1.0)
            # Emitted literals may be whole numbers of Python.
            entries = {key: float(new) for key, new in found.items() if key != "theta"}
            for coefficient in coefficients:
                entries[coefficient.step_key] = int(entries[coefficient.step_key])
        else:
            entries = {c.hypergradient_key: sums[c.name] for c in coefficients if c.name in sums}
        for group in groups:
            group.update(entries)
