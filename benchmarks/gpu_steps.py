"""Steps on a GPU, measured side by side with torch's fused Adam."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor, nn

from benchmarks.builders import build
from benchmarks.contestants import CONTESTANTS
from benchmarks.sizes import Shape

REFERENCE = "torch-fused"
Parameters = list[nn.Parameter]


class Device:
    """Where steps are taken, and how their time is told.

    Attributes:
        kind: "cuda", or "cpu" for a try.
        name: what reports call it.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.cuda = kind == "cuda"
        self.name = torch.cuda.get_device_name() if self.cuda else "Triton's interpreter"
        # A turn lasts long enough to be told by events.
        self.turns, self.steps, self.hosts = (15, 10, 25) if self.cuda else (3, 1, 3)

    def wait(self) -> None:
        """Until all is done."""
        if self.cuda:
            torch.cuda.synchronize()

    def empty(self) -> None:
        """Give back memory that nothing uses."""
        if self.cuda:
            torch.cuda.empty_cache()

    def seconds(self, action: Callable[[], None]) -> float:
        """How long the device takes for it."""
        if not self.cuda:
            start = time.perf_counter()
            action()
            return time.perf_counter() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        action()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def copy_bandwidth(self) -> float:
        """Bytes per second of copying a large tensor, those read and those written."""
        count = 2**28 if self.cuda else 2**16
        source = torch.ones(count, device=self.kind)
        to = torch.empty_like(source)
        to.copy_(source)
        times = [self.seconds(lambda: to.copy_(source)) for _ in range(20)]
        return 2 * 4 * count / statistics.median(times)

    def cache(self) -> int:
        """Bytes of the cache before the memory."""
        return torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 0

    @contextmanager
    def peak(self) -> Iterator[list[int]]:
        """The most memory that was taken meanwhile, above what was taken before."""
        found = [0]
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        yield found
        if self.cuda:
            found[0] = torch.cuda.max_memory_allocated() - before


# Of `benchmarks.contestants`, in order of importance.
STEPS = (
    "torch-fused", "adam", "mada-overlapped", "mada-exact", "mada-interior", "torch-foreach",
    "torch-compile",
)  # fmt: skip


@dataclass
class Measured:
    """What was found of a contestant.

    Attributes:
        workload, dtype, contestant: what it is of.
        ratio: of its time to the reference's, the median of turns that followed each other.
        quartiles: around it.
        seconds: a step's time on the device.
        share: of the bandwidth of a copy, by the bytes that the step has to move; 0 if unknown.
        host, host_ratio: a step's time on the host, which does not wait, and as a ratio.
        launches: kernels that a step launches; None if unknown.
        waits: how often the host waits for the device in a step; None if unknown.
        peak: bytes above parameters and gradients.
    """

    workload: str
    dtype: str
    contestant: str
    ratio: float
    quartiles: tuple[float, float]
    seconds: float
    share: float
    host: float
    host_ratio: float
    launches: float | None
    waits: float | None
    peak: int


class _Runner:
    """An optimizer over as many copies of a model as the cache cannot hold."""

    def __init__(
        self, device: Device, contestant: str, shapes: Sequence[Shape], gradients: list[Tensor]
    ) -> None:
        count = sum(map(prod, shapes))
        width = gradients[0].element_size()
        # Parameters, gradients, and two states at least.
        copies = max(1, ceil(4 * device.cache() / (count * (2 * width + 8))))
        self._optimizers = []
        for _ in range(min(copies, 16)):
            parameters = [nn.Parameter(torch.zeros_like(g).normal_()) for g in gradients]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            self._optimizers.append(build(contestant, parameters, "triton"))
        self._next = 0
        reads_and_writes = CONTESTANTS[contestant].traffic
        # The parameter and one gradient are narrow, read both and one of them written.
        words = sum(reads_and_writes) - 3
        self.bytes = count * (4 * words + 3 * width)

    def step(self) -> None:
        """Of the next copy."""
        self._optimizers[self._next].step()
        self._next = (self._next + 1) % len(self._optimizers)

    def steps(self, count: int) -> None:
        """Several of them."""
        for _ in range(count):
            self.step()

    def warm(self) -> None:
        """Compile, make states, and let steps become alike."""
        self.steps(4 * len(self._optimizers))


def measured(
    device: Device,
    workload: str,
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    contestant: str,
    copy: float,
) -> Measured:
    """Measure a contestant beside the reference."""
    generator = torch.Generator(device.kind).manual_seed(0)
    gradients = [
        torch.randn(shape, generator=generator, device=device.kind).to(dtype) / 100
        for shape in shapes
    ]
    reference = _Runner(device, REFERENCE, shapes, gradients)
    reference.warm()
    with device.peak() as peak:
        runner = _Runner(device, contestant, shapes, gradients)
        runner.warm()
        device.wait()
    own = sum(g.numel() * g.element_size() for g in gradients) * len(runner._optimizers)
    pairs = []
    for _ in range(device.turns):
        times = [
            device.seconds(lambda r=r: r.steps(device.steps)) / device.steps
            for r in (runner, reference)
        ]
        pairs.append(times)
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    seconds = statistics.median(ours for ours, _ in pairs)
    quarter = len(ratios) // 4
    hosts = [(_host(device, runner), _host(device, reference)) for _ in range(device.hosts)]
    return Measured(
        workload=workload,
        dtype=str(dtype)[6:],
        contestant=contestant,
        ratio=statistics.median(ratios),
        quartiles=(ratios[quarter], ratios[-1 - quarter]),
        seconds=seconds,
        share=runner.bytes / seconds / copy if copy else 0.0,
        host=statistics.median(h for h, _ in hosts),
        host_ratio=statistics.median(h / r for h, r in hosts),
        launches=_launches(device, runner),
        waits=_waits(device, runner),
        peak=max(0, peak[0] - own) // len(runner._optimizers),
    )


def _host(device: Device, runner: _Runner) -> float:
    """How long the host takes for a step when nothing is in the queue."""
    device.wait()
    start = time.perf_counter()
    runner.step()
    return time.perf_counter() - start


def _launches(device: Device, runner: _Runner) -> float | None:
    """How many kernels a step launches, as far as the profiler sees them."""
    if not device.cuda:
        return None
    from torch.profiler import ProfilerActivity, profile

    steps = 4
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        runner.steps(steps)
        torch.cuda.synchronize()
    kinds = (torch.autograd.DeviceType.CUDA,)
    kernels = [
        event
        for event in profiler.events()
        if event.device_type in kinds and not event.name.startswith(("Memcpy", "Memset"))
    ]
    return len(kernels) / steps if kernels else None


def _waits(device: Device, runner: _Runner) -> float | None:
    """How often the host waits for the device in a step."""
    if not device.cuda:
        return None
    steps = 4
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            runner.steps(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught) / steps
