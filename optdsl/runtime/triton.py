"""The engine for emitted Triton: all tensors of a call in one launch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import torch

from optdsl.backends.base import SourceModule
from optdsl.backends.triton import TritonBackend
from optdsl.ir.program import Program
from optdsl.plan import pending
from optdsl.runtime.build import module
from optdsl.runtime.calls import Rows
from optdsl.runtime.engines import Sums
from optdsl.runtime.launches import Launch, launch, sent
from optdsl.runtime.tables import TableEngine, Task


class NoTriton(Exception):
    """Triton is not there, or cannot run on the device; the message says what to do."""


def interpreted() -> bool:
    """Whether Triton's interpreter is asked for, which runs kernels on the CPU, slowly."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def runs_on(device: torch.device) -> bool:
    """Whether Triton's kernels can run on tensors of a device."""
    return device.type in {"cuda", "xpu"} or (device.type == "cpu" and interpreted())


_PROBE = """\
import triton
import triton.language as tl


@triton.jit
def probe(x):
    tl.store(x, tl.sqrt(tl.load(x)))
"""


@functools.cache
def check(device: torch.device) -> None:
    """Refuse a device for which Triton cannot compile, or which has no double precision.

    Raises:
        NoTriton: with what to do.
    """
    try:
        import triton  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as trouble:
        raise NoTriton(f"{trouble}; install triton") from None
    x = torch.full((1,), 4.0, dtype=torch.float64, device=device)
    try:
        probe = module(SourceModule("Probe", "python", _PROBE, {})).probe
        if device.type == "cuda":
            with torch.cuda.device(device):
                probe[(1,)](x, enable_fp_fusion=True)
        else:
            probe[(1,)](x, enable_fp_fusion=True)
    except Exception as trouble:  # of the compiler, of its launcher's C compiler, of the driver
        lines = str(trouble).strip().splitlines() or [type(trouble).__name__]
        raise NoTriton(
            f"Triton cannot compile for {device} ({lines[-1]}); "
            f'backend="eager" runs there without a warning'
        ) from trouble


class TritonEngine(TableEngine):
    """Runs the Triton backend's kernels; see `optdsl.runtime.engines.Engine`.

    Hyper-gradients that it returns have to come to the host, which waits for the device.
    """

    def __init__(
        self, program: Program, dtype: torch.dtype, order: str, device: torch.device
    ) -> None:
        """Build a differentiated program for parameters of one dtype on one device.

        Raises:
            NoTriton: as `check`.
        """
        super().__init__(program, dtype, order, TritonBackend(), device)
        check(device)
        self.built = module(self.module)
        self.device = device
        self.names = [h.name for h in program.hypers]
        self.width = 1 + len(self.names)
        if "settle" in self.module.entries or "settle_and_step" in self.module.entries:
            self.width *= 2

    def _called(self, task: Task) -> Sums:
        """See `TableEngine`."""
        names, entry = self.names, task.entry
        if any(name.startswith(pending("")) for name in entry.hypers):
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
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                function(ready, *flags)
        elif self.device.type == "cpu":
            import numpy as np

            # The interpreter computes with it, and it warns of what kernels do on purpose.
            with np.errstate(all="ignore"):
                function(ready, *flags)
        else:
            function(ready, *flags)
