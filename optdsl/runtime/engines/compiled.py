"""What the compiler made of a specification, and what the runtime knows of its optimizers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from optdsl.artifact import BackHalf
from optdsl.ir.domain import Interval
from optdsl.ir.program import Program
from optdsl.ir.storage import draws
from optdsl.learning import SQUARE, Block, Coefficient, blocks, square_keys
from optdsl.passes.totals import SHARED
from optdsl.runtime.build.python_modules import Function, function
from optdsl.runtime.core.fingerprint import Meaning, meaning
from optdsl.runtime.core.hyperparameters import Checked, beta_names
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import HyperGradients, cosines, normalizes
from optdsl.runtime.engines.parts import Parts
from optdsl.runtime.engines.selection import Engines
from optdsl.runtime.learning.coefficients import CoefficientUpdate
from optdsl.runtime.learning.scopes import Scopes
from optdsl.schedule import Role

# What was observed of each parameter; of a DTensor, of the shard that this rank has.
Observed = dict[Tensor, HyperGradients]


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a specification.

    Attributes:
        program: the program that runs, tangents included.
        parts: what runs it, for each kind of tensor and each stage of a step.
        coefficients: the learned hyperparameters.
        order: "exact" (coefficients learn first, then act in the same step) or "overlapped".
        recipe: a function and arguments that make the same class again, for pickle.
        back: the stages of the compiler that are run when they are needed.
    """

    program: Program
    parts: Parts
    coefficients: tuple[Coefficient, ...]
    order: str
    recipe: tuple[Callable[..., type[LearningOptimizer]], tuple[Any, ...]]
    back: BackHalf

    def __repr__(self) -> str:
        """In a line, for ``help`` shows it with every class."""
        return f"<{self.program.name}, order={self.order!r}>"

    @functools.cached_property
    def bounds(self) -> dict[str, Interval]:
        """The bounds of learning by coefficient."""
        return {c.name: c.learned.bounds for c in self.coefficients}

    @functools.cached_property
    def betas(self) -> tuple[str, ...]:
        """The hyperparameters that ``betas`` stands for."""
        return beta_names(h.name for h in self.program.hypers)

    @functools.cached_property
    def measured(self) -> tuple[str, ...]:
        """The names that sums may have."""
        squares = [key for name in cosines(self.program) for key in square_keys(name)]
        squares += [SQUARE] if normalizes(self.program) else []
        return (*(t.hyper for t in self.program.tangents), *squares)

    @functools.cached_property
    def scopes(self) -> Scopes:
        """What has values of the learned hyperparameters of its own."""
        return Scopes(self.coefficients)

    @functools.cached_property
    def evaluates(self) -> bool:
        """Whether the model is evaluated at points other than the parameters."""
        return _moves(self.program)

    @functools.cached_property
    def _points(self) -> dict[Program, Function]:
        return {}

    def point(self, program: Program) -> Function | None:
        """What computes the point at which the model is evaluated; None where it is the parameter.

        It is called with the parameter in the place of the gradient, too.

        Args:
            program: the rule, or that of a section.
        """
        if not _moves(program):
            return None
        if program not in self._points:
            self._points[program] = function(self.back.evaluation(program), Role.EVALUATE)
        return self._points[program]

    @functools.cached_property
    def meaning(self) -> Meaning:
        """What the rule means, which is what checkpoints are known by."""
        return meaning(self.program)

    @functools.cached_property
    def draws(self) -> bool:
        """Whether its steps draw random numbers."""
        return draws(self.program)

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The learned hyperparameters, as they move."""
        return blocks(self.coefficients, self.program)

    @functools.cached_property
    def updates(self) -> tuple[CoefficientUpdate, ...]:
        """What moves the learned hyperparameters, on the host."""
        return tuple(map(CoefficientUpdate, self.blocks, self.back.learning(self.blocks)))


def _moves(program: Program) -> bool:
    """Whether the point of a program is not always the parameter."""
    return any(program.operations[v].opcode != "parameter" for v in program.points)


class LearningOptimizer(torch.optim.Optimizer):
    """What every part of the runtime knows of an optimizer; `CompiledOptimizer` is the class.

    Attributes:
        compiled: what it was compiled to.
        process_group: the ranks whose optimizers are parts of this one and learn together: those
            that a wrapper gave a share of the parameters each, or the parts of a pipeline. Copies
            have none.
    """

    compiled: ClassVar[Compiled]
    process_group: Any = None
    _known: StepCache
    # What was observed since the last step; None where the step measures for itself.
    _observed: Observed | None = None
    # Whether a wrapper that gives each rank a share of the parameters has made it.
    _partitioned: bool = False
    # Which inputs are given to the step that is being taken.
    _given: Mapping[str, float] = MappingProxyType({})
    # Whether the parameters are the points at which the model is evaluated.
    _evaluating: bool = False

    def part_of(self, parameter: Tensor, group: Mapping[str, Any] | None = None) -> Engines:
        """The engines of the rule as it is for a parameter, of its section; see `Parts.of`.

        Args:
            parameter: one of this optimizer's.
            group: its parameter group, which is looked for if it is not given.
        """
        parts = self.compiled.parts
        if group is None and parts.divided:
            group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        return parts.of(parameter, {} if group is None else group)

    def _hypers(self, group: Mapping[str, Any]) -> dict[str, float]:
        """The hyperparameters that a step uses for a group.

        Raises:
            TypeError, ValueError: as `number`.
        """
        checked = self._known.find(Checked, id(group))
        if checked is None:
            # What it knows is true of any group, so that one with the same identity does no harm.
            checked = Checked(self.compiled.program.hypers, self.compiled.bounds)
            self._known.put(checked, id(group))
        found = checked.numbers(type(self).__name__, group, (self.defaults, group))
        if self.compiled.parts.stages is None:
            return {**self._given, **found} if self._given else found
        shared = {k: float(x) for k, x in group.items() if str(k).startswith(SHARED)}
        return shared | dict(self._given) | found
