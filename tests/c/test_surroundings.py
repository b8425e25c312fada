"""C among everything else: autograd, layouts, views, the processor's state, threads, devices."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines.c import CEngine
from tests.oracles import problems

from . import rules

pytestmark = pytest.mark.broad(8)

# --- tensors --------------------------------------------------------------------------------------


def step(parameter: Tensor, gradient: Tensor, rule: str = "adam", backend: str = "c") -> Tensor:
    """Two steps through the engine, which takes any gradient; the parameter."""
    cls = rules.load(rule, backend=backend, learn=False)
    program = cls.compiled.program
    engine = cls.compiled.parts.whole.of(parameter)
    work = ParameterTask(parameter, gradient, {}, {h.name: h.default for h in program.hypers})
    with torch.no_grad():
        for _ in range(2):
            engine.advance([work], StepCache())
    return parameter


def test_autograd_finds_out_about_the_write() -> None:
    """As with torch's own optimizers: what a graph has saved is not what it was."""
    for make in (optdsl.load("adam", backend="c"), torch.optim.Adam):
        parameter = nn.Parameter(torch.ones(3))
        loss = (parameter * parameter).sum()
        parameter.grad = torch.ones(3)
        version = parameter._version
        make([parameter], lr=0.1).step()
        assert parameter._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@pytest.mark.parametrize("rule", ["adam", "mada", "lamb"])
def test_autograd_finds_out_about_each_of_many(rule: str) -> None:
    held = [nn.Parameter(x) for x in (torch.ones(3), torch.ones(4, 4).t(), torch.ones(8)[::2])]
    optimizer = rules.load(rule, backend="c")(held)
    for _ in range(3):
        versions = [p._version for p in held]
        for p in held:
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert all(p._version > v for p, v in zip(held, versions, strict=True))


def test_the_gradient_is_not_written() -> None:
    for rule in rules.RULES:
        parameter = nn.Parameter(torch.randn(5, 3))
        cls = rules.load(rule, backend="c", learn=rules.learning(rule))
        optimizer = cls([parameter])
        parameter.grad = torch.randn(5, 3)
        kept, version = parameter.grad.clone(), parameter.grad._version
        for _ in range(3):
            optimizer.step()
        assert torch.equal(parameter.grad, kept)
        assert parameter.grad._version == version
        assert not parameter.grad.requires_grad


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "transposed in memory": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second": lambda x: torch.stack([x, -x], -1)[..., 0],
    "in the middle": lambda x: torch.cat([x[:1] * 0, x, x[:1] * 0])[1:-1],
    "one number for all": lambda x: x.flatten()[3].expand(x.shape),
    "one number a row": lambda x: x[:, :1].expand(x.shape),
    "overlapping": lambda x: x.flatten().as_strided(x.shape, (1, 2, 1, 3)),
    "float64": lambda x: x.double(),
    "bfloat16": lambda x: x.bfloat16(),
    "another layout and dtype": lambda x: x.double().transpose(0, 3).contiguous().transpose(0, 3),
}
PARAMETERS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.clone,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "every second": lambda x: torch.stack([x, x], -1)[..., 0],
}


@pytest.mark.parametrize("layout", PARAMETERS)
@pytest.mark.parametrize("form", GRADIENTS)
@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_any_gradient_of_any_parameter(rule: str, form: str, layout: str) -> None:
    """The result of a contiguous float32 gradient with the same numbers, and the same layout."""
    generator = problems.seeded(0)
    start = problems.randn(generator, 2, 3, 4, 5).float()
    gradient = GRADIENTS[form](problems.randn(generator, 2, 3, 4, 5).float())
    parameter = PARAMETERS[layout](start.clone())
    stride, kept = parameter.stride(), gradient.clone()
    found = step(parameter, gradient, rule)
    expected = step(start.clone(), gradient.float().contiguous(), rule, backend="eager")
    assert found.stride() == stride
    assert torch.equal(gradient, kept)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", ["adam", "mada", "lamb"])
@pytest.mark.parametrize("dtype", rules.DTYPES, ids=str)
def test_the_neighbours_of_a_view_are_untouched(rule: str, dtype: torch.dtype) -> None:
    storage = torch.full((20_000,), 7.0, dtype=dtype)
    held = [
        nn.Parameter(storage[1:4]),
        nn.Parameter(storage[5:8702]),
        nn.Parameter(storage[9001:9301:3]),
        nn.Parameter(storage[10_000:10_035].view(5, 7).t()[1:5]),
        nn.Parameter(storage[19_999:]),
    ]
    own = torch.zeros(20_000, dtype=torch.bool)
    for p in held:
        own.as_strided(p.shape, p.stride(), p.storage_offset()).fill_(True)
    optimizer = rules.load(rule, backend="c")(held, lr=0.1)
    for _ in range(3):
        for p in held:
            p.grad = torch.full_like(p, 0.5)
        optimizer.step()
    assert (storage[~own] == 7).all()
    assert (storage[own] != 7).all()


