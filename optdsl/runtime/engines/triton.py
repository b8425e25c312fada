"""The engine for emitted Triton: all tensors of a call in one launch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from optdsl.artifact import Artifact, Target
from optdsl.ir.program import Program
from optdsl.ir.text import parse_program
from optdsl.plan.keys import is_pending, pending
from optdsl.runtime.build.python_modules import module
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import HyperGradients, ParameterTask
from optdsl.runtime.engines.call_arguments import Rows
from optdsl.runtime.engines.entry_task import Task
from optdsl.runtime.engines.launch_arguments import Launch, launch, sent
from optdsl.runtime.engines.packed import PackedEngine
from optdsl.schedule import Role


class NoTriton(Exception):
    """Triton is not there, or cannot run on the device; the message says what to do."""


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for, which runs kernels on the CPU, slowly."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def runs_on(device: torch.device) -> bool:
    """Whether Triton's kernels can run on tensors of a device."""
    return device.type in {"cuda", "xpu"} or (device.type == "cpu" and interpreted())


# A rule whose kernels are made as all are: uniform values, loops over spans, and sums for what is
# learned. What Triton or the device lacks fails here, before a step has changed anything.
_TRIAL = """\
program Trial
  hyper lr = 0.5 in [0.0, inf)
  learn lr in [0.0, 1.0] by sgd(lr=0.1) after 0
  %0 = state "m" : tensor
  %1 = gradient : tensor
  %2 = add %0 %1 : tensor
  %3 = parameter : tensor
  %4 = hyper "lr" : uniform
  %5 = mul %4 %2 : tensor
  %6 = sub %3 %5 : tensor
  %7 = constant 0.0 : uniform
  %8 = neg %2 : tensor
  state m : tensor from %7 to %2
  theta : tensor to %6
  tangent lr %8
"""


@functools.cache
def check(device: torch.device, compiled: Callable[[Program, Target], Artifact]) -> None:
    """Refuse a device for which Triton cannot compile, or on which kernels do not compute.

    Args:
        device: of parameters.
        compiled: compiles a program for a target.

    Raises:
        NoTriton: with what to do.
    """
    try:
        import triton  # type: ignore[import-untyped]
    except ImportError as trouble:
        raise NoTriton(f"{trouble}; install triton") from None
    try:
        _try_out(TritonEngine(compiled(parse_program(_TRIAL), Target("triton")), device))
    except Exception as trouble:  # of the compiler, of its launcher's C compiler, of the driver
        lines = str(trouble).strip().splitlines() or [type(trouble).__name__]
        version = getattr(triton, "__version__", "of an unknown version")
        raise NoTriton(
            f"Triton {version} cannot compile for {device} ({lines[-1]}); kernels need Triton 3.5 "
            f'or newer, and backend="eager" runs there without a warning'
        ) from trouble


def _try_out(engine: TritonEngine) -> None:
    """Take two steps by kernels.

    Raises:
        RuntimeError: they have not computed what they should.
        Exception: anything that Triton raises.
    """
    theta = torch.ones(3, device=engine.device)
    work = ParameterTask(theta, torch.ones_like(theta), {}, {"lr": 0.5})
    engine.advance([work], StepCache())
    sums = engine.fused([work], StepCache())
    if (theta.tolist(), sums) != ([-0.5] * 3, {"lr": -3.0}):
        raise RuntimeError(f"kernels compute {theta.tolist()} and {sums} instead of -0.5 and -3")


class TritonEngine(PackedEngine):
    """Runs the Triton backend's kernels; see `optdsl.runtime.core.tasks.Engine`.

    Hyper-gradients that it returns have to come to the host, which waits for the device.
    """

    def __init__(self, artifact: Artifact, device: torch.device) -> None:
        """Build what was compiled.

        Args:
            artifact: the kernels.
            device: where parameters are.
        """
        super().__init__(artifact, device)
        self.built = module(self.module)
        self.device = device
        self.names = [h.name for h in artifact.program.hypers]
        self.width = 1 + len(self.names)
        if Role.COMPLETE in self.module.entries or Role.FUSED in self.module.entries:
            self.width *= 2

    def _called(self, task: Task) -> HyperGradients:
        """See `PackedEngine`."""
        names, entry = self.names, task.entry
        if any(map(is_pending, entry.hypers)):
            names = [*names, pending("t"), *map(pending, names)]
        rows = Rows(names, self._program, self.width)
        numbers = rows.of(task.works, task.counts, task.pending)
        given = sent(list(rows.values), torch.float64, self._device).view(-1, self.width)
        ready = launch(entry, task.columns, numbers, given, self.built, task.own)
        self.run(entry.name, ready)
        task.finish()
        if not entry.dots:
            return {}
        return dict(zip(entry.dots, ready.dots.sum(1).tolist(), strict=True))

    def run(self, name: str, ready: Launch, *flags: bool) -> None:
        """Launch an entry point on the device's current stream."""
        self.launched(getattr(self.built, name), ready, *flags)

    def launched(self, function: Callable[..., None], ready: Launch, *flags: bool) -> None:
        """Call an emitted host function where the device is the current one."""
        launched(self.device, function, ready, *flags)


def launched(device: torch.device, function: Callable[..., Any], *arguments: Any) -> None:
    """Call an emitted host function where a device is the current one."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            function(*arguments)
    elif device.type == "cpu":
        import numpy as np

        # The interpreter computes with it, and it warns of what kernels do on purpose.
        with np.errstate(all="ignore"):
            function(*arguments)
    else:
        function(*arguments)
