"""Every rule of the library, on every backend, in every dtype.

Steps are those of the interpreter, from the same stored states: of all tensors together, in the
sections that take them, with sums over all of them. A training that is saved and loaded goes on to
the bit; hyper-gradients are autograd's; and a rule can be modified and blended.

A number is wrong if it differs by more than rounding may do, which `tests.oracles.together`
measures for each step; parameters of narrow dtypes may also be rounded to the number next to the
right one.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import Learn, SpecError
from optdsl.differentiate import differentiate, moves
from optdsl.ir.derivatives import NoDerivative
from optdsl.ir.domain import Interval
from optdsl.ir.program import Hyper, Program
from tests.oracles.rounding32 import DOUBLE, SINGLE
from tests.oracles.rules import PROGRAMS
from tests.oracles.together import After, Together, bounds, few, held_constant

from .battery import (
    DTYPES,
    NARROW,
    RESUMED,
    STEPS,
    Tensors,
    before,
    draws,
    loaded,
    of_settings,
    same,
    settings,
    steps,
    trained,
)

pytestmark = pytest.mark.broad(50)

# Without a GPU Triton's kernels are interpreted, which is slow.
TRITON = pytest.param("triton", marks=pytest.mark.exhaustive)
BACKENDS = ["eager", "auto", TRITON]
RULES = list(PROGRAMS)
# What takes longer runs in `make test` for a few rules, as users get them.
CELLS = [
    pytest.param(
        rule, backend, id=f"{rule} on {backend}",
        marks=[] if backend == "auto" else pytest.mark.exhaustive,
    )
    for rule in RULES
    for backend in ("eager", "auto", "triton")
]  # fmt: skip

# A blend's numbers of matrices have other uses, and its products are fused otherwise; C compiles
# other sums. Of bfloat16, a few numbers next to one another.
ROUNDED = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2.0**-7}

# At a bound a derivative is that of either side, and autograd takes the mean of the two.
# Adafactor's first update has the root mean square 1, at which it is clipped by default. Shampoo's
# roots of singular matrices magnify rounding.
SMOOTH = {
    "adafactor": {"d": 1.1},
    "rprop": {"step_size_min": 1e-9, "step_size_max": 900.0},
    "shampoo": {"eps": 0.01},
}


# --- steps ----------------------------------------------------------------------------------------


def differences(
    optimizer: Any, tensors: Tensors, oracle: Together, hypers: Any, step: int
) -> list[str]:
    """Take a step; what differs from the interpreter's by more than rounding."""
    inputs = tensors.give(step)
    held = before(optimizer, tensors)
    updated = [p for p in tensors.held if p.grad is not None]
    group = optimizer.param_groups[0]
    given, known = tensors.given(inputs)
    known = {k: group.get(k, x) for k, x in oracle.shared(hypers).items()} | known

    unit = DOUBLE if tensors.dtype is torch.float64 else SINGLE

    def run(rounded: Any = None) -> After:
        return oracle.step(held, hypers, known, given, step + 1, rounded, unit)

    exact = run()
    optimizer.step(**({"inputs": inputs} if inputs else {}))
    actual = After([], {k: group[k] for k in exact.shared})
    for p, values in zip(updated, exact.tensors, strict=True):
        state = {k: v for k, v in optimizer.state[p].items() if k != "step"}
        # States that nothing reads, for the lengths of the tensor, are left out.
        assert state.keys() <= values.keys() - {"theta"}
        actual.tensors.append({"theta": p.detach(), **state})
    # Few numbers are off by more than some units, and need to be judged.
    if not beyond(actual, exact, few(unit, exact), tensors.dtype):
        return []
    return beyond(actual, exact, bounds(unit, exact, run), tensors.dtype)


def beyond(actual: After, exact: After, allowed: After, dtype: torch.dtype) -> list[str]:
    """Which numbers differ by more than they may."""
    found = []
    for ours, theirs, limits in zip(actual.tensors, exact.tensors, allowed.tensors, strict=True):
        for name, x in ours.items():
            value, limit = theirs[name], limits[name]
            assert x.shape == value.shape, name
            if name == "theta" and dtype in NARROW:
                limit = limit + spacing(value, dtype)
            off = torch.where((x == value) | (x.isnan() & value.isnan()), 0.0, (x - value).abs())
            if not bool((off <= limit).all()):
                found.append(f"{name} of {tuple(x.shape)} by {float(off.max()):.2g}")
    pairs = ((k, abs(x - exact.shared[k]), allowed.shared[k]) for k, x in actual.shared.items())
    return found + [f"{k} by {off:.2g}" for k, off, limit in pairs if not off <= limit]


