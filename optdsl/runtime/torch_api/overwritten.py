"""A warning about learned hyperparameters that something else, such as a scheduler, also sets."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from optdsl.runtime.core.callers import outside
from optdsl.runtime.engines.launch_arguments import captured

# A single change may be a value that a user has set, and is no schedule.
_IN_A_ROW = 2


class Overwritten:
    """Warns once if a learned hyperparameter is changed between steps several times in a row."""

    def __init__(self, optimizer: str, learned: Iterable[str]) -> None:
        """Begin without groups.

        A tensor that was written to in two steps in a row is read once, for which the host waits
        for the device: some schedulers write the value that it already has. `optimizer` is the name
        in the warning.
        """
        self._optimizer = optimizer
        self._times = dict.fromkeys(learned, 0)
        self._left: list[dict[str, _Left]] = []

    def before_step(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Compare the groups with the values after the step before."""
        for name in list(self._times) if self._left else ():
            pairs = zip(groups, self._left, strict=False)
            values = [(group[name], left[name]) for group, left in pairs]
            changed = any(left.is_changed(value) for value, left in values)
            self._times[name] = self._times[name] + 1 if changed else 0
            held = (value.device for value, _ in values if isinstance(value, Tensor))
            if self._times[name] < _IN_A_ROW or any(map(captured, held)):
                continue
            if any(left.is_other(value) for value, left in values):
                self._warn(name)
                self._times.clear()
                return
            del self._times[name]

    def after_step(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Store the values of the groups after a step."""
        if self._times:
            self._left = [
                {name: _Left(group[name], times > 0) for name, times in self._times.items()}
                for group in groups
            ]

    def _warn(self, name: str) -> None:
        warnings.warn(
            f"{self._optimizer}: {name} is learned, and something else sets or scales it before "
            f"every step, a scheduler perhaps, so that what is learned is lost or mixed with the "
            f"schedule; leave {name} to one of them: learn other hyperparameters "
            f"(optdsl.load(..., learn=[...])), or schedule another",
            UserWarning,
            stacklevel=outside(),
        )


class _Left:
    """A value of a group after a step: a number, or a tensor on the device."""

    def __init__(self, value: Any, closely: bool) -> None:
        """Store it; with `closely`, a tensor is copied, which takes a launch."""
        self._value = value
        # Kernels that learn do not change the version of a tensor; schedulers do.
        self._version = value._version if isinstance(value, Tensor) else 0
        self._copy = value.detach().clone() if isinstance(value, Tensor) and closely else value

    def is_changed(self, value: Any) -> bool:
        """Whether it was written to or replaced."""
        if isinstance(value, Tensor):
            return value is not self._value or value._version != self._version
        return bool(value is not self._value and value != self._value)

    def is_other(self, value: Any) -> bool:
        """Whether it is another number now; for a tensor, the host waits for the device."""
        return bool(self.is_changed(value) and value != self._copy)
