"""The engine for emitted C of programs whose tensors are read as matrices, on the CPU."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.artifact import Artifact
from optdsl.backends.base import EntryPoint
from optdsl.ir.laws import Stage
from optdsl.ir.ops import stages
from optdsl.ir.program import Program
from optdsl.ir.sections import read_as, value_shape
from optdsl.runtime.build.python_modules import Rule
from optdsl.runtime.core.owned_numbers import without_values
from optdsl.runtime.core.tasks import COMPUTE, PLAIN, ParameterTask
from optdsl.runtime.engines.c import functions_of
from optdsl.runtime.engines.call_arguments import threads
from optdsl.runtime.engines.eager import EagerEngine
from optdsl.schedule import Role

# Matrices with fewer columns are narrow, and tensors of at least so many elements large.
_NARROW, _MANY = 16, 1 << 16


class MatrixEngine(EagerEngine):
    """Runs the C backend's kernels of matrices; see `optdsl.runtime.core.tasks.Engine`.

    Tensors are read, stacked and kept as by `EagerEngine`. A step is taken in the memory of the
    parameter and of the states, where these are as kernels take them; others are copied.
    """

    def __init__(
        self, artifact: Artifact, eager: Callable[[], EagerEngine], every: bool = True
    ) -> None:
        """Build what was compiled.

        Args:
            artifact: what was compiled.
            eager: the engine for what is left to eager code.
            every: whether nothing is left to eager code only because C is no faster there.

        Raises:
            NoCompiler, BuildError: as `optdsl.runtime.build.library_cache.shared_library`.
        """
        super().__init__(artifact)
        self._eager, self._every = eager, every
        self._reduces = Stage.ALONG in stages(artifact.program.operations)
        self._kind = artifact.program.kind
        self._dtype: torch.dtype = getattr(torch, artifact.target.dtype)

    def _built(self, artifact: Artifact) -> Rule:
        functions = functions_of(artifact.module)
        initialize, self._kernel = (
            Kernel(artifact, artifact.module.entries[name], functions[name])
            for name in (Role.INITIALIZE, Role.STEP)
        )
        return Rule(initialize, self._kernel)

    def leaves(self, parameter: Tensor) -> bool:
        """Whether eager code steps a parameter.

        C reduces matrices row by row, at the cost of a few elements for each row: of Adafactor's
        steps, those of 4096 matrices of 7 by 7 take 1.2 of the time of eager code, those of 100,000
        by 2 0.9, and those of 768 by 3072 0.6. Matrices without elements have initial states only.
        """
        count = parameter.numel()
        if self._every or not self._reduces or count < _MANY:
            return not count
        return read_as(self._kind, parameter.shape)[-1] < _NARROW

    def _start(self, work: ParameterTask) -> None:
        if self.leaves(work.parameter):
            self._eager()._start(work)
        else:
            super()._start(work)

    def _advance(self, work: ParameterTask, t: float) -> None:
        if self.leaves(work.parameter):
            self._eager()._advance(work, t)
            return
        state, parameter = work.state, work.parameter
        compute, kernel = COMPUTE[self._dtype], self._kernel
        read = self._reading.read
        theta, gradient = read(parameter.detach()), read(work.gradient)
        held = self._reading.states(state, parameter)
        missing = {n: kernel.room(n, theta) for n in kernel.entry.states if n not in held}
        given = {
            name: held[name] if name in held else missing[name] for name in kernel.entry.states
        }
        own = {"theta": plain(theta, self._dtype)}
        own |= {name: plain(x, compute) for name, x in given.items()}
        g = plain(gradient, self._dtype)
        if _overlapping([g, *own.values()]):
            g, own = g.clone(), {name: x.clone() for name, x in own.items()}
        kernel.run(g, own, work.hypers, t)
        if own["theta"] is not theta:
            parameter.copy_(self._reading.written(own["theta"], parameter))
        else:
            # As if torch had made the writes.
            torch.autograd.graph.increment_version([parameter])
        for name, x in own.items():
            if name == "theta" or x is held.get(name):
                continue
            kept = state.get(name)
            result = self._reading.written(x, parameter, name)
            if kept is not None and kept.dtype is compute and kept.shape == result.shape:
                kept.copy_(result)
            else:
                # Loaded in another precision, or a tangent, which is not there before.
                state[name] = result.contiguous()

    def _inputs(self, work: ParameterTask) -> tuple[Tensor, Tensor]:
        """The parameter and the gradient as the rule reads them."""
        read = self._reading.read
        return read(work.parameter.detach()), read(work.gradient)


class Kernel:
    """An entry point of a library, called with tensors; in place of a `Function`.

    Attributes:
        entry: what it takes.
    """

    def __init__(self, artifact: Artifact, entry: EntryPoint, function: Callable[..., int]) -> None:
        """See the class."""
        self.entry = entry
        self._program: Program = artifact.program
        self._types = {s.name: s.type for s in artifact.plan.states}
        self._dtype: torch.dtype = getattr(torch, artifact.target.dtype)
        self._compute = COMPUTE[self._dtype]
        self._function = function

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
            own[name] = (
                self.room(name, theta) if given is None else plain(given, self._compute).clone()
            )
        self.run(plain(g, self._dtype), own, hypers, t)
        return {name: own[name] for name in self.entry.results if name in own}

    def room(self, name: str, theta: Tensor) -> Tensor:
        """Memory for a state, with zeros in it.

        Args:
            name: the state.
            theta: the parameter as it is read.
        """
        shape = value_shape(self._types[name], theta.shape)
        return torch.zeros(shape, dtype=self._compute, device="cpu")

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
            MemoryError: there is none for the working space, and nothing has changed.
            RuntimeError: a state has another shape than its parameter says.
        """
        theta = own["theta"]
        for name in self.entry.states:
            expected = value_shape(self._types[name], theta.shape)
            if tuple(own[name].shape) != expected:
                raise RuntimeError(
                    f"{self._program.name}: {name} has shape {tuple(own[name].shape)}, and its "
                    f"parameter is read as {tuple(theta.shape)}; has the parameter changed since?"
                )
        if g.shape != theta.shape:
            raise RuntimeError(
                f"{self._program.name}: gradient has shape {tuple(g.shape)}, and its parameter is "
                f"read as {tuple(theta.shape)}"
            )
        rows, cols = theta.shape[-2:]
        shape = (ctypes.c_int64 * 3)(theta.numel() // (rows * cols), rows, cols)
        tensors = (theta, g, *(own[name] for name in self.entry.states))
        memory = (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
        values = [t, *(hypers[name] for name in self.entry.hypers)]
        numbers = (ctypes.c_double * len(values))(*values)
        if self._function(shape, memory, numbers, ctypes.c_int(threads())):
            raise MemoryError("no memory for the step's working space")


def plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor as kernels take it: itself, if it is one already, or a copy."""
    usual = type(x) in PLAIN and not without_values(x) and not x._is_zerotensor()
    if usual and x.dtype is dtype and x.is_contiguous() and not x.is_neg():
        return x
    return torch.empty(x.shape, dtype=dtype, device="cpu").copy_(x)


def _overlapping(tensors: Sequence[Any]) -> bool:
    """Whether some of these, each of which is contiguous, share memory."""
    ranges = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.itemsize) for x in tensors)
    return any(end > begin for (_, end), (begin, _) in itertools.pairwise(ranges))
