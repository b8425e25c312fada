"""States and parameters in other storage, against sums and roundings written by hand."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import optdsl
from optdsl import interpret
from optdsl.backends.c.storage import CODECS as FORMATS
from optdsl.codecs import CODERS, stochastic
from optdsl.diagnostics import SpecError
from optdsl.ir.storage import CODECS
from optdsl.options import OptionError
from optdsl.report.plan import describe_plan
from optdsl.report.specification import describe
from optdsl.runtime.core.draws import Draws
from optdsl.specifications import library

LR, STEPS = 1e-3, 200
BACKENDS = ("eager", "auto")
HALF = (torch.bfloat16, torch.float16)


def gradient(step: int, dtype: torch.dtype, shape: tuple[int, ...] = (40, 9)) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(shape, generator=generator).add(0.5).to(dtype)


def start(dtype: torch.dtype = torch.bfloat16, shape: tuple[int, ...] = (40, 9)) -> Parameter:
    generator = torch.Generator().manual_seed(77)
    return Parameter(torch.randn(shape, generator=generator).to(torch.bfloat16).to(dtype))


def steps(optimizer: torch.optim.Optimizer, theta: Parameter, many: int, first: int = 0) -> Tensor:
    for step in range(first, first + many):
        # All dtypes see the same gradients.
        theta.grad = gradient(step, torch.bfloat16, tuple(theta.shape)).to(theta.dtype)
        optimizer.step()
    return theta.detach()


class AdamW:
    """AdamW's update, by hand in float32, of a parameter that is handed in."""

    def __init__(self) -> None:
        self.m = self.v = torch.zeros(40, 9)
        self.t = 0

    def __call__(self, theta: Tensor, g: Tensor) -> Tensor:
        self.t += 1
        self.m = 0.9 * self.m + (1 - 0.9) * g
        self.v = 0.999 * self.v + (1 - 0.999) * g**2
        m, v = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return theta - LR * (m / (v.sqrt() + 1e-8) + 0.01 * theta)


def test_every_codec_has_its_arithmetic_and_a_meaning() -> None:
    assert CODERS.keys() == CODECS.keys() == FORMATS
    for codec in CODECS.values():
        assert codec.meaning
        assert codec.buffers
        assert not codec.buffers[0].name


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("backend", BACKENDS)
def test_kahan_follows_training_in_float32(dtype: torch.dtype, backend: str) -> None:
    """Two buffers of 16 bits hold a sum of about as many; one loses most of a small step."""
    exact = start(torch.float32)
    steps(optdsl.load("adamw")([exact], lr=LR), exact, STEPS)
    errors = {}
    for name in ("adamw", "adamw with kahan"):
        theta = start(dtype)
        optimizer = optdsl.load(name, backend=backend)([theta], lr=LR)
        found = steps(optimizer, theta, STEPS).double()
        rest = optimizer.state[theta].get("compensation/theta", torch.zeros(()))
        errors[name] = float((found + rest.double() - exact.detach()).abs().mean())
    assert errors["adamw with kahan"] < errors["adamw"] / 20


@pytest.mark.parametrize("dtype", HALF)
def test_kahan_is_the_sum_written_by_hand(dtype: torch.dtype) -> None:
    """A parameter, and beside it what rounding took off: the same numbers, to rounding."""
    theta = start(dtype)
    optimizer = optdsl.load("adamw with kahan")([theta], lr=LR)
    kept, rest, rule = theta.detach().clone(), torch.zeros(40, 9, dtype=dtype), AdamW()
    for step in range(20):
        steps(optimizer, theta, 1, first=step)
        g = gradient(step, torch.bfloat16).to(dtype).float()
        # Kahan's sum: the increment with what is left over, and what the sum has not taken.
        whole = kept.float() + rest.float()
        increment = (rule(whole, g) - whole) + rest.float()
        added = (kept.float() + increment).to(dtype)
        rest = (increment - (added.float() - kept.float())).to(dtype)
        kept = added
        found = theta.detach().float() + optimizer.state[theta]["compensation/theta"].float()
        unit = torch.finfo(dtype).eps ** 2
        assert float((found - kept.float() - rest.float()).abs().max()) < 20 * unit * 4
    assert optimizer.state[theta]["compensation/theta"].dtype is dtype


