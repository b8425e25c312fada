"""The optimizers of runs, as data: rules of the library, and classes of other packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, Self

from pydantic import Field
from torch.optim import Optimizer

import optdsl
from optdsl.classes import elaborate
from optdsl.elaboration import Elaboration
from optdsl.ir import program
from optdsl.ir.text import print_program
from optdsl.specifications.sources import open_source
from optdsl.studies.frame.keys import digest
from optdsl.studies.frame.values import Frozen
from optdsl.words import Scope, Signal

RATE = "lr"  # the learning rate of rules that have one
# The settings of `Learned` that the compiler has under the same names.
_SHARED = (
    "rule", "clip", "after", "scope", "signal", "horizon", "exponentiated", "sample",
)  # fmt: skip


class Learned(Frozen):
    """How a coefficient is learned; see `optdsl.Learn`.

    Attributes:
        rule: The rule that moves it.
        hypers: The hyperparameters of that rule.
        bounds: What its values are kept in; None for its domain.
        clip: The limit of hyper-gradients.
        after: Steps before the first update.
        scope: What has a value of its own.
        signal: What the rule follows.
        horizon: How derivatives of earlier steps decay.
        exponentiated: Whether a weight vector moves by the exponentiated gradient.
        sample: Hyper-gradients are estimated from one in so many elements of large tensors.
    """

    rule: str = "sgd"
    hypers: dict[str, float] = Field(default_factory=dict)
    bounds: tuple[float, float] | None = None
    clip: float | None = None
    after: int = 0
    scope: Scope = "optimizer"
    signal: Signal = "raw"
    horizon: float = 0.0
    exponentiated: bool = False
    sample: int | None = None

    @classmethod
    def of(cls, how: program.Learned, bounded: bool) -> Self:
        """Returns what a rule's own text says; weight vectors have no bounds of their own."""
        options = {name: getattr(how, name) for name in _SHARED}
        bounds = (how.bounds.lower, how.bounds.upper) if bounded else None
        return cls(hypers=dict(how.options), bounds=bounds, **options)

    def option(self) -> optdsl.Learn:
        """Returns it as an option of `optdsl.load`."""
        options = self.model_dump(exclude={"rule", "hypers"})
        return optdsl.Learn(self.rule, **options, **self.hypers)


class Contestant(Frozen):
    """An optimizer with its settings.

    Attributes:
        label: Its name in tables.
        rule: A name of the library, or MODULE:CLASS of another package.
        base: MODULE:CLASS of the optimizer that `rule` wraps, for packages that wrap others.
        hypers: The hyperparameters that differ from the defaults.
        learn: What it learns: what the rule says, nothing, or coefficients by name.
        order: When learned coefficients move; see `optdsl.load`.
        scale: Where its learning rate is searched: around so many times the task's own.
        centre: Where it is searched, for those whose rates have nothing to do with the task's.
        constant: Whether it is trained without decay of the learning rate, as its authors say.
    """

    label: str
    rule: str
    base: str | None = None
    hypers: dict[str, float] = Field(default_factory=dict)
    learn: bool | dict[str, Learned] = True
    order: Literal["overlapped", "exact"] = "overlapped"
    scale: float = 1.0
    centre: float | None = None
    constant: bool = False

    @property
    def foreign(self) -> bool:
        """Whether it is of another package."""
        return ":" in self.rule

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        package = self.rule.partition(":")[0]
        return not self.foreign or importlib.util.find_spec(package) is not None

    def with_hypers(self, **hypers: float) -> Self:
        """Returns it with other values of hyperparameters."""
        return self.model_copy(update={"hypers": {**self.hypers, **hypers}})

    def frozen(self) -> Self:
        """Returns it without learning."""
        return self.model_copy(update={"learn": False})

    def with_rates(self, factor: float) -> Self | None:
        """Returns it with the learning rates of all that it learns multiplied by a factor.

        Rules that have no rate, such as `kt` and `cocob`, stay as they are; None if no rule has
        one, or if it learns nothing.
        """
        if self.foreign:
            return None
        found = self.elaboration()
        asked = {} if isinstance(self.learn, bool) else self.learn
        learn: dict[str, Learned] = {}
        rates = 0
        for coefficient in found.coefficients:
            how = coefficient.learned
            vector = found.program.simplex_of(how.hyper)
            name = vector.name if vector else how.hyper
            said = asked.get(name) or Learned.of(how, vector is None)
            rate = said.hypers.get(RATE, coefficient.rule.defaults.get(RATE))
            if rate is not None:
                said = said.model_copy(update={"hypers": {**said.hypers, RATE: factor * rate}})
                rates += 1
            learn[name] = said
        if not rates:
            return None
        label = f"{self.label}, rates × {factor:.3g}"
        return self.model_copy(update={"label": label, "learn": learn})

    def create(self) -> Callable[..., Optimizer]:
        """Returns what makes the optimizer from parameters and hyperparameters."""
        if self.foreign:
            found: Callable[..., Any] = _imported(self.rule)
            made: Callable[..., Optimizer]
            made = found if self.base is None else found(_imported(self.base))
            return made
        return optdsl.load(self.rule, learn=self._option(), order=self.order)

    def optimizer(self, parameters: Any) -> Optimizer:
        """Returns the optimizer of some parameters."""
        return self.create()(parameters, **self.hypers)

    def elaboration(self) -> Elaboration:
        """Returns the rule as the compiler has it, differentiated."""
        return _elaborated(self.rule, self._learning())

    def _learning(self) -> str:
        """Returns what it learns as JSON."""
        if isinstance(self.learn, bool):
            return json.dumps(self.learn)
        return json.dumps({name: how.model_dump(mode="json") for name, how in self.learn.items()})

    def ingredients(self) -> tuple[str, ...]:
        """Returns what says what it does: hashes of its programs, or a package's version."""
        if self.foreign:
            return (_version(self.rule.partition(":")[0]),)
        return _programs(self.rule, self._learning())

    def _option(self) -> bool | dict[str, optdsl.Learn]:
        if isinstance(self.learn, bool):
            return self.learn
        return {name: learned.option() for name, learned in self.learn.items()}


def _imported(place: str) -> Any:
    """Returns what MODULE:NAME names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


@lru_cache(maxsize=64)
def _version(package: str) -> str:
    """Returns a package with its version."""
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} absent"


@lru_cache(maxsize=256)
def _programs(rule: str, learn: str) -> tuple[str, ...]:
    """Returns the hashes of a rule's program and of those that move its coefficients."""
    found = _elaborated(rule, learn)
    programs = (found.program, *(c.rule for c in found.coefficients))
    return tuple(digest(print_program(program)) for program in programs)


@lru_cache(maxsize=256)
def _elaborated(rule: str, learn: str) -> Elaboration:
    said = json.loads(learn)
    option = said
    if not isinstance(said, bool):
        option = {name: Learned.model_validate(how).option() for name, how in said.items()}
    return elaborate(open_source(rule), option, True, None)
