"""Whether steps on a GPU are what they should be; each check says what is wrong, or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import optdsl
from benchmarks.builders import INTERIOR, LEARN
from benchmarks.gpu_steps import Device

SHAPES = ((), (7,), (33, 65), (4099,))
# How far results may be from those of eager code, in parts of the largest number.
NEAR = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


class _Model:
    """Parameters in two groups, one of them beginning anywhere in its memory; gradients."""

    def __init__(self, device: Device, cls: Callable[..., Any], dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
        self.held = [nn.Parameter(self._placed(x.to(device.kind, dtype))) for x in drawn]
        groups = [{"params": self.held[:2]}, {"params": self.held[2:], "lr": 5e-4}]
        self.optimizer = cls(groups)
        self._generator = generator
        for parameter in self.held:
            parameter.grad = torch.zeros_like(parameter)

    @staticmethod
    def _placed(x: Tensor) -> Tensor:
        if x.ndim != 2:
            return x
        room = torch.zeros(x.numel() + 1, dtype=x.dtype, device=x.device)
        return room[1:].view_as(x).copy_(x)

    def feed(self) -> None:
        """Give each parameter its next gradient, where the last one was."""
        for parameter in self.held:
            drawn = torch.randn(parameter.shape, generator=self._generator, dtype=torch.float64)
            assert parameter.grad is not None
            parameter.grad.copy_(drawn)

    def step(self) -> None:
        self.feed()
        self.optimizer.step()


def _mada(backend: str, order: str) -> Callable[..., Any]:
    cls = optdsl.load("mada", backend=backend, order=order, learn=LEARN)
    return lambda groups: cls(groups, **INTERIOR)


def _differences(ours: _Model, theirs: _Model, dtype: torch.dtype, metrics: bool) -> str:
    for number, (x, y) in enumerate(zip(ours.held, theirs.held, strict=True)):
        x, y = x.detach().double(), y.detach().double()
        gap = float((x - y).abs().max())
        allowed = NEAR[dtype] * max(float(y.abs().max()), 1.0)
        if not gap <= allowed:
            return f"parameter {number} is {gap:.2g} away, where {allowed:.2g} is allowed"
    if metrics:
        found, expected = ours.optimizer.metrics(), theirs.optimizer.metrics()
        for key, value in expected.items():
            allowed = max(NEAR[dtype], 1e-5 * (dtype is not torch.float64)) * max(abs(value), 1.0)
            if not abs(found[key] - value) <= 10 * allowed:
                return f"{key} is {found[key]!r}, and should be {value!r}"
    return ""


def _both(ours: _Model, theirs: _Model, dtype: torch.dtype) -> None:
    """A step of each."""
    if dtype is torch.bfloat16:
        # What a tie has rounded the other way must not go on.
        for x, y in zip(theirs.held, ours.held, strict=True):
            x.data.copy_(y.data)
    ours.step()
    theirs.step()


def _adam(device: Device, dtype: torch.dtype) -> str:
    ours = _Model(device, optdsl.load("adam", backend="triton"), dtype)
    theirs = _Model(device, lambda groups: torch.optim.Adam(groups, foreach=False), dtype)
    if dtype is torch.bfloat16:
        # torch keeps bfloat16 states; eager code keeps float32 ones as we do.
        theirs = _Model(device, optdsl.load("adam", backend="eager"), dtype)
    for _ in range(5):
        _both(ours, theirs, dtype)
    return _differences(ours, theirs, dtype, metrics=False)


def _learning(device: Device, dtype: torch.dtype, order: str) -> str:
    ours = _Model(device, _mada("triton", order), dtype)
    theirs = _Model(device, _mada("eager", order), dtype)
    for _ in range(6):
        _both(ours, theirs, dtype)
    return _differences(ours, theirs, dtype, metrics=dtype is not torch.bfloat16)


def _waits(device: Device, order: str) -> str:
    """Whether a step of the same parameters waits for the device."""
    if not device.cuda:
        return ""
    model = _Model(device, _mada("triton", order), torch.float32)
    for _ in range(4):
        model.step()
    model.feed()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return str(caught[0].message) if caught else ""


def _graph(device: Device, order: str) -> str:
    """Whether a captured step, replayed, does what steps do."""
    if not device.cuda:
        return ""
    replayed, stepped = (_Model(device, _mada("triton", order), torch.float32) for _ in range(2))
    for model in (replayed, stepped):
        for _ in range(4):
            model.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed.optimizer.step()
    for _ in range(5):
        replayed.feed()
        graph.replay()
        stepped.step()
    wrong = _differences(replayed, stepped, torch.float32, metrics=True)
    counts = [float(m.optimizer.state[m.held[0]]["step"]) for m in (replayed, stepped)]
    return wrong or (
        "" if counts[0] == counts[1] else f"it counted {counts[0]} steps of {counts[1]}"
    )


def _checks() -> dict[str, Callable[[Device], str]]:
    found: dict[str, Callable[[Device], str]] = {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        name = str(dtype)[6:]
        found[f"adam, {name}"] = lambda d, t=dtype: _adam(d, t)
        for order in ORDERS:
            found[f"mada learned, {order}, {name}"] = lambda d, t=dtype, o=order: _learning(d, t, o)
    for order in ORDERS:
        found[f"no wait in a step, {order}"] = lambda d, o=order: _waits(d, o)
        found[f"replayed graph, {order}"] = lambda d, o=order: _graph(d, o)
    return found


ORDERS: Sequence[str] = ("overlapped", "exact")
CHECKS = _checks()
