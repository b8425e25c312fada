"""What the host says of hyperparameters to steps that stay on the device.

What is learned lies in one tensor on the device, the memory. The groups of an optimizer have views
of it, and what a user puts in their place is sent there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.core.hyperparameters import check_shared, check_sums, number
from optdsl.runtime.engines.compiled import Compiled
from optdsl.runtime.engines.launch_arguments import check_not_captured, sent

Group = MutableMapping[str, Any]


class CoefficientMemory:
    """The hyperparameters of one optimizer: those that are set, and those that are learned.

    Attributes:
        memory: float64, on the device: what `keys` say.
        sources: int32, where in it each hyperparameter is; -1 for those that are not learned.
    """

    def __init__(
        self, compiled: Compiled, names: Sequence[str], keys: Sequence[str], device: torch.device
    ) -> None:
        """Nothing is known of any group yet.

        Args:
            compiled: what the optimizer is of.
            names: the hyperparameters, in the order of rows.
            keys: what the memory holds: how many steps were taken, then entries of groups.
            device: where.
        """
        self._compiled, self._names, self._keys = compiled, names, keys
        self._device = device
        self.memory = torch.zeros(len(keys), dtype=torch.float64, device=device)
        # For what groups share; how many steps were taken is ours alone.
        self._views = {key: self.memory[n] for n, key in enumerate(keys) if n}
        places = {key: n for n, key in enumerate(keys) if n}
        self.sources = sent([places.get(n, -1) for n in names] or [-1], torch.int32, device)
        self._given: list[Any] | None = None
        self._used: list[list[float | Tensor]] = []

    def take_over(self, optimizer: str, groups: Sequence[Group], defaults: Group) -> None:
        """Send coefficients, and what is remembered of them, that a user or a checkpoint has set.

        Args:
            optimizer: what errors call the optimizer.
            groups: its groups.
            defaults: its defaults.

        Raises:
            TypeError, ValueError: as `CompiledOptimizer.step`.
        """
        changed = [
            (place, key)
            for place, key in enumerate(self._keys)
            if place and any(group[key] is not self._views[key] for group in groups)
        ]
        if not changed:
            return
        check_not_captured(self._device, f"{changed[0][1]} was set")
        learned = {c.name for c in self._compiled.coefficients}
        numbers: dict[str, float] = {}
        for _, key in changed:
            new = next(g[key] for g in groups if g[key] is not self._views[key])
            numbers[key] = float(new)
            if key in learned:
                for group in groups:
                    self._number(optimizer, key, group[key], (defaults, group))
                check_shared(optimizer, [key], groups)
                numbers[key] = self._number(optimizer, key, new, (defaults, *groups))
        for group in groups:
            check_sums(optimizer, self._compiled.program.simplexes, group)
        for place, key in changed:
            self.memory[place].fill_(numbers[key])
        for group in groups:
            group.update({key: self._views[key] for _, key in changed})

    def values(
        self, optimizer: str, groups: Sequence[Group], defaults: Group
    ) -> list[list[float | Tensor]]:
        """The hyperparameters that are set, by group; zeros for those that are learned.

        Args:
            optimizer: what errors call the optimizer.
            groups: its groups.
            defaults: its defaults.

        Raises:
            TypeError, ValueError: as `CompiledOptimizer.step`.
        """
        names, device = self._names, self._device
        found: list[list[float | Tensor]] = []
        for group in groups:
            values = [0.0 if name in self._views else group[name] for name in names]
            if any(isinstance(x, Tensor) for x in values):
                # Those on the host are read now, the others by the device.
                values = [float(x) if _read_now(x) else x for x in values]
            found.append(values)
        if found != self._given:
            used = [list(values) for values in found]
            for group, values in zip(groups, used, strict=True):
                for n, (name, value) in enumerate(zip(names, values, strict=True)):
                    if name not in self._views and not _there(value, device):
                        others = (defaults, group)
                        values[n] = self._number(optimizer, name, group[name], others)
                if not any(isinstance(x, Tensor) for x in values):
                    simplexes = [s for s in self._compiled.program.simplexes
                                 if not self._views.keys() & set(s.hypers)]  # fmt: skip
                    check_sums(optimizer, simplexes, group)
            self._given, self._used = found, used
        return self._used

    def _number(
        self, optimizer: str, hyper: str, value: Any, others: Sequence[Mapping[str, Any]]
    ) -> float:
        declared, bounds = self._compiled.program.hyper(hyper), self._compiled.bounds
        return number(optimizer, declared, value, bounds, others)


# Tensors that require gradients are neither, so that they are refused.
def _read_now(value: Any) -> bool:
    """Whether a hyperparameter is a tensor on the host."""
    if not isinstance(value, Tensor) or value.requires_grad:
        return False
    return value.device.type == "cpu"


def _there(value: Any, device: torch.device) -> bool:
    """Whether a hyperparameter is a number on the device, which the host does not look at."""
    if not isinstance(value, Tensor) or value.requires_grad:
        return False
    return value.device == device and device.type != "cpu"


def on_the_host(groups: Iterable[Mapping[str, Any]], compiled: Compiled) -> list[dict[str, Any]]:
    """Groups of a state dict with numbers for what is learned, as every engine has them.

    Args:
        groups: with views of the device's memory, or with numbers.
        compiled: what the optimizer is of.
    """
    own = {key for c in compiled.coefficients for key in (c.name, *c.defaults())}
    found = []
    for group in groups:
        numbers: dict[str, Any] = {
            key: int(value) if key.endswith("/step") else float(value)
            for key, value in group.items()
            if key in own and isinstance(value, Tensor)
        }
        if "betas" in group and numbers.keys() & set(compiled.betas):
            pairs = zip(compiled.betas, group["betas"], strict=True)
            numbers["betas"] = tuple(numbers.get(name, value) for name, value in pairs)
        found.append({**group, **numbers})
    return found