@pytest.mark.parametrize("learned", [False, True])
def test_a_thousand_tensors_at_once(learned: bool) -> None:
    generator = problems.seeded(1)
    sizes = torch.randint(0, 60, (1000,), generator=generator).tolist()
    start = [problems.randn(generator, n).float() for n in sizes]
    gradients = [problems.randn(generator, n).float() for n in sizes]
    results = []
    for backend in rules.BACKENDS:
        held = [nn.Parameter(x.clone()) for x in start]
        optimizer = optdsl.load("adam_avgrad", backend=backend, learn=learned)(held)
        for t in range(3):
            for p, g in zip(held, gradients, strict=True):
                p.grad = (t + 1) * g
            optimizer.step()
        results.append([p.detach() for p in held])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_parameters_of_all_dtypes_in_one_optimizer() -> None:
    sums = []
    for backend in rules.BACKENDS:
        held = [p for dtype in rules.DTYPES for p in rules.tensors(dtype)]
        optimizer = rules.load("mada", backend=backend, learn=rules.learning("mada"))(held)
        for row in zip(*(rules.gradients(dtype, 4) for dtype in rules.DTYPES), strict=True):
            for p, g in zip(held, [g for part in row for g in part], strict=True):
                p.grad = g
            optimizer.step()
        sums.append(optimizer.metrics())
    assert sums[0]["hypergradient/rho"] != 0
    assert sums[1] == pytest.approx(sums[0], rel=1e-3)


# --- the process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("flush", [False, True])
def test_loading_and_running_leave_subnormal_numbers_alone(flush: bool) -> None:
    """The processor's mode is torch's to set; a fresh text makes a fresh library."""
    tiny = torch.full((64,), 1e-40)
    if not torch.set_flush_denormal(flush):
        pytest.skip("the processor has no such mode")
    try:
        cls = optdsl.compile(
            f"optimizer Own{flush}\nstate m = 0\nm' = g\ntheta' = theta - m'\n", backend="c"
        )
        parameter = nn.Parameter(torch.ones(10))
        parameter.grad = torch.ones(10)
        cls([parameter]).step()
        assert bool((tiny * 0.5 == 0).all()) == flush
    finally:
        torch.set_flush_denormal(False)
    assert bool((tiny * 0.5 != 0).all())


THREADS = """
import os, sys, torch, optdsl
count = lambda: len(os.listdir("/proc/self/task"))
torch.set_num_threads(1)
parameter = torch.nn.Parameter(torch.ones(1_000_000))
parameter.grad = torch.ones(1_000_000)
optimizer = optdsl.load("adam", backend="c")([parameter])
for _ in range(2):
    optimizer.step()
alone = count()
torch.set_num_threads(3)
optimizer.step()
print(alone, count())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.exhaustive
def test_as_many_threads_as_torch_has() -> None:
    """One thread starts none; three start two more."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert (before, after - before) == (before, 2)


# --- which engine ---------------------------------------------------------------------------------


def test_auto_is_c_on_the_processor_and_eager_elsewhere() -> None:
    engines = optdsl.load("adam", backend="auto").compiled.parts.whole
    assert isinstance(engines.of(torch.empty(3)), CEngine)
    assert isinstance(engines.of(torch.empty(3, dtype=torch.bfloat16)), CEngine)
    assert engines.of(torch.empty(3, device="meta")) is engines.eager


def test_c_refuses_another_device_and_says_what_to_do() -> None:
    engines = optdsl.load("adam", backend="c").compiled.parts.whole
    with pytest.raises(RuntimeError, match='on meta; backend="auto" serves every device'):
        engines.of(torch.empty(3, device="meta"))


@pytest.mark.parametrize("backend", ["c", "auto"])
def test_without_a_compiler_it_is_eager_with_one_warning(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/nonexistent")
    text = f"optimizer Own{backend}\nstate m = 0\nm' = ema(m, g, 0.9)\ntheta' = theta - m'\n"
    results = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in (backend, "eager"):
            held = [p for dtype in rules.DTYPES for p in rules.tensors(dtype)]
            optimizer = optdsl.compile(text, backend=name)(held)
            for row in zip(*(rules.gradients(dtype, 3) for dtype in rules.DTYPES), strict=True):
                for p, g in zip(held, [g for part in row for g in part], strict=True):
                    p.grad = g
                optimizer.step()
            results.append([p.detach().clone() for p in held])
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert "install gcc or clang, or set CC to a C compiler" in str(warning.message)
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)
