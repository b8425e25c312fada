"""The hyperparameters of an optimizer whose steps stay on the device.

Learned coefficients and the memory of their rules are in one tensor on the device. The parameter
groups hold views of it; a value that a user puts in place of a view is sent to the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.core.hyperparameters import check_shared, check_sums, number
from optdsl.runtime.engines.compiled import Compiled, LearningOptimizer
from optdsl.runtime.engines.launch_arguments import check_not_captured, sent

Group = MutableMapping[str, Any]


class CoefficientMemory:
    """The hyperparameters of one optimizer: those that users set, and those that are learned.

    Attributes:
        memory: float64, shape (keys,), on the device: a number for each key.
        sources: int32, shape (hyperparameters,), on the device: the index in `memory` of each
            hyperparameter; -1 for those that are not learned.
    """

    def __init__(
        self, compiled: Compiled, names: Sequence[str], keys: Sequence[str], device: torch.device
    ) -> None:
        """Make a memory of zeros on a device; `take_over` fills it.

        `names` are the hyperparameters, in the order of rows. `keys` are those of the memory: the
        number of steps taken, then entries of groups.
        """
        self._compiled, self._names, self._device = compiled, names, device
        self.memory = torch.zeros(len(keys), dtype=torch.float64, device=device)
        # Groups share these entries; the number of steps taken is not in groups.
        places = {key: n for n, key in enumerate(keys) if n}
        self._views = {key: self.memory[n] for key, n in places.items()}
        self.sources = sent([places.get(n, -1) for n in names] or [-1], torch.int32, device)
        self._given: list[Any] | None = None
        self._used: list[list[float | Tensor]] = []

    def take_over(self, optimizer: LearningOptimizer) -> None:
        """Send the entries of groups that a user or a checkpoint has set to the device.

        Raises:
            TypeError, ValueError: as `CompiledOptimizer.step`.
        """
        name, groups = type(optimizer).__name__, optimizer.param_groups
        numbers: dict[str, float] = {}
        for key, view in self._views.items():
            new = next((group[key] for group in groups if group[key] is not view), view)
            if new is view:
                continue
            check_not_captured(self._device, f"{key} was set")
            numbers[key] = float(new)
            if key in self._compiled.bounds:
                for group in groups:
                    self._number(name, key, group[key], (optimizer.defaults, group))
                check_shared(name, [key], groups)
                numbers[key] = self._number(name, key, new, (optimizer.defaults, *groups))
        if not numbers:
            return
        for group in groups:
            check_sums(name, self._compiled.program.simplexes, group)
        for key, value in numbers.items():
            self._views[key].fill_(value)
        for group in groups:
            group.update({key: self._views[key] for key in numbers})

    def values(self, optimizer: LearningOptimizer) -> list[list[float | Tensor]]:
        """The hyperparameters that users set, by group; zeros in place of those that are learned.

        Tensors on the host are read now, tensors on the device are returned for it to read.

        Raises:
            TypeError, ValueError: as `CompiledOptimizer.step`.
        """
        names, groups = self._names, optimizer.param_groups
        found: list[list[float | Tensor]] = []
        for group in groups:
            values = [0.0 if name in self._views else group[name] for name in names]
            if any(isinstance(x, Tensor) for x in values):
                values = [float(x) if _is_on(x, "cpu") else x for x in values]
            found.append(values)
        if found != self._given:
            title, used = type(optimizer).__name__, [list(values) for values in found]
            for group, values in zip(groups, used, strict=True):
                for n, (name, value) in enumerate(zip(names, values, strict=True)):
                    if name not in self._views and not self._stays(value):
                        others = (optimizer.defaults, group)
                        values[n] = self._number(title, name, group[name], others)
                if not any(isinstance(x, Tensor) for x in values):
                    simplexes = [s for s in self._compiled.program.simplexes
                                 if not self._views.keys() & set(s.hypers)]  # fmt: skip
                    check_sums(title, simplexes, group)
            self._given, self._used = found, used
        return self._used

    def _stays(self, value: Any) -> bool:
        """Whether a hyperparameter is a number on the device, which the host does not read."""
        if self._device.type == "cpu" or not _is_on(value, self._device.type):
            return False
        return bool(value.device == self._device)

    def _number(
        self, optimizer: str, hyper: str, value: Any, others: Sequence[Mapping[str, Any]]
    ) -> float:
        declared, bounds = self._compiled.program.hyper(hyper), self._compiled.bounds
        return number(optimizer, declared, value, bounds, others)


def _is_on(value: Any, kind: str) -> bool:
    """Whether a value is a tensor on a kind of device; one that requires gradients is refused."""
    return isinstance(value, Tensor) and not value.requires_grad and value.device.type == kind


def on_the_host(groups: Iterable[Mapping[str, Any]], compiled: Compiled) -> list[dict[str, Any]]:
    """Groups of a state dict with Python numbers for learned coefficients and their memory.

    The given groups have such numbers, or views of a memory on the device.
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
