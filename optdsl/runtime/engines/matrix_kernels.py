"""Steps of matrices in C, called with tensors, and steps that are parts in C and parts in torch."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from optdsl.artifact import Artifact
from optdsl.backends.base import EntryPoint
from optdsl.backends.between_parts import BETWEEN, name_and_type, number_of_part
from optdsl.ir.sections import value_shape
from optdsl.ir.types import Type
from optdsl.runtime.build.python_modules import Function, function
from optdsl.runtime.core.owned_numbers import without_values
from optdsl.runtime.core.tasks import COMPUTE, PLAIN
from optdsl.runtime.engines.call_arguments import threads
from optdsl.schedule import Role


class InPlace:
    """A step, or what makes the states before the first one; called in place of a `Function`.

    Attributes:
        entry: what it takes and returns.
    """

    def __init__(self, artifact: Artifact, entry: EntryPoint) -> None:
        """See the class."""
        self.entry = entry
        self._name = artifact.program.name
        self._types = {s.name: s.type for s in artifact.plan.states}
        self._dtype: torch.dtype = getattr(torch, artifact.target.dtype)
        self._compute = COMPUTE[self._dtype]

    def __call__(
        self,
        theta: Tensor,
        g: Tensor,
        state: Mapping[str, Tensor],
        hypers: Mapping[str, float],
        t: float,
        out: Tensor | None = None,
        draws: object = None,
    ) -> dict[str, Tensor]:
        """The results by name, in memory of their own; arguments as of `Function`."""
        own = {"theta": plain(theta, self._dtype).clone()}
        for name in self.entry.states:
            given = state.get(name)
            if given is None:
                own[name] = room(self._types[name], theta, self._compute)
            else:
                own[name] = plain(given, self._compute).clone()
        self.run(plain(g, self._dtype), own, hypers, t)
        return {name: own[name] for name in self.entry.results if name in own}

    def run(
        self, g: Tensor, own: Mapping[str, Tensor], hypers: Mapping[str, float], t: float
    ) -> None:
        """Run it in the memory of the parameter and the states.

        Args:
            g: the gradient.
            own: "theta" and the states, all contiguous, that it reads and writes.
            hypers: the hyperparameters by name.
            t: the number of the step.

        Raises:
            MemoryError: there is none for the working space.
            RuntimeError: a state has another shape than its parameter says.
        """
        raise NotImplementedError


class MatrixKernel(InPlace):
    """An entry point of a library. Where it raises an error, nothing has changed."""

    def __init__(self, artifact: Artifact, entry: EntryPoint, function: Callable[..., int]) -> None:
        """See the class."""
        super().__init__(artifact, entry)
        self._function = function
        self._types |= {n: name_and_type(n)[1] for n in filter(is_between, entry.states)}

    def run(
        self, g: Tensor, own: Mapping[str, Tensor], hypers: Mapping[str, float], t: float
    ) -> None:
        """See `InPlace.run`."""
        theta = own["theta"]
        for name in self.entry.states:
            expected = value_shape(self._types[name], theta.shape)
            if tuple(own[name].shape) != expected:
                raise RuntimeError(
                    f"{self._name}: {name} has shape {tuple(own[name].shape)}, and its parameter "
                    f"is read as {tuple(theta.shape)}; has the parameter changed since?"
                )
        if g.shape != theta.shape:
            raise RuntimeError(
                f"{self._name}: gradient has shape {tuple(g.shape)}, and its parameter is read as "
                f"{tuple(theta.shape)}"
            )
        self._called((theta, g, *(own[name] for name in self.entry.states)), hypers, t)

    def _called(self, tensors: Sequence[Tensor], hypers: Mapping[str, float], t: float) -> None:
        """Call it with the parameter, its gradient and states, which are as it takes them."""
        theta = tensors[0]
        rows, cols = theta.shape[-2:]
        shape = (ctypes.c_int64 * 3)(theta.numel() // (rows * cols), rows, cols)
        memory = (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
        values = [t, *(hypers[name] for name in self.entry.hypers)]
        numbers = (ctypes.c_double * len(values))(*values)
        if self._function(shape, memory, numbers, ctypes.c_int(threads())):
            raise MemoryError("no memory for the step's working space")


class Interleaved(InPlace):
    """A step of parts in C and parts that torch runs; see `optdsl.backends.interleaved`.

    States that a part in C writes are written in its call, the others after the last part.
    """

    def __init__(self, artifact: Artifact, kernels: Mapping[str, MatrixKernel]) -> None:
        """Build what torch runs."""
        assert artifact.beside is not None
        entries = artifact.beside.entries
        parts: dict[str, MatrixKernel | Function] = dict(kernels)
        parts |= {n: function(artifact.beside, n) for n in entries if n != Role.INITIALIZE}
        self._parts = [parts[name] for name in sorted(parts, key=number_of_part)]
        known = [s.name for s in artifact.plan.states]
        used = {name for part in self._parts for name in (*part.entry.states, *part.entry.results)}
        states = tuple(name for name in known if name in used)
        entry = EntryPoint(Role.STEP, states, (), (), True, ("theta", *states))
        super().__init__(artifact, entry)

    def run(
        self, g: Tensor, own: Mapping[str, Tensor], hypers: Mapping[str, float], t: float
    ) -> None:
        """See `InPlace.run`; an error in a later part leaves what the parts before have written."""
        values: dict[str, Tensor] = dict(own)
        written: dict[str, Tensor] = {}
        wide = g.to(self._compute)
        for part in self._parts:
            theta = own["theta"]
            if isinstance(part, MatrixKernel):
                given = {"theta": theta}
                for name in part.entry.states:
                    if name not in values:
                        kind = name_and_type(name)[1]
                        values[name] = room(kind, theta, self._compute)
                    values[name] = given[name] = plain(values[name], self._compute)
                part.run(g, given, hypers, t)
                continue
            found = part(theta.to(self._compute), wide, values, dict(hypers), t)
            memory = {x.untyped_storage().data_ptr() for x in (theta, wide, *own.values())}
            for name, x in found.items():
                # Memory that a later part writes to, or a view of it, is not what was computed.
                value = x.clone() if x.untyped_storage().data_ptr() in memory else x
                (values if is_between(name) else written)[name] = value
        for name, x in values.items():
            if is_between(name) and name_and_type(name)[0] in own:
                written[name_and_type(name)[0]] = x
        for name, x in written.items():
            own[name].copy_(x)


def is_between(name: str) -> bool:
    """Whether a name is that of a value between parts."""
    return name.startswith(BETWEEN)


def room(kind: Type, theta: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for a value, with zeros in it.

    Args:
        kind: its type.
        theta: the parameter as it is read.
        dtype: that of the value.
    """
    return torch.zeros(value_shape(kind, theta.shape), dtype=dtype, device=theta.device)


def plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as kernels take it: itself, if it is one already, or a copy."""
    usual = type(x) in PLAIN and not without_values(x) and not x._is_zerotensor()
    if usual and x.dtype is dtype and x.is_contiguous() and not x.is_neg():
        return x
    return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x)


def overlapping(tensors: Iterable[Tensor]) -> bool:
    """Whether some of these, each of which is contiguous, share memory."""
    ranges = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.itemsize) for x in tensors)
    return any(end > begin for (_, end), (begin, _) in itertools.pairwise(ranges))
