"""Which engine runs a parameter: chosen by backend, device and dtype, built when first asked."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from optdsl.artifact import Artifact, Target
from optdsl.backends.capabilities import chosen_backends, compiled_backends
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices
from optdsl.ir.storage import PARAMETER, stored
from optdsl.runtime.build.machine_balance import balance
from optdsl.runtime.build.toolchain import BuildError, NoCompiler
from optdsl.runtime.core.owned_numbers import is_fake
from optdsl.runtime.core.tasks import NAMES, PLAIN, Engine, check_dtype
from optdsl.runtime.distributed.boxes import is_boxed
from optdsl.runtime.distributed.collectives import is_dtensor, prefix
from optdsl.runtime.engines.c import CEngine
from optdsl.runtime.engines.eager import EagerEngine
from optdsl.runtime.engines.matrices import MatrixEngine
from optdsl.runtime.engines.sharded.shards import ShardEngine, needs_whole, shard
from optdsl.runtime.engines.sharded.whole import whole_engine
from optdsl.runtime.engines.state_shapes import StateShapes
from optdsl.runtime.engines.triton import NoTriton, TritonEngine, check, runs_on
from optdsl.runtime.engines.triton_matrices import TritonMatrixEngine

_WHERE = {
    "c": "the CPU",
    "triton": "GPUs (and on the CPU where TRITON_INTERPRET=1 asks for Triton's interpreter)",
}


class Engines:
    """The engines of one rule.

    Attributes:
        program: the rule, differentiated, through all passes.
        backend: as it was asked for.
        shapes: of the rule's states.
    """

    def __init__(
        self,
        program: Program,
        backend: str,
        order: str,
        compiled: Callable[[Program, Target], Artifact],
        state_bytes: float | None = None,
    ) -> None:
        """Build nothing yet.

        Args:
            program: differentiated, through all passes.
            backend: "eager", "c", "triton" or "auto".
            order: as of `optdsl.load`.
            compiled: compiles a program for a target.
            state_bytes: as of `optdsl.load`.
        """
        self.program = program
        self.backend = backend
        self.shapes = StateShapes(program)
        self._order, self._bound = order, state_bytes
        self._compiled = compiled
        self._made: dict[tuple[torch.device, torch.dtype], Engine] = {}
        self._sharded: dict[tuple[Engine, Any], Engine] = {}
        known = chosen_backends(program) if backend == "auto" else compiled_backends(program)
        self._backends = {name for name in known if backend in {"auto", name}}
        codecs = stored(program)
        self._widens = PARAMETER in codecs and codecs[PARAMETER].widens

    def of(self, parameter: torch.Tensor) -> Engine:
        """The engine for a parameter.

        Raises:
            RuntimeError: when the backend was asked for by name and does not run on the device.
            BuildError: (a RuntimeError) when it was, and the compiler refuses its text.
            ValueError: for a dtype that no kernel takes.
        """
        if is_fake(parameter):
            return self.eager  # it has no memory, whatever its device
        if is_traceable_wrapper_subclass(parameter):
            if is_dtensor(parameter):
                return self._of_shards(parameter)
            return self._of_a_wrapper()
        if type(parameter) not in PLAIN and parameter.numel() and not parameter.data_ptr():
            return self._of_a_wrapper()
        key = (parameter.device, parameter.dtype)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _of_shards(self, parameter: torch.Tensor) -> Engine:
        """The engine for DTensors that are placed like this one: that of their shards."""
        inner = self.of(shard(parameter))
        if not needs_whole(self.program, parameter):
            key: tuple[Engine, Any] = inner, prefix(parameter)
            if key not in self._sharded:
                self._sharded[key] = ShardEngine(inner, prefix(parameter))
            return self._sharded[key]
        # One engine for a mesh, on every rank: its steps have collectives.
        key = inner, (parameter.device_mesh, is_boxed(parameter))  # type: ignore[attr-defined]
        if key not in self._sharded:
            self._sharded[key] = whole_engine(inner, self.program, parameter)
        return self._sharded[key]

    def _of_a_wrapper(self) -> Engine:
        """The engine for tensors without memory of their own that are no DTensors."""
        if self.backend in {"c", "triton"}:
            raise RuntimeError(
                f'{self.program.name} was compiled with backend="{self.backend}", which takes '
                f'plain tensors, and a parameter wraps others; backend="auto" serves both'
            )
        return self.eager

    @functools.cached_property
    def eager(self) -> EagerEngine:
        """The engine that runs everywhere."""
        return EagerEngine(self._compiled(self.program, self._target("eager", torch.float32)))

    def _target(self, backend: str, dtype: torch.dtype) -> Target:
        """What is compiled for parameters of a dtype; one text of eager code serves all."""
        order = "overlapped" if backend == "eager" else self._order
        if self._bound is None:
            return Target(backend, NAMES[dtype], order)
        device = "cuda" if backend == "triton" else "cpu"
        return Target(backend, NAMES[dtype], order, self._bound, balance(device))

    def _make(self, device: torch.device, dtype: torch.dtype) -> Engine:
        check_dtype(self.program.name, dtype)
        if not self._backends or (self._widens and dtype is torch.float64):
            return self.eager  # which says why no wider precision is there
        try:
            if "c" in self._backends and device.type == "cpu":
                made = self._compiled(self.program, self._target("c", dtype))
                if of_matrices(self.program.kind):
                    return MatrixEngine(made, lambda: self.eager, self.backend == "c")
                return CEngine(made)
            if "triton" in self._backends and runs_on(device):
                check(device, self._compiled)
                made = self._compiled(self.program, self._target("triton", dtype))
                if of_matrices(self.program.kind):
                    return TritonMatrixEngine(made, lambda: self.eager)
                return TritonEngine(made, device)
        except (NoCompiler, BuildError, NoTriton) as trouble:
            if self.backend == "c" and isinstance(trouble, BuildError):
                raise
            self._backends.clear()
            warnings.warn(
                f"{self.program.name} runs without compiled kernels, which is slower: {trouble}",
                RuntimeWarning,
                stacklevel=2,
            )
            return self.eager
        if self.backend == "auto":
            return self.eager
        where = _WHERE[self.backend]
        raise RuntimeError(
            f'{self.program.name} was compiled with backend="{self.backend}", which runs on '
            f'{where}, and a parameter is on {device.type}; backend="auto" serves every device'
        )
