"""Kernels of matrices in C against the interpreter in float64 and eager code."""

from __future__ import annotations

import copy
import ctypes
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import compiler, interpret
from optdsl.runtime.build.library_cache import shared_library
from optdsl.runtime.engines.matrices import MatrixEngine
from optdsl.runtime.engines.matrix_kernels import Interleaved
from optdsl.specifications import library
from tests.oracles.problems import seeded

pytestmark = pytest.mark.broad(2)

EVERY_REDUCTION = """
optimizer EveryReductionInC
  "no paper: a test"

hyper lr   = 0.1 in [0, 1]
hyper beta = 0.7 in [0, 1]

for stacked matrices

state m = 0
state old = 0
state r : rows = 0
state c : cols = 1
state s : scalar = 0
state other : rows = 2
state count : cols = 0

m'     = where(mean(g over cols) > c, ema(m, g, beta), m + 1)
old'   = m
r'     = where(t > 1, ema(r, mean(g^2 over cols), beta), max(g over cols)) + sum(theta over cols)
c'     = where(c > 1, 2, c) + mean(m' over rows) * sum(g over rows) - min(m' over rows)
s'     = s + mean(g) + sum(r') / rows + mean(g over tensor) + sum(m' over tensor) / cols + max(c)
other' = r
count' = count + 1
low    = where(c > sum(c') / cols, max(r'), min(theta over rows))
peak   = max(g) - min(m') + max(g over tensor) - min(r over tensor)
update = r' * c' + s' + low + peak + rows * cols / 100 + spread + where(beta > 0.5, m', 0)
spread = float32(bfloat16(r'))
theta' = theta - lr * update / (1 + rms(update))

otherwise

theta' = theta - lr * g
"""
RULES = ["adafactor", "came", "mars", "adamw with row_floor", EVERY_REDUCTION]
SHAPES: list[tuple[int, ...]] = [
    (37, 53),
    (1, 40),
    (40, 1),
    (3, 4500),
    (700, 5),
    (0, 3),
    (8, 8),
    (8, 8),
    (8, 8),
    (8, 8),
]
STACKS: list[tuple[int, ...]] = [(4, 3, 5, 6), (3, 2, 7), (2, 0, 3)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def loaded(rule: str, backend: str, **options: Any) -> Any:
    if "\n" in rule:
        return optdsl.compile(rule, backend=backend, **options)
    return optdsl.load(rule, backend=backend, **options)


def randn(generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def layouts(x: Tensor, number: int) -> Tensor:
    """The same numbers, which lie in memory in another way."""
    if number % 3 == 1 and x.ndim > 1:
        return x.mT.contiguous().mT
    if number % 3 == 2:
        return torch.stack([x, x], -1)[..., 0]
    return x


def stepped(
    rule: str,
    backend: str,
    dtype: torch.dtype,
    shapes: list[tuple[int, ...]],
    steps: int = 3,
    device: str = "cpu",
) -> tuple[list[nn.Parameter], Any, list[list[Tensor]]]:
    """Parameters after steps, their optimizer, and the gradients of each step."""
    generator = torch.Generator().manual_seed(0)
    start = [randn(generator, s, dtype) for s in shapes]
    parameters = [nn.Parameter(layouts(x.to(device), n)) for n, x in enumerate(start)]
    optimizer, given = loaded(rule, backend)(parameters), []
    for _ in range(steps):
        given.append([randn(generator, s, dtype) for s in shapes])
        for n, (p, g) in enumerate(zip(parameters, given[-1], strict=True)):
            p.grad = layouts(g.to(device), n + 1)
        optimizer.step()
    return parameters, optimizer, given


def shapes_of(rule: str) -> list[tuple[int, ...]]:
    stacked = "\n" in rule or rule in {"adafactor", "came"}
    return [*SHAPES, *STACKS] if stacked else SHAPES


@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_the_interpreter_in_float64(rule: str) -> None:
    shapes = shapes_of(rule)
    parameters, optimizer, given = stepped(rule, "c", torch.float64, shapes)
    program = optimizer.compiled.program
    start, _, _ = stepped(rule, "c", torch.float64, shapes, steps=0)
    for number, (p, theta) in enumerate(zip(parameters, start, strict=True)):
        engine = optimizer.compiled.parts.of(p, optimizer.param_groups[0]).of(p)
        assert type(engine) is MatrixEngine
        if not p.numel():
            continue
        x, kept = theta.detach(), dict[str, Tensor]()
        for t, g in enumerate((step[number] for step in given), start=1):
            hypers = program.defaults
            kept = kept or interpret.initial_state(program, x, g, hypers)
            done = interpret.step(program, x, g, kept, hypers, t)
            x, kept = done.parameter, done.state
        torch.testing.assert_close(p.detach(), x, rtol=1e-11, atol=1e-12)
        assert kept.keys() == optimizer.state[p].keys() - {"step"}
        for name, value in kept.items():
            torch.testing.assert_close(optimizer.state[p][name], value, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("rule", ["adafactor", EVERY_REDUCTION])
def test_steps_are_those_of_eager_code_up_to_rounding(rule: str, dtype: torch.dtype) -> None:
    shapes = shapes_of(rule)
    ours, own, _ = stepped(rule, "c", dtype, shapes)
    theirs, others, _ = stepped(rule, "eager", dtype, shapes)
    unit = torch.finfo(dtype).eps
    for x, y in zip(ours, theirs, strict=True):
        size = y.detach().abs().max().item() if y.numel() else 0.0
        torch.testing.assert_close(x.detach(), y.detach(), rtol=4 * unit, atol=8 * unit * size)
        assert own.state[x].keys() == others.state[y].keys()
        for name, value in others.state[y].items():
            assert own.state[x][name].dtype is value.dtype
            size = value.abs().max().item() if value.numel() else 0.0
            # Sums of float32 numbers: in double precision in C, in single precision in torch.
            torch.testing.assert_close(own.state[x][name], value, rtol=1e-5, atol=3e-6 * size)


@pytest.mark.parametrize("rule", ["came", EVERY_REDUCTION])
def test_the_result_does_not_depend_on_threads_and_is_resumed_to_the_bit(rule: str) -> None:
    shapes = [(300, 700), (4, 30, 50), (3, 4500)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone, _, _ = stepped(rule, "c", torch.float32, shapes)
        torch.set_num_threads(3)
        many, optimizer, _ = stepped(rule, "c", torch.float32, shapes)
    finally:
        torch.set_num_threads(before)
    for x, y in zip(alone, many, strict=True):
        assert torch.equal(x, y)
    copies = [nn.Parameter(p.detach().clone()) for p in many]
    resumed = loaded(rule, "c")(copies)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(many, copies, strict=True):
        p.grad, q.grad = p.detach().cos(), q.detach().cos()
    optimizer.step()
    resumed.step()
    for p, q in zip(many, copies, strict=True):
        assert torch.equal(p, q)
        for name, value in optimizer.state[p].items():
            assert torch.equal(resumed.state[q][name], value)


def test_coefficients_are_learned_as_by_eager_code() -> None:
    learn = {"lr": optdsl.Learn("sgd", lr=1e-3)}
    found = []
    for backend in ("c", "eager"):
        generator = torch.Generator().manual_seed(0)
        p = nn.Parameter(randn(generator, (6, 9), torch.float64))
        optimizer = loaded(EVERY_REDUCTION, backend, learn=learn)([p])
        for _ in range(4):
            p.grad = randn(generator, (6, 9), torch.float64) + p.detach()
            optimizer.step()
        found.append((optimizer.param_groups[0]["lr"], p.detach()))
    assert found[0][0] != 0.1
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-10, atol=1e-12)


def test_a_gradient_that_is_the_parameter_counts_as_it_was() -> None:
    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    p, q = nn.Parameter(x.clone()), nn.Parameter(x.clone())
    p.grad, q.grad = p.detach(), q.detach().clone()
    for parameter in (p, q):
        optdsl.load("adafactor", backend="c")([parameter]).step()
    assert torch.equal(p, q)


def test_what_is_not_finite_stays_where_eager_code_has_it() -> None:
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    x[2, 3], x[4, 7] = torch.nan, torch.inf
    found = []
    for backend in ("c", "eager"):
        p = nn.Parameter(torch.ones(6, 50))
        optimizer = loaded(EVERY_REDUCTION, backend)([p])
        p.grad = x.clone()
        optimizer.step()
        found.append((p.detach(), optimizer.state[p]))
    assert torch.equal(found[0][0].isfinite(), found[1][0].isfinite())
    for name, value in found[1][1].items():
        assert torch.equal(found[0][1][name].isnan(), value.isnan()), name


# Tensors that are not contiguous are copied when they are flattened.
FLATTENED = """
optimizer AroundProducts
  "no paper: a test"

hyper lr   = 0.1 in [0, 1]
hyper beta = 0.7 in [0, 1]

for flattened matrices

state m = 0
state old = 0
state L : rows * rows = 0
state c : cols = 0

m'     = ema(m, g, beta)
old'   = where(t == 2, L @ m, m)
L'     = ema(L, g @ transpose(m'), beta)
p      = (L' @ m') / (1 + norm(L'))
c'     = ema(c, max(p over rows) + mean(theta over rows), beta)
u      = p / sqrt(mean(p^2 over cols) + 1) + m' * c' - sign(old') * min(theta over cols)
theta' = theta - lr * (transpose(L') @ u) / (1 + rms(u))

otherwise

theta' = theta - lr * g
"""
WITH_PRODUCTS = ["adamuon", "normuon with cautious", FLATTENED]


@pytest.mark.parametrize("rule", WITH_PRODUCTS)
def test_parts_in_c_around_products_take_the_steps_of_eager_code(rule: str) -> None:
    shapes: list[tuple[int, ...]] = [(9, 14), (14, 9), (1, 6), (0, 3), *[(8, 8)] * 4]
    shapes += [(4, 3, 2, 2)] * 3 if rule == FLATTENED else []
    ours, own, _ = stepped(rule, "c", torch.float64, shapes)
    theirs, others, _ = stepped(rule, "eager", torch.float64, shapes)
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-9, atol=1e-11)
        assert own.state[x].keys() == others.state[y].keys()
        for name, value in others.state[y].items():
            torch.testing.assert_close(own.state[x][name], value, rtol=1e-9, atol=1e-11)
    engine: Any = own.compiled.parts.of(ours[0], own.param_groups[0]).of(ours[0])
    assert type(engine._kernel) is Interleaved
    resumed = [nn.Parameter(x.detach().clone()) for x in ours]
    again = loaded(rule, "c")(resumed)
    again.load_state_dict(copy.deepcopy(own.state_dict()))
    for p, q in zip(ours, resumed, strict=True):
        p.grad, q.grad = p.detach().cos(), q.detach().cos()
    own.step()
    again.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, resumed, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["c", "eager"])
def test_states_start_in_single_precision(backend: str, dtype: torch.dtype) -> None:
    """The radius of the sphere is the norm of the first parameter, which is not rounded to it."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(4, 6).to(dtype))
    norm = parameter.detach().double().norm()
    optimizer = loaded("muon_h", backend)([parameter])
    parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert float(optimizer.state[parameter]["radius"]) == pytest.approx(float(norm), rel=1e-6)


def test_coefficients_are_learned_around_products() -> None:
    found = []
    for backend in ("c", "eager"):
        generator = torch.Generator().manual_seed(0)
        p = nn.Parameter(randn(generator, (6, 9), torch.float64))
        learn = {"lr": optdsl.Learn("sgd", lr=1e-3), "weight_decay": optdsl.Learn("sgd", lr=1e-3)}
        optimizer = optdsl.load("normuon", backend=backend, learn=learn)([p])
        for _ in range(4):
            p.grad = randn(generator, (6, 9), torch.float64) + p.detach()
            optimizer.step()
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["weight_decay"]))
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert found[0] != (0.02, 0.0)


def test_large_narrow_matrices_are_eager_code() -> None:
    narrow, square = nn.Parameter(torch.zeros(9000, 8)), nn.Parameter(torch.zeros(300, 300))
    for backend, left in (("auto", True), ("c", False)):
        optimizer = optdsl.load("adafactor", backend=backend)([narrow, square])
        engine: Any = optimizer.compiled.parts.of(square, optimizer.param_groups[0]).of(square)
        assert type(engine) is MatrixEngine
        assert engine.leaves(narrow) == left
        assert not engine.leaves(square)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_means_in_vectors_are_those_of_elementwise_kernels(dtype: torch.dtype) -> None:
    """Their two functions agree on numbers of every kind, the sign of zero included."""
    source = library.open_source("adafactor")
    files = compiler.emit(source, "c", False, dtype=str(dtype).removeprefix("torch.")).text
    first = "#include <float.h>"
    text = first + next(x for x in files.split(first) if "mixed_evenly" in x).rpartition("/*")[0]
    for name in ("mixed", "mixed_evenly"):
        text += (
            f"void all_{name}(const real *x, const real *y, double share, real *to, int64_t n) {{\n"
            "  const bits ahead = turned(share);\n  const real by = way(share);\n"
            f"  for (int64_t i = 0; i < n; i++) to[i] = {name}(x[i], y[i], ahead, by);\n}}\n"
        )
    library_of_both = ctypes.CDLL(str(shared_library(text, "means")))
    info = torch.finfo(dtype)
    special = [0.0, 1.0, 0.1, info.tiny, info.tiny / 8, info.max, 0.7 * info.max, float("inf")]
    numbers = torch.tensor([s * x for x in special for s in (1, -1)] + [float("nan")], dtype=dtype)
    numbers = torch.cat([numbers, torch.randn(40, generator=seeded(1), dtype=dtype)])
    x, y = (z.contiguous() for z in torch.meshgrid(numbers, numbers, indexing="ij"))
    for share in (0.0, 1.0, 0.5, 0.3, 0.8, 1e-300, 1 - 1e-12):
        found = [torch.empty_like(x) for _ in range(2)]
        for name, to in zip(("mixed", "mixed_evenly"), found, strict=True):
            places = [ctypes.c_void_p(z.data_ptr()) for z in (x, y, to)]
            call = getattr(library_of_both, f"all_{name}")
            call(*places[:2], ctypes.c_double(share), places[2], ctypes.c_int64(x.numel()))
        expected, ours = found
        # Where the difference is infinite, compilers may round one product of two or the other.
        finite = (y - x).isfinite()
        assert torch.equal(ours[finite], expected[finite])
        assert torch.equal(ours[finite].signbit(), expected[finite].signbit())
        torch.testing.assert_close(ours, expected, equal_nan=True)


@pytest.mark.parametrize("rules", [("adafactor", "adam"), ("came", "adafactor")], ids="+".join)
def test_blends_take_the_steps_of_eager_code(rules: tuple[str, str]) -> None:
    results = []
    for backend in ("auto", "eager"):
        parameter = nn.Parameter(torch.randn(37, 53, generator=seeded(2)))
        optimizer = optdsl.blend(*rules, learn=False, backend=backend)([parameter])
        generator = seeded(3)
        for _ in range(4):
            parameter.grad = torch.randn(37, 53, generator=generator)
            optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