def test_kahan_of_float32_holds_more_than_float32() -> None:
    exact = start(torch.float64)
    steps(optdsl.load("adamw", backend="eager")([exact], lr=1e-6), exact, 50)
    theta = start(torch.float32)
    optimizer = optdsl.load("adamw with kahan")([theta], lr=1e-6)
    found = steps(optimizer, theta, 50).double()
    whole = found + optimizer.state[theta]["compensation/theta"].double()
    assert float((whole - exact.detach()).abs().max()) < 1e-10
    assert float((found - exact.detach()).abs().max()) > 1e-8
    # States are kept as ever.
    assert optimizer.state[theta]["m"].dtype is torch.float32
    double = start(torch.float64)
    with pytest.raises(ValueError, match="no wider precision"):
        steps(optdsl.load("adamw with kahan")([double]), double, 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_muon_with_kahan(backend: str) -> None:
    """A rule with sections: matrices, and the tensors of `otherwise`."""
    errors = []
    for name in ("muon", "muon with kahan"):
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            held = [start(dtype, (12, 8)), start(dtype, (30,))]
            optimizer = optdsl.load(name if dtype is torch.bfloat16 else "muon", backend=backend)(
                held, lr=LR
            )
            for step in range(100):
                for p in held:
                    p.grad = gradient(step, torch.bfloat16, tuple(p.shape)).to(dtype)
                optimizer.step()
            rests = [optimizer.state[p].get("compensation/theta", 0.0) for p in held]
            found.append([p.detach().double() + r for p, r in zip(held, rests, strict=True)])
        errors.append([float((x - y).abs().mean()) for x, y in zip(*found, strict=True)])
    assert all(kept < plain / 10 for plain, kept in zip(*errors, strict=True))


@pytest.mark.parametrize("dtype", HALF)
def test_stochastic_rounding_is_unbiased(dtype: torch.dtype) -> None:
    """Of numbers of every size: the mean of many roundings is the number, within five sigma."""
    values = torch.tensor([1.0, 1 + 2**-12, -3.14159, 0.1, 1e-4, 6e-8, 3e-5, 1000.7, 0.0])
    many = 2**14
    x = values.repeat(many, 1)
    found = stochastic(x, dtype, Draws(0, 0).uniform("x", 1, x)).double()
    down, up = found.min(0).values, found.max(0).values
    assert bool(((down <= values) & (values <= up)).all())
    sigma = ((values - down) * (up - values)).clamp(min=0).sqrt() / math.sqrt(many)
    assert bool(((found.mean(0) - values).abs() <= 5 * sigma + 1e-300).all())
    # Neighbours only, and nothing happens to what needs no rounding.
    assert bool((up.to(dtype).view(torch.int16).int() - down.to(dtype).view(torch.int16).int())
                .abs().le(1).all())  # fmt: skip
    exact = torch.randn(100).to(dtype).float()
    assert torch.equal(stochastic(exact, dtype, torch.rand(100)).float(), exact)
    special = torch.tensor([math.inf, -math.inf, math.nan, -0.0, 3.4e38, -3.4e38])
    rounded = stochastic(special, dtype, torch.full((6,), 0.99))
    torch.testing.assert_close(rounded, special.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_stochastic_rounding_is_the_rounding_written_by_hand(backend: str) -> None:
    """Of bfloat16: add random bits below the last one to float32, and cut; with the same draws."""
    theta = start()
    cls = optdsl.load("adamw with stochastic_rounding", backend=backend)
    optimizer = cls([theta], lr=LR, seed=9)
    kept, rule, different = theta.detach().clone(), AdamW(), 0
    for step in range(20):
        steps(optimizer, theta, 1, first=step)
        new = rule(kept.float(), gradient(step, torch.bfloat16).float())
        uniform = Draws(9, 0).uniform("store theta", step + 1, new)
        bits = new.view(torch.int32) & 0xFFFF
        up = bits > (uniform * 2**16).floor().int()
        cut = (new.view(torch.int32) - bits).view(torch.float32)
        away = (new.view(torch.int32) - bits + 2**16).view(torch.float32)
        kept = torch.where(up, away, cut).to(torch.bfloat16)
        # Float32's rounding of the step may decide between two neighbours, very rarely.
        different += int((kept != theta.detach()).sum())
        kept = theta.detach().clone()
    assert different <= 2


@pytest.mark.parametrize("codec", ["bfloat16", "bfloat16 stochastic"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_states_in_bfloat16_are_those_of_the_interpreter(codec: str, backend: str) -> None:
    cls = optdsl.load("adamw", store={"m": codec, "v": codec}, backend=backend)
    theta = start(torch.float64, (5, 3))
    optimizer = cls([theta], lr=LR)
    program, hypers = cls.compiled.program, cls.compiled.program.defaults | {"lr": LR}
    expected, state = theta.detach().clone(), dict[str, Tensor]()
    for step in range(6):
        g = gradient(step, torch.bfloat16, (5, 3)).double()
        state = state or interpret.initial_state(program, expected, g, hypers)
        done = interpret.step(program, expected, g, state, hypers, step + 1)
        expected, state = done.parameter, done.state
        steps(optimizer, theta, 1, first=step)
        for name in "mv":
            kept = optimizer.state[theta][name]
            assert kept.dtype is torch.bfloat16
            assert torch.equal(kept.double(), state[name])
    torch.testing.assert_close(theta.detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["adamw with kahan", "adamw with stochastic_rounding"])
def test_a_resumed_run_goes_on_to_the_bit(name: str) -> None:
    cls = optdsl.load(name, store={"states": "bfloat16 stochastic"} if "stoch" in name else None)
    theta = start()
    optimizer = cls([theta], lr=LR, **({"seed": 4} if cls.compiled.draws else {}))
    steps(optimizer, theta, 5)
    saved, other = copy.deepcopy(optimizer.state_dict()), Parameter(theta.detach().clone())
    fresh = cls([other], lr=LR)
    fresh.load_state_dict(saved)
    for key, value in optimizer.state[theta].items():
        assert torch.equal(fresh.state[other][key], value)
        assert fresh.state[other][key].dtype is value.dtype
    found = steps(fresh, other, 5, first=5)
    assert torch.equal(found, steps(optimizer, theta, 5, first=5))


def test_checkpoints_of_other_storage() -> None:
    """One in bfloat16 is read as the numbers that it has; all others are refused."""
    kinds = {
        "plain": optdsl.load("adamw"),
        "half": optdsl.load("adamw", store={"m": "bfloat16"}),
        "kahan": optdsl.load("adamw with kahan"),
    }
    saved = {}
    for name, cls in kinds.items():
        theta = start()
        optimizer = cls([theta], lr=LR)
        steps(optimizer, theta, 2)
        saved[name] = optimizer.state_dict()
    theta = start()
    plain = kinds["plain"]([theta])
    plain.load_state_dict(saved["half"])
    steps(plain, theta, 1)
    assert plain.state[theta]["m"].dtype is torch.float32
    for own, other in (("half", "plain"), ("kahan", "plain"), ("plain", "kahan")):
        with pytest.raises(ValueError, match=r"with the storage that it was saved with"):
            kinds[own]([start()]).load_state_dict(saved[other])


def test_totals_and_points_of_evaluation_see_decoded_values() -> None:
    """Clipping by the norm of all gradients, decayed weights in a total, and averaged weights."""
    theta = start()
    optimizer = optdsl.load("adamw with clip(limit = 1), ema_weights, kahan")([theta], lr=LR)
    trained = steps(optimizer, theta, 5).clone()
    rest = optimizer.state[theta]["compensation/theta"].clone()
    optimizer.eval()
    assert not torch.equal(theta.detach(), trained)
    optimizer.train()
    assert torch.equal(theta.detach(), trained)
    assert torch.equal(optimizer.state[theta]["compensation/theta"], rest)
    norm = """\
optimizer Whole
  "Moves by the norm of all parameters."

hyper lr = 0.1 in [0, inf)

store theta as compensated

theta' = theta - lr * sqrt(sum(theta^2 over all))
"""
    theta = start(torch.bfloat16, (3,))
    optimizer = optdsl.compile(norm)([theta], lr=LR)
    expected = theta.detach().double()
    for _ in range(4):
        theta.grad = torch.zeros_like(theta)
        optimizer.step()
        expected = expected - LR * expected.norm()
    found = theta.detach().double() + optimizer.state[theta]["compensation/theta"].double()
    assert float((found - expected).abs().max()) < 1e-4


def test_states_merge_only_where_they_are_stored_alike(tmp_path: Path) -> None:
    adam = library.open_source("adam").text
    for name, codec in (("One", "bfloat16"), ("Two", "bfloat16"), ("Three", "bfloat16 stochastic")):
        text = adam.replace("optimizer Adam", f"optimizer {name}") + f"\nstore m as {codec}\n"
        (tmp_path / f"{name.lower()}.opt").write_text(text)
    text = 'blend B\n  "-"\n\nuse {}\n\nshare lr, beta1, beta2, eps, weight_decay\n'
    text += "\nhyper w = 0.5 in [0, 1]\n\ntheta' = w * {} + (1 - w) * {}\n"
    path = tmp_path / "b.opt"

    def states(first: str, second: str) -> dict[str, str]:
        path.write_text(text.format(f"{first}, {second}", f"{first}.theta'", f"{second}.theta'"))
        return {s.name: s.codec for s in library.read(library.open_source(path)).states}

    alike, apart = states("One", "Two"), states("One", "Three")
    assert alike == {"m": "bfloat16", "v": ""}
    assert sorted(apart.values()) == ["", "bfloat16", "bfloat16 stochastic"]
    (tmp_path / "kept.opt").write_text(
        adam.replace("optimizer Adam", "optimizer Kept") + "\nstore theta as compensated\n"
    )
    with pytest.raises(SpecError, match="store the parameter in two ways"):
        states("One", "Kept")
    text += "\nstore theta as compensated\n"
    assert states("One", "Kept")["m_kept"] == ""
    assert library.read(library.open_source(path)).codec == "compensated"


def test_wishes_that_cannot_be_are_refused() -> None:
    for store, told in (
        ({"n": "bfloat16"}, "has no state 'n' to store"),
        ({"m": "int8"}, "is no way to store a state"),
        ({"theta": "bfloat16"}, "is no way to store the parameter"),
        ("bfloat16", "must be a mapping"),
    ):
        with pytest.raises(OptionError, match=told):
            optdsl.load("adamw", store=store)  # type: ignore[arg-type]
    refused = 'stores m as bfloat16, which backend="triton" does not do'
    with pytest.raises(OptionError, match=refused):
        optdsl.load("adamw", store={"m": "bfloat16"}, backend="triton")
    assert optdsl.load("adamw", store={"m": "bfloat16"}) is optdsl.load(
        "adamw", store={"m": "bfloat16"}
    )
    assert optdsl.load("adamw", store={"m": "bfloat16"}) is not optdsl.load("adamw")


def test_pages_tell_what_is_stored_and_where_it_runs() -> None:
    source = library.open_source("adamw with kahan")
    page = describe(source, library.read(source))
    assert "State: 12 bytes per parameter in float32" in page
    assert (
        "Theta is stored as compensated: C runs this on the CPU, and PyTorch code on GPUs." in page
    )
    assert "compensation/theta  4 per parameter" in describe_plan(source)


@pytest.mark.parametrize("rule", ["soap", "shampoo", "muon"])
def test_products_of_a_compensated_float32_parameter_are_taken_in_float64(rule: str) -> None:
    """Its states are float32, and a product of matrices takes one precision only."""
    found = []
    for name, dtype in ((rule, torch.float64), (f"{rule} with kahan", torch.float32)):
        theta = start(dtype, (5, 5))
        found.append(steps(optdsl.load(name)([theta], lr=1e-3), theta, 8).double())
        assert theta.dtype is dtype
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)
