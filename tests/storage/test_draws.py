"""Random numbers: known answers, statistics, and what they are functions of."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl
from optdsl import interpret
from optdsl.compiler import emit
from optdsl.diagnostics import Source, SpecError
from optdsl.ir import draws
from optdsl.ir.text import parse_program, print_program
from optdsl.ir.trajectories import Run, trajectory
from optdsl.options import OptionError
from optdsl.passes.specialize import specialize
from optdsl.prove import Verdict, settle
from optdsl.runtime.core.draws import Draws
from optdsl.specifications import library

NOISY = """\
optimizer Noisy
  "Every distribution, with counters of its own."

hyper lr  = 0.1 in [0, inf)
hyper gap = 3   in {1, ..., inf}

random P          = normal
random Q : scalar = rademacher at floor((t - 1) / gap)
random U          = uniform at 0

theta' = theta - lr * (g + P * Q + U)
"""
MATRIX = """\
optimizer Sketched
  "A projection that is drawn anew every second step, and noise of rows."

hyper lr = 0.1 in [0, inf)

for matrices

random P : rows * rows = normal at floor((t - 1) / 2)
random r : rows        = uniform
random s : scalar      = rademacher

theta' = theta - lr * s * (P @ g + r)

otherwise SGD
"""


def run(text: str, start: list[Tensor], steps: int, backend: str, **arguments: int) -> list[Tensor]:
    held = [Parameter(p.clone()) for p in start]
    optimizer = optdsl.compile(text, backend=backend)(held, **arguments)
    for t in range(steps):
        for n, p in enumerate(held):
            p.grad = torch.full_like(p, 0.1 * (n + t))
        optimizer.step()
    return [p.detach() for p in held]


def shapes(*wanted: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in wanted]


def test_philox_gives_its_published_answers() -> None:
    """The vectors of Random123, philox4x32 with ten rounds."""
    every = draws.WORD
    answers = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((every,) * 4, (every,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for counter, key, words in answers:
        assert draws.philox(counter, key) == words


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distribution", draws.DISTRIBUTIONS)
def test_tensors_are_what_the_integers_are(distribution: str, dtype: torch.dtype) -> None:
    """With seeds and counters of more than 32 bits; and a shard is a part of the whole."""
    seed, counter = 2**40 + 7, 2.0**33 + 5
    like = torch.empty(5, 7, dtype=dtype)
    found = getattr(Draws(seed, 3), distribution)("A.P", counter, like)
    numbers = [draws.number(f"{distribution} A.P", counter, i, seed, 3) for i in range(35)]
    expected = torch.tensor(numbers, dtype=torch.float64).reshape(5, 7)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)
    assert found.dtype is dtype
    part = Draws(seed, 3, whole=(5, 7), offset=(2, 3))
    own = getattr(part, distribution)("A.P", counter, torch.empty(2, 4, dtype=dtype))
    assert torch.equal(own, found[2:4, 3:])


def test_draws_have_the_moments_of_their_distributions() -> None:
    """Within five standard errors; also of neighbours, steps, names, tensors and seeds."""
    count = 2**18
    like = torch.empty(count, dtype=torch.float64)
    x = Draws(0, 0).normal("A.P", 1, like)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((x**power).mean()) - moment) < 5 * math.sqrt(variance / count)
    assert float(x.abs().max()) < 5.78
    u = Draws(0, 0).uniform("A.P", 1, like)
    assert 0 <= float(u.min())
    assert float(u.max()) < 1
    cells = torch.histc(u, 64, 0, 1) - count / 64
    assert float((cells**2).sum() / (count / 64)) < 63 + 5 * math.sqrt(2 * 63)
    signs = Draws(0, 0).rademacher("A.P", 1, like)
    assert signs.abs().unique().tolist() == [1]
    assert abs(float(signs.mean())) < 5 / 512
    others = [
        x.roll(1),
        x.roll(4),
        Draws(0, 0).normal("A.P", 2, like),
        Draws(0, 0).normal("A.R", 1, like),
        Draws(0, 1).normal("A.P", 1, like),
        Draws(1, 0).normal("A.P", 1, like),
    ]
    for y in others:
        assert abs(float((x * y).mean())) < 5 / math.sqrt(count)


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize(("text", "wanted"), [(NOISY, (5, 3)), (NOISY, ()), (MATRIX, (4, 3))])
def test_steps_are_those_of_the_interpreter(
    text: str, wanted: tuple[int, ...], backend: str
) -> None:
    start = shapes((3,), wanted)
    found = run(text, start, 5, backend, seed=11)
    whole = library.read(Source("<text>", text))
    for n, (theta, own) in enumerate(zip(start, found, strict=True)):
        state: dict[str, Tensor] = {}
        for t in range(5):
            g = torch.full_like(theta, 0.1 * (n + t))
            if t == 0:
                state = interpret.initial_state(whole, theta, g, whole.defaults, (11, n))
            step = interpret.step(whole, theta, g, state, whole.defaults, t + 1, origin=(11, n))
            theta, state = step.parameter, step.state
        torch.testing.assert_close(own, theta, rtol=0, atol=1e-12)


def test_trials_of_claims_see_what_the_interpreter_sees() -> None:
    noisy = library.read(Source("<text>", NOISY))
    theta, g = (0.5, -1.0, 2.0), (0.1, 0.2, 0.3)
    found = trajectory(noisy, Run(tuple(noisy.defaults.items()), theta, (g,)))[0]
    arguments = (torch.tensor(x, dtype=torch.float64) for x in (theta, g))
    expected = interpret.step(noisy, *arguments, {}, noisy.defaults, 1).parameter
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), expected, rtol=1e-14, atol=0
    )
    alone = specialize(library.read(Source("<text>", MATRIX)), 0)
    run = Run(tuple(alone.defaults.items()), (1.0,) * 6, ((0.5,) * 6,), (1, 2, 3))
    ones = torch.ones(2, 3, dtype=torch.float64)
    step = interpret.step(alone, ones, ones / 2, {}, alone.defaults, 1)
    found = trajectory(alone, run)[0]
    numbers = torch.tensor(found, dtype=torch.float64).reshape(2, 3)
    torch.testing.assert_close(numbers, step.parameter, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_resumed_run_goes_on_to_the_bit(backend: str) -> None:
    cls = optdsl.compile(NOISY, backend=backend)
    held = [Parameter(p) for p in shapes((6, 2), (5,))]
    optimizer = cls(held, seed=3)

    def steps(which: torch.optim.Optimizer, parameters: list[Parameter]) -> None:
        for _ in range(4):
            for p in parameters:
                p.grad = p.detach().clone()
            which.step()

    steps(optimizer, held)
    again = [Parameter(p.detach().clone()) for p in held]
    fresh = cls(again)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other = pickle.loads(pickle.dumps(optimizer))
    third = other.param_groups[0]["params"]
    for one, parameters in ((optimizer, held), (fresh, again), (other, third)):
        steps(one, parameters)
    assert all(map(torch.equal, held, again))
    assert all(map(torch.equal, held, third))
    assert fresh.param_groups[0]["seed"] == 3


def test_seeds_and_tensors_draw_apart() -> None:
    start = shapes((64,), (64,))
    first, second = run(NOISY, start, 1, "eager"), run(NOISY, start, 1, "eager", seed=1)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[0] - start[0], first[1] - start[1])
    assert all(map(torch.equal, first, run(NOISY, start, 1, "eager", seed=0)))


def test_seeds_that_are_none_are_refused() -> None:
    held = [Parameter(torch.zeros(2))]
    noisy = optdsl.compile(NOISY)
    for wrong, error in ((1.5, TypeError), ("1", TypeError), (-1, ValueError), (2**64, ValueError)):
        with pytest.raises(error, match="seed"):
            noisy(held, seed=wrong)
    with pytest.raises(TypeError, match="AdamW draws no random numbers, and takes no seed"):
        optdsl.load("adamw")(held, seed=1)
    with pytest.raises(TypeError, match="seed"):
        noisy([{"params": held, "seed": 1}])
    saved = noisy(held).state_dict()
    saved["param_groups"][0]["seed"] = -2
    with pytest.raises(ValueError, match="out of bounds"):
        noisy(held).load_state_dict(saved)


def test_triton_refuses_what_draws() -> None:
    with pytest.raises(OptionError, match="draws random numbers, which backend="):
        optdsl.compile(NOISY, backend="triton")
    assert "draws.normal(" in emit(Source("<text>", NOISY)).text


CLAIM = """\
blend Both
  "Two rules that draw."