def spacing(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of the numbers of a dtype around a value."""
    info = torch.finfo(dtype)
    return info.eps * 2 ** torch.floor(torch.log2(value.abs().clamp_min(info.tiny)))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_steps_are_the_interpreters_and_a_resumed_training_goes_on_to_the_bit(
    rule: str, backend: str, dtype: torch.dtype
) -> None:
    hypers = settings(rule, DTYPES.index(dtype))
    cls, oracle = loaded(rule, backend, learn=False), of_settings(rule, hypers)
    tensors = Tensors(PROGRAMS[rule], dtype)
    optimizer = cls(tensors.groups(), **hypers)
    for step in range(RESUMED):
        assert differences(optimizer, tensors, oracle, hypers, step) == []
    again = tensors.copied()
    resumed = cls(again.groups(), **hypers)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(RESUMED, STEPS):
        assert differences(optimizer, tensors, oracle, hypers, step) == []
        list(steps(resumed, again, [step]))
    for p, q in zip(tensors.held, again.held, strict=True):
        assert same(p.detach(), q.detach())
        assert all(same(x, resumed.state[q][k]) for k, x in optimizer.state[p].items())


@pytest.mark.parametrize("rule", RULES)
def test_an_error_of_one_in_a_hundred_is_not_explained_by_rounding(rule: str) -> None:
    """In the rate and in a mean of gradients: the bounds of float32 are not too wide."""
    hypers, cls = settings(rule, 0), loaded(rule, "eager", learn=False)
    oracle = of_settings(rule, hypers)
    own = {h for h in continuous(PROGRAMS[rule]) if differentiable(PROGRAMS[rule], h)}
    for name in own & {"lr", "beta1", "momentum"}:
        tensors = Tensors(PROGRAMS[rule], torch.float32)
        optimizer = cls(tensors.groups(), **hypers | {name: hypers[name] * 0.99})
        assert any(differences(optimizer, tensors, oracle, hypers, n) for n in range(STEPS)), name


# --- other gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_first_gradient_of_zero_leaves_numbers(rule: str) -> None:
    """Layers behind weights that start at zero have such gradients."""
    tensors = Tensors(PROGRAMS[rule], torch.float32)
    optimizer = loaded(rule, "eager")(tensors.groups())
    for scale in (0.0, 1e-12, 1.0):
        inputs = tensors.give(0)
        for p in tensors.held:
            p.grad = torch.full_like(p, scale)
        optimizer.step(**({"inputs": inputs} if inputs else {}))
    assert all(p.isfinite().all() for p in tensors.held)


# --- hyper-gradients ------------------------------------------------------------------------------


@pytest.mark.broad(15)
@pytest.mark.parametrize(("rule", "backend"), CELLS)
def test_hyper_gradients_are_autograds(rule: str, backend: str) -> None:
    """By every hyperparameter that moves the parameters, from the first step on."""
    program, hypers = PROGRAMS[rule], settings(rule, 0) | SMOOTH.get(rule, {})
    names = [h for h in continuous(program) if differentiable(program, h)]
    vectors = {h: v.name for v in program.simplexes for h in v.hypers}
    still = {
        vectors.get(h, h): Learn(
            "sgd", bounds=None if h in vectors else closed(program.hyper(h)), after=10**9
        )
        for h in names
    }
    tensors = Tensors(program, torch.float64)
    optimizer = loaded(rule, backend, learn=still)(tensors.groups(), **hypers)
    oracle = Together(held_constant(program))
    shared = oracle.shared(hypers)
    # Of each tensor, where it is after its last step as a function of the hyperparameters.
    points, tape = dict[int, Tensor](), dict[str, Tensor]()
    held = {x.number: x for x in before(optimizer, tensors, all_of_them=True)}
    compared = set[str]()
    for step in range(3):
        inputs = tensors.give(step, zeros=0.0, to_all=True)
        fresh = before(optimizer, tensors)
        for x in fresh:
            held[x.number].g = x.g
        own = [held[x.number] for x in fresh]
        expected = dict.fromkeys(names, 0.0)
        sizes = sum(float(x.g.abs().sum()) for x in own)
        if tape:
            found = [(points[x.number] * x.g).sum() for x in own if x.g.numel()]
            slopes = torch.autograd.grad(sum(found), list(tape.values()), allow_unused=True)
            for name, slope in zip(tape, slopes, strict=True):
                expected[name] = 0.0 if slope is None else float(slope)
        given, known = tensors.given(inputs)
        shared |= known
        tape = {n: torch.tensor(hypers[n], dtype=torch.float64).requires_grad_() for n in names}
        moving = oracle.step(own, {**hypers, **tape}, shared, given, step + 1)
        exact = oracle.step(own, hypers, shared, given, step + 1)
        for x, along, now in zip(own, moving.tensors, exact.tensors, strict=True):
            points[x.number] = along["theta"]
            x.theta, x.t, x.state = now.pop("theta"), x.t + 1, now
        shared |= exact.shared
        optimizer.step(**({"inputs": inputs} if inputs else {}))
        # Bases of null spaces are arbitrary. Where an engine has advanced its states, go on there.
        stored = {x.number: x for x in before(optimizer, tensors)}
        for x in own:
            if not lags(optimizer, x.number):
                x.theta, x.state = stored[x.number].theta, stored[x.number].state
        metrics = optimizer.metrics()
        for name in names:
            # Autograd has NaN where a branch that is not taken has it.
            if math.isnan(expected[name]):
                continue
            error = abs(metrics[f"hypergradient/{name}"] - expected[name])
            assert error <= 1e-9 * (abs(expected[name]) + sizes), (name, step, error)
            compared |= {name} if step else set()
    assert compared == set(names)


def lags(optimizer: Any, number: int) -> bool:
    """Whether the engine of a tensor leaves its states to the next step."""
    pairs = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    parameter, group = pairs[number]
    engine = optimizer.compiled.parts.of(parameter, group).of(parameter)
    return bool(engine.plan.kind == "replay")


def continuous(program: Program) -> list[str]:
    """The hyperparameters that could be learned from where they start."""
    return [h.name for h in program.hypers if not h.domain.discrete and math.isfinite(h.default)]


def differentiable(program: Program, hyper: str) -> bool:
    """Whether parameters move with a hyperparameter, otherwise than through factorizations."""
    try:
        return moves(program, hyper) and bool(differentiate(program, [hyper]))
    except NoDerivative:
        return False


def closed(hyper: Hyper) -> tuple[float, float]:
    """Nearly all of its interval."""
    assert isinstance(hyper.domain, Interval)
    lower, upper = max(hyper.domain.lower, -1e3), min(hyper.domain.upper, 1e3)
    below, above = (min(1e-12, abs(hyper.default - end) / 2) for end in (lower, upper))
    return lower + below * hyper.domain.lower_open, upper - above * hyper.domain.upper_open


@pytest.mark.parametrize("rule", RULES)
def test_what_has_no_hyper_gradient_is_refused_with_the_reason(rule: str) -> None:
    program = PROGRAMS[rule]
    names = [h for h in continuous(program) if not differentiable(program, h)]
    for name in names:
        with pytest.raises((SpecError, ValueError), match=r"no derivative|always zero"):
            loaded(rule, "eager", learn={name: Learn("sgd", bounds=closed(program.hyper(name)))})


# --- blends and modifiers -------------------------------------------------------------------------


@pytest.mark.broad(15)
@pytest.mark.parametrize(("rule", "backend"), CELLS)
def test_a_rule_is_modified_and_blended(rule: str, backend: str) -> None:
    """With a gradient that nothing clips it is the rule, and so it is at its corner of a blend."""
    dtype = {"eager": torch.float64, "auto": torch.float32, "triton": torch.bfloat16}[backend]
    program = PROGRAMS[rule]
    own = {h.name: h.default for h in program.hypers}
    modified = loaded(f"{rule} with clip_value(limit = 1e9)", backend, verify=False, learn=False)
    pairs: list[tuple[Any, dict[str, float]]] = [(modified, {})]
    blended = optdsl.blend(rule, partner(rule, backend), backend=backend, learn=False)
    weights = blended.compiled.program.simplexes[0]
    pairs.append((blended, dict(zip(weights.hypers, (1.0, 0.0), strict=True))))
    # A shared hyperparameter has one default.
    shared = {h.name: h.default for h in blended.compiled.program.hypers}
    members = {h for v in program.simplexes for h in v.hypers}
    own |= {name: shared[name] for name in own.keys() & shared.keys() - members}
    expected = trained(loaded(rule, backend, learn=False), rule, dtype, own)
    for cls, corner in pairs:
        hypers = own | corner if cls is modified else corner
        for x, y in zip(trained(cls, rule, dtype, hypers), expected, strict=True):
            if backend == "eager" and not program.sections:
                assert same(x, y)
            torch.testing.assert_close(x, y, rtol=ROUNDED[dtype], atol=ROUNDED[dtype])


def partner(rule: str, backend: str) -> str:
    """Another rule of its kind: of the same sections, or element by element as it is."""
    sections = PROGRAMS[rule].sections
    # Triton's kernels draw no random numbers.
    taken = [other for other in RULES if backend != "triton" or not draws(PROGRAMS[other])]
    alike = (other for other in taken if other != rule and PROGRAMS[other].sections == sections)
    plain = "adam" if rule != "adam" else "yogi"
    return next(alike, plain) if sections else plain
