"""What has a value of a coefficient of its own: the optimizer, each group, or each tensor.

A group keeps a coefficient's value and the memory of its rule in its entries, a tensor in entries
of its state, under nearly the same names. A step is divided into parts, as fine as the finest
scope, and each part has sums of its own; where all is learned for the optimizer there is one part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optdsl.learning import Coefficient, memory_key
from optdsl.runtime.core.owned_numbers import number_of, without_values
from optdsl.runtime.core.tasks import HyperGradients
from optdsl.runtime.learning.coefficients import CoefficientUpdate, Group
from optdsl.words import SCOPES

VALUE = "coefficient/"
# How the keys start under which the state of a tensor keeps what it has of its own: numbers in
# double precision, on the host.
OWN = (VALUE, "hypergradient/", "learn/")

Pairs = list[tuple[Tensor, Tensor]]
State = dict[str, Any]


@dataclass
class Part:
    """A share of a step whose hyper-gradients are summed apart.

    Attributes:
        work: parameters with gradients, and the hyperparameters of each of their groups.
        group: the number of the group; None for all of them.
        tensor: the only parameter; None for more.
        own: what that has of its own, under the keys that a group has.
        taken: how many steps it has taken before this one.
        sums: what was measured.
        lent: the tensors in which the state keeps what the tensor has of its own.
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
        """What tells it from other parts of a step, and is the same in the next; None for all."""
        return self.group if self.tensor is None else id(self.tensor)


class Scopes:
    """The scopes of the coefficients of one rule."""

    def __init__(self, coefficients: Sequence[Coefficient]) -> None:
        """See the module."""
        by = {s: tuple(c for c in coefficients if c.learned.scope == s) for s in SCOPES}
        self.finest = next((s for s in reversed(SCOPES) if by[s]), SCOPES[0])
        # Those that all groups share, and those that tensors have.
        self.shared, self.of_tensors = by["optimizer"], by["tensor"]
        self._all = tuple(coefficients)
        # The most steps after which a coefficient starts to learn.
        self._after = max((c.learned.after for c in coefficients), default=0)

    def defaults(self) -> dict[str, float]:
        """The entries of a group before the first hyper-gradient."""
        kept = (c.defaults() for c in self._all if c not in self.of_tensors)
        return {key: value for entries in kept for key, value in entries.items()}

    def adopt(self, groups: Iterable[Group], states: Iterable[State]) -> None:
        """Make loaded entries those of these coefficients.

        A tensor that has no value of its own, or has one no more, goes by its group's.
        """
        for group in groups:
            for coefficient in self._all:
                if coefficient in self.of_tensors:
                    _forget(group, coefficient)
                else:
                    _adopt(group, coefficient)
        own = {c.name: c for c in self.of_tensors}
        for state in states:
            for name in {str(k).split("/")[1] for k in state if str(k).startswith(OWN)}:
                memory = {k for k in state if str(k).startswith(f"learn/{name}/")}
                if name not in own:
                    state.pop(VALUE + name, None)
                    state.pop(f"hypergradient/{name}", None)
                if name not in own or memory != set(own[name].memory_keys):
                    for key in memory:
                        del state[key]

    def taken(self, groups: Sequence[Group], states: Mapping[Tensor, State]) -> list[int]:
        """The largest number of steps that a parameter has taken: by group, or one for all.

        It is only compared with the steps after which learning starts, so that no tensor is looked
        at after one that has taken as many.
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
        """The parts of a step; what tensors have of their own is copied into the parts.

        Args:
            work: parameters with gradients, by group.
            hypers: the hyperparameters, by group.
            groups: the groups.
            states: what is kept for each tensor.
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
        # A state may have a coefficient that was set by hand, and nothing else yet.
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
        """Leave in the states only what rules declare, as the engines know it."""
        for part in parts:
            state = states.get(part.tensor, {}) if part.tensor is not None else {}
            part.lent = {k: state.pop(k) for k in [k for k in state if k.startswith(OWN)]}

    def give_back(self, parts: Iterable[Part], states: Mapping[Tensor, State]) -> None:
        """Keep in the states again what tensors have of their own."""
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
        """Move the coefficients by what was measured; the parts' hyperparameters stay as they are.

        Args:
            updates: what moves the coefficients.
            parts: with their sums.
            groups: the groups.
            taken: as of `taken`, before this step.
        """
        for update in updates:
            block = update.block
            if block.scope == "optimizer":
                update.update(groups, total(p.sums for p in parts), max(taken))
            elif block.scope == "group":
                of: list[list[HyperGradients]] = [[] for _ in groups]
                for part in parts:
                    of[part.group or 0].append(part.sums)
                for group, sums, steps in zip(groups, of, taken, strict=True):
                    update.update([group], total(sums), steps)
            else:
                for part in parts:
                    update.update([part.own], part.sums, part.taken)

    def check_group(self) -> None:
        """Refuse to learn over the ranks of a process group what is learned for each tensor.

        Raises:
            RuntimeError: with what to do.
        """
        if self.of_tensors:
            raise RuntimeError(
                f"{self.of_tensors[0].name} is learned for each tensor, and the ranks of a "
                f"process_group have other tensors; learn it for the optimizer or for groups, or "
                f"give no process_group"
            )

    def slots(self, parts: Sequence[Part], parameters: Iterable[Tensor]) -> list[Part | None]:
        """The parts of a step in an order that all ranks share, None for what has none here.

        Args:
            parts: of `divided`.
            parameters: all of the optimizer.
        """
        if self.finest != "tensor":
            return list(parts)
        by = {id(part.tensor): part for part in parts}
        return [by.get(id(parameter)) for parameter in parameters]

    def refresh(self, parts: Iterable[Part], hypers: Sequence[dict[str, float]]) -> None:
        """Make the parts' hyperparameters those that were learned.

        Args:
            parts: after `learn`.
            hypers: the hyperparameters, by group.
        """
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
    """A number that a state has, if it has it, and a value for it."""
    found = state.get(key, otherwise)
    return float(otherwise if without_values(found) else found)


def _forget(group: Group, coefficient: Coefficient) -> None:
    prefix = memory_key(coefficient.name, "")
    own = coefficient.hypergradient_key
    for key in [k for k in group if k == own or str(k).startswith(prefix)]:
        del group[key]


def _adopt(group: Group, coefficient: Coefficient) -> None:
    """Make the entries of a loaded group this coefficient's; another rule's start anew."""
    prefix = memory_key(coefficient.name, "")
    found = {key for key in group if str(key).startswith(prefix)}
    if found != set(coefficient.memory_keys):
        for key in found:
            del group[key]
    for key, value in coefficient.defaults().items():
        group.setdefault(key, value)
