"""The engine for emitted C of programs whose tensors are read as matrices, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from optdsl.artifact import Artifact
from optdsl.ir.laws import Stage
from optdsl.ir.ops import stages
from optdsl.ir.sections import read_as
from optdsl.runtime.build.python_modules import Rule, function
from optdsl.runtime.core.tasks import COMPUTE, ParameterTask
from optdsl.runtime.engines.c import functions_of
from optdsl.runtime.engines.eager import EagerEngine
from optdsl.runtime.engines.matrix_kernels import (
    Interleaved,
    MatrixKernel,
    overlapping,
    plain,
    room,
)
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
        self._types = {s.name: s.type for s in artifact.plan.states}

    def _built(self, artifact: Artifact) -> Rule:
        functions = functions_of(artifact.module)
        made = {
            name: MatrixKernel(artifact, entry, functions[name])
            for name, entry in artifact.module.entries.items()
        }
        self._kernel: MatrixKernel | Interleaved
        if artifact.beside is None:
            self._kernel = made[Role.STEP]
            return Rule(made[Role.INITIALIZE], self._kernel)
        self._kernel = Interleaved(artifact, made)
        return Rule(function(artifact.beside, Role.INITIALIZE), self._kernel)

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
        own = {"theta": plain(theta, self._dtype)}
        sampled = self._samples.of(work) is not None
        apart = self.plan.kept if sampled else ()
        for name in kernel.entry.states:
            # A tangent is not there before the first step, and of a sample not of this shape.
            there = name in held and name not in apart
            given = held[name] if there else room(self._types[name], theta, compute)
            own[name] = plain(given, compute)
        g = plain(gradient, self._dtype)
        if overlapping([g, *own.values()]):
            g, own = g.clone(), {name: x.clone() for name, x in own.items()}
        kernel.run(g, own, work.hypers, t)
        # What was read may be a copy.
        if own["theta"].data_ptr() != parameter.data_ptr():
            parameter.copy_(self._reading.written(own["theta"], parameter))
        else:
            # As if torch had made the writes.
            torch.autograd.graph.increment_version([parameter])
        for name, x in own.items():
            kept = state.get(name)
            if name == "theta" or (kept is not None and x.data_ptr() == kept.data_ptr()):
                continue
            result = self._reading.written(x, parameter, name)
            if name in apart:
                result = self._samples.kept(result, work)
            if kept is not None and kept.dtype is compute and kept.shape == result.shape:
                kept.copy_(result)
            else:
                # Loaded in another precision, or a tangent, which is not there before.
                state[name] = result.contiguous()

    def _inputs(self, work: ParameterTask) -> tuple[Tensor, Tensor]:
        """The parameter and the gradient, as what computes the initial states takes them.

        That is a kernel, or, of a program with products, PyTorch code, which computes in the dtype
        that it is given.
        """
        read = self._reading.read
        theta, gradient = read(work.parameter.detach()), read(work.gradient)
        if isinstance(self._kernel, MatrixKernel):
            return theta, gradient
        compute = COMPUTE[self._dtype]
        return theta.to(compute), gradient.to(compute)
