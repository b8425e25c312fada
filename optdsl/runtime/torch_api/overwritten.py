"""A warning about learned hyperparameters that something else, such as a scheduler, also sets."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
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
        self._left: list[dict[str, Any]] = []
        # The same as lists, where all of them are floats.
        self._floats: list[list[Any]] = []

    def before_step(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Compare the groups with the values after the step before."""
        if self._floats and self._values(groups) == self._floats:
            if any(self._times.values()):
                self._times = dict.fromkeys(self._times, 0)
            return
        for name in list(self._times) if self._left else ():
            pairs = zip(groups, self._left, strict=False)
            values = [(group[name], left[name]) for group, left in pairs]
            changed = any(_is_changed(value, left) for value, left in values)
            self._times[name] = self._times[name] + 1 if changed else 0
            held = (value.device for value, _ in values if isinstance(value, Tensor))
            if self._times[name] < _IN_A_ROW or any(map(captured, held)):
                continue
            if any(_is_other(value, left) for value, left in values):
                self._warn(name)
                self._times.clear()
                return
            del self._times[name]

    def after_step(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Store the values of the groups after a step."""
        self._floats = []
        if not self._times:
            return
        values = self._values(groups)
        if set(map(type, chain.from_iterable(values))) == {float}:
            self._floats = values
        self._left = [
            {
                name: _Left(value, times > 0) if isinstance(value, Tensor) else value
                for (name, times), value in zip(self._times.items(), its, strict=True)
            }
            for its in values
        ]

    def _values(self, groups: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        return [[group[name] for name in self._times] for group in groups]

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
    """A tensor in a group after a step: a number on the device."""

    def __init__(self, value: Tensor, closely: bool) -> None:
        """Store it; with `closely`, it is copied, which takes a launch."""
        self.value = value
        # Kernels that learn do not change the version of a tensor; schedulers do.
        self.version = value._version
        self.copy = value.detach().clone() if closely else value


def _is_changed(value: Any, left: Any) -> bool:
    """Whether a value of a group was written to or replaced.

    Args:
        value: what the group has now.
        left: what it had after the step before, a number or a `_Left`.
    """
    if isinstance(left, _Left):
        same = value is left.value
        return not same or value._version != left.version
    return value is not left and (isinstance(value, Tensor) or bool(value != left))


def _is_other(value: Any, left: Any) -> bool:
    """Whether it is another number now; for a tensor, the host waits for the device."""
    number = left.copy if isinstance(left, _Left) else left
    return bool(_is_changed(value, left) and value != number)