use Noisy, Noisy as Other

share lr, gap

hyper w = 0.5 in [0, 1]

theta' = w * Noisy.theta' + (1 - w) * Other.theta'

recovers Noisy at w = 0.25
"""


def test_draws_of_one_name_are_one_value_to_the_prover(tmp_path: Path) -> None:
    """A rule that is used twice draws once; another name is another draw."""
    (tmp_path / "noisy.opt").write_text(NOISY)
    (tmp_path / "named.opt").write_text(NOISY.replace("random P", "random R").replace("P *", "R *"))
    both = tmp_path / "both.opt"
    both.write_text(CLAIM)
    found = library.specification(library.open_source(both))
    assert settle(found.program, found.claims[0]).verdict is Verdict.PROVED
    both.write_text(CLAIM.replace("Noisy as Other", "Named as Other"))
    with pytest.raises(SpecError, match="recovers"):
        library.read(library.open_source(both))


def test_modifiers_draw_under_the_names_by_which_they_are_applied(tmp_path: Path) -> None:
    noise = 'modifier Noise of g\n  "-"\n\nhyper gap = 2 in {1, ..., inf}\n\n'
    noise += "random z = normal at floor((t - 1) / gap)\n\ng = base.g + z\n"
    (tmp_path / "noise.opt").write_text(noise)
    (tmp_path / "mine.opt").write_text("optimizer Mine = SGD with Noise, Noise as Other\n")
    (theta,) = (Parameter(p) for p in shapes((3, 2)))
    optimizer = optdsl.load(tmp_path / "mine.opt")([theta], lr=0.1, other_gap=1, seed=2)
    expected = theta.detach().clone()
    for t in range(4):
        theta.grad = torch.ones_like(theta)
        optimizer.step()
        own = Draws(2, 0).normal("noise.z", t // 2, theta)
        other = Draws(2, 0).normal("other.z", t, theta)
        expected = expected - 0.1 * (1 + own + other)
    torch.testing.assert_close(theta.detach(), expected, rtol=1e-12, atol=1e-12)
    (tmp_path / "noise.opt").write_text(noise.replace("(t - 1) / gap", "base.g"))
    with pytest.raises(SpecError, match="the counter of `z` is a tensor"):
        optdsl.load(tmp_path / "mine.opt")


def test_what_is_drawn_is_a_constant_to_derivatives(tmp_path: Path) -> None:
    """theta' = theta - lr (g + P Q + U): the derivative by lr, against the last step by hand."""
    cls = optdsl.compile(NOISY + "\nlearn lr in [0, 1] by SGD(lr = 1e-3)\n")
    (theta,) = (Parameter(p) for p in shapes((4, 2)))
    optimizer = cls([theta])
    before = theta.detach().clone()
    theta.grad = torch.ones_like(theta)
    optimizer.step()
    update = (theta.detach() - before) / 0.1
    theta.grad = torch.full_like(theta, 0.5)
    optimizer.step()
    expected = 0.1 - 1e-3 * float((0.5 * update).sum())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
    (tmp_path / "noisy.opt").write_text(NOISY)
    mine = tmp_path / "mine.opt"
    mine.write_text(library.open_source("sgd").text + "\nlearn lr in [0, 1] by Noisy\n")
    with pytest.raises(OptionError, match="Noisy draws random numbers"):
        optdsl.load(mine)


def test_programs_that_draw_and_store_read_as_printed() -> None:
    text = NOISY.replace("theta' =", "state m = 0\nstore m as bfloat16 stochastic\n"
                         "store theta as compensated\nm' = g\ntheta' =")  # fmt: skip
    program = library.read(Source("<text>", text))
    assert parse_program(print_program(program)) == program
    assert program.codec == "compensated"
    assert program.states[0].codec == "bfloat16 stochastic"


def test_groups_cannot_have_seeds_of_their_own() -> None:
    cls = optdsl.load("adamw with stochastic_rounding")
    params = [Parameter(torch.ones(4, dtype=torch.bfloat16)) for _ in range(2)]
    optimizer = cls([{"params": [p]} for p in params], seed=3)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.param_groups[1]["seed"] = 4
    with pytest.raises(ValueError, match="different seeds"):
        optimizer.step()
    optimizer.param_groups[0]["seed"] = 4
    optimizer.step()
