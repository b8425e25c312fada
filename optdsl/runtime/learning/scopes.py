"""The scopes of coefficients: one value for the optimizer, for each group, or for each tensor.

A coefficient's value and the memory of its rule are entries of the parameter groups, or for each
tensor entries of its state, under nearly the same keys. A step is divided into parts with separate
sums, one for each group or tensor if some coefficient has that scope, and else a single one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optdsl.learning import Coefficient, hypergradient_key, memory_key
from optdsl.runtime.core.owned_numbers import number_of, without_values
from optdsl.runtime.core.tasks import HyperGradients
from optdsl.runtime.learning.coefficients import CoefficientUpdate, Group
from optdsl.words import SCOPES

VALUE = "coefficient/"
# The prefixes of the keys of coefficients in the state of a tensor, which are float64, on the host.
OWN = (VALUE, "hypergradient/", "learn/")

Pairs = list[tuple[Tensor, Tensor]]
State = dict[str, Any]


@dataclass
class Part:
    """A part of a step whose hyper-gradients are summed separately.

    Attributes:
        work: pairs of parameters and gradients with their hyperparameters, for one or all groups.
        group: the index of the group; None for all groups.
        tensor: the only parameter; None for several.
        own: the tensor's coefficients and their memory, under the keys of groups.
        taken: the number of steps of the tensor before this one.
        sums: the measured hyper-gradients.
        lent: the tensor's entries of coefficients while `Scopes.lend` keeps them out of its state.
    """

    work: list[tuple[Pairs, dict[str, float]]]
    group: int | None = None
    tensor: Tensor | None = None
    own: dict[str, float] = field(default_factory=dict)
    taken: int = 0
    sums: HyperGradients = field(default_factory=dict)
    lent: State = field(default_factory=dict)

    @property
    def key(self) -> Any:
        """A key that is unique in a step and equal in the next one; None for the only part."""
        return self.group if self.tensor is None else id(self.tensor)


class Scopes:
    """The scopes of the coefficients of one rule.

    Attributes:
        finest: the smallest scope that a coefficient has.
        shared: the coefficients of the optimizer, which all groups share.
        of_tensors: the coefficients with a value for each tensor.
        of_groups: the others, whose values are entries of groups.
    """

    def __init__(self, coefficients: Sequence[Coefficient]) -> None:
        """See the class."""
        by = {s: tuple(c for c in coefficients if c.learned.scope == s) for s in SCOPES}
        self.finest = next((s for s in reversed(SCOPES) if by[s]), SCOPES[0])
        self.shared, self.of_tensors = by["optimizer"], by["tensor"]
        self.of_groups = tuple(c for c in coefficients if c not in by["tensor"])
        self._all = tuple(coefficients)
        # The largest number of steps after which a coefficient starts to learn.
        self._after = max((c.learned.after for c in coefficients), default=0)

    def defaults(self) -> dict[str, float]:
        """The entries of a group before the first hyper-gradient."""
        return {key: value for c in self.of_groups for key, value in c.defaults().items()}

    def adopt(self, groups: Iterable[Group], states: Iterable[State]) -> None:
        """Adapt loaded entries to these coefficients.

        Entries of other coefficients and memories of other rules are deleted. Groups get default
        entries in their place; a tensor without a value uses its group's.
        """
        of_groups = {c.name: c for c in self.of_groups}
        of_tensors = {c.name: c for c in self.of_tensors}
        for group in groups:
            for coefficient in self._all:
                _keep_own(group, coefficient.name, of_groups)
            for key, value in self.defaults().items():
                group.setdefault(key, value)
        for state in states:
            for name in {str(k).split("/")[1] for k in state if str(k).startswith(OWN)}:
                _keep_own(state, name, of_tensors)

    def taken(self, groups: Sequence[Group], states: Mapping[Tensor, State]) -> list[int]:
        """The largest number of steps of a parameter: in each group, or in all of them.

        It is only compared with the steps after which learning starts, so that it may be smaller
        once it has reached those.
        """
        if self.finest == "optimizer":
            return [self._steps(states.values())]
        return [self._steps(states[p] for p in g["params"] if p in states) for g in groups]

    def divided(
        self,
        work: Sequence[Pairs],
        hypers: Sequence[dict[str, float]],
        groups: Sequence[Group],
        states: Mapping[Tensor, State],
    ) -> list[Part]:
        """The parts of a step, with copies of the coefficients of tensors.

        Args:
            work: pairs of parameters and gradients, by group.
            hypers: the hyperparameters, by group.
            groups: the groups.
            states: the state of each tensor.
        """
        pairs = list(zip(work, hypers, strict=True))
        if self.finest == "optimizer":
            return [Part(pairs)]
        if self.finest == "group":
            return [Part([pair], number) for number, pair in enumerate(pairs)]
        parts = []
        for number, (tasks, values) in enumerate(pairs):
            apart: dict[Tensor, Pairs] = {}
            for parameter, gradient in tasks:
                apart.setdefault(parameter, []).append((parameter, gradient))
            for parameter, its in apart.items():
                state = states.get(parameter, {})
                own = self._own(state, groups[number])
                mixed = values | {c.name: own[c.name] for c in self.of_tensors}
                parts.append(Part([(its, mixed)], number, parameter, own, self._steps([state])))
        return parts

    def _steps(self, states: Iterable[State]) -> int:
        taken = 0
        # A state may have only a coefficient that a user has set.
        for count in (s["step"] for s in states if "step" in s) if self._after else ():
            taken = max(taken, int(number_of(count)))
            if taken >= self._after:
                break
        return taken

    def _own(self, state: State, group: Group) -> dict[str, float]:
        own: dict[str, float] = {}
        for coefficient in self.of_tensors:
            name = coefficient.name
            own[name] = _number(state, VALUE + name, group[name])
            for key, value in coefficient.defaults().items():
                own[key] = _number(state, key, value)
        return own

    def lend(self, parts: Iterable[Part], states: Mapping[Tensor, State]) -> None:
        """Take the entries of coefficients out of the states, since engines do not expect them."""
        for part in parts:
            state = states.get(part.tensor, {}) if part.tensor is not None else {}
            part.lent = {k: state.pop(k) for k in [k for k in state if k.startswith(OWN)]}

    def give_back(self, parts: Iterable[Part], states: Mapping[Tensor, State]) -> None:
        """Put the coefficients of tensors back into the states."""
        for part in parts:
            state = states.get(part.tensor, {}) if part.tensor is not None else {}
            if state:  # else no step was taken
                for key, value in part.own.items():
                    named = key if "/" in key else VALUE + key
                    if isinstance(part.lent.get(named), Tensor):
                        state[named] = part.lent[named].fill_(value)
                    else:
                        state[named] = torch.tensor(value, dtype=torch.float64, device="cpu")

    def learn(
        self,
        updates: Iterable[CoefficientUpdate],
        parts: Sequence[Part],
        groups: Sequence[Group],
        taken: Sequence[int],
    ) -> None:
        """Move the coefficients by the measured hyper-gradients.

        The hyperparameters in `Part.work` stay as they are; see `refresh`.

        Args:
            updates: the updates of all blocks of coefficients.
            parts: the parts with their sums.
            groups: the groups.
            taken: the result of `taken` before this step.
        """
        whole = total(p.sums for p in parts) if self.shared else {}
        for update in updates:
            block = update.block
            if block.scope == "optimizer":
                update.update(groups, whole, max(taken))
            elif block.scope == "group":
                for number, (group, steps) in enumerate(zip(groups, taken, strict=True)):
                    sums = total(p.sums for p in parts if p.group == number)
                    update.update([group], sums, steps)
            else:
                for part in parts:
                    update.update([part.own], part.sums, part.taken)

    def check_group(self) -> None:
        """Refuse coefficients of tensors in an optimizer with a process group.

        Raises:
            RuntimeError: if there are any; the message says what to do.
        """
        if self.of_tensors:
            raise RuntimeError(
                f"{self.of_tensors[0].name} is learned for each tensor, and the ranks of a "
                f"process_group have other tensors; learn it for the optimizer or for groups, or "
                f"give no process_group"
            )

    def slots(self, parts: Sequence[Part], parameters: Iterable[Tensor]) -> list[Part | None]:
        """The parts of a step in the same order on all ranks; None for a part of other ranks.

        `parameters` are all parameters of the optimizer.
        """
        if self.finest != "tensor":
            return list(parts)
        by = {id(part.tensor): part for part in parts}
        return [by.get(id(parameter)) for parameter in parameters]

    def refresh(self, parts: Iterable[Part], hypers: Sequence[dict[str, float]]) -> None:
        """Set the hyperparameters in `Part.work` to those by group after `learn`."""
        for part in parts:
            chosen = hypers if part.group is None else [hypers[part.group]]
            for (_, values), new in zip(part.work, chosen, strict=True):
                values.update(new)
                values.update((c.name, part.own[c.name]) for c in self.of_tensors)

    def metrics(self, groups: Sequence[Group], states: Mapping[Tensor, State]) -> dict[str, float]:
        """See `CompiledOptimizer.metrics`."""
        found: dict[str, float] = {}
        tensors: list[dict[str, float]] = []
        if self.of_tensors:
            tensors = [self._own(states.get(p, {}), g) for g in groups for p in g["params"]]
        for coefficient in self._all:
            for key in (coefficient.name, coefficient.hypergradient_key):
                if coefficient.learned.scope == "optimizer":
                    found[key] = float(groups[0][key])
                elif coefficient.learned.scope == "group":
                    found |= {f"{key}/{n}": float(g[key]) for n, g in enumerate(groups)}
                elif tensors:
                    values = [own[key] for own in tensors]
                    found[f"{key}/mean"] = sum(values) / len(values)
                    found[f"{key}/min"], found[f"{key}/max"] = min(values), max(values)
        return found


def total(sums: Iterable[HyperGradients]) -> HyperGradients:
    """Sums added up, by name."""
    result: HyperGradients = {}
    for more in sums:
        add(result, more)
    return result


def add(to: HyperGradients, more: HyperGradients) -> None:
    """Add sums to others, by name."""
    for name, value in more.items():
        to[name] = to.get(name, 0.0) + value


def _number(state: State, key: str, otherwise: float) -> float:
    """The number under a key of a state, or another one if the state has none."""
    found = state.get(key, otherwise)
    return float(otherwise if without_values(found) else found)


def _keep_own(entries: Group, name: str, coefficients: Mapping[str, Coefficient]) -> None:
    """Delete what a group or state has of a coefficient that is not its own, or of another rule."""
    prefix = memory_key(name, "")
    memory = {key for key in entries if str(key).startswith(prefix)}
    if name not in coefficients:
        memory |= {VALUE + name, hypergradient_key(name)}
    if name not in coefficients or memory != set(coefficients[name].memory_keys):
        for key in memory:
            entries.pop(key, None)
