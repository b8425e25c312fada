"""Hyper-gradients from a sample of the elements, against autograd and against every element."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn, compiler, interpret
from optdsl.diagnostics import Source
from optdsl.plan import plans
from optdsl.plan.keys import SAMPLE, pending
from optdsl.runtime.core.tasks import PENDING_HYPERS, ParameterTask
from optdsl.runtime.engines import completion
from optdsl.runtime.engines.sampled import tensors
from optdsl.runtime.engines.sampled.choice import sample_of
from optdsl.specifications import library

pytestmark = [pytest.mark.usefixtures("few_cells"), pytest.mark.broad(2)]
K = 4
# Five blocks: a whole cell, and a short block of the next one. The second tensor is taken whole.
SHAPES = [(70, 60), (50,)]

NORMED = """\
optimizer Normed
  "a step of length lr"

hyper lr   = 0.1 in [0, 1]
hyper beta = 0.9 in [0, 1]

state m = 0

m'     = beta * m + g
theta' = theta - lr * m' / (norm(m') + 0.1)

learn lr, beta by SGD(lr = 0)
"""


def rule(name: str) -> str:
    """A rule's text, which learns and moves nothing that it learns in the first steps."""
    if name == "normed":
        return NORMED
    if name == "betas":
        learn = "learn beta1, beta2 in [0.01, 0.999] by SGD(lr = 5e-4, clip = 10) after 50"
        return f"{library.open_source('adamw').text}\n{learn}\n"
    return f"{library.open_source(name).text}\nlearn lr in [0, 1] by SGD(lr = 0)\n"


def sampled(name: str, k: int = K) -> str:
    """The same from a sample."""
    return f"{rule(name)}\nlearn sample 1/{k}\n"


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [
        nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))
        for s in SHAPES
    ]


def gradients(held: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for p in held:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def stepped(opt: Any, held: list[nn.Parameter], steps: int, first: int = 0) -> None:
    for step in range(first, first + steps):
        gradients(held, step)
        opt.step()


def measured(opt: Any) -> dict[str, float]:
    return {k: v for k, v in opt.metrics().items() if k.startswith("hypergradient/")}


def drawn(step: int) -> list[Tensor]:
    """The gradients of a step."""
    held = parameters()
    gradients(held, step)
    return [p.grad for p in held if p.grad is not None]


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("name", ["betas", "normed", "muon", "adafactor"])
def test_the_estimate_is_autograds_over_the_sample(name: str, backend: str) -> None:
    text, held = sampled(name), parameters()
    opt = optdsl.compile(text, backend=backend)(held)
    stepped(opt, held, 1)
    program = library.read(Source("own.opt", text))
    names, group = [x.hyper for x in program.learned], opt.param_groups[0]
    sums = dict.fromkeys(names, 0.0)
    # The second step on the tape, and the gradients of the third one.
    for p, g, after in zip(held, drawn(1), drawn(2), strict=True):
        hypers = {h.name: torch.tensor(group[h.name], dtype=torch.float64) for h in program.hypers}
        chosen = [hypers[name].requires_grad_() for name in names]
        state = opt.completed_state(p)
        done = interpret.step(program, p.detach(), g, state, hypers, 2)
        sample, mask = sample_of(p.shape, K), torch.zeros(p.numel(), dtype=torch.float64)
        mask[sample.index(p.device)] = sample.weight
        product = (done.parameter * after * mask.reshape(p.shape)).sum()
        for key, x in zip(names, torch.autograd.grad(product, chosen), strict=True):
            sums[key] += float(x)
    stepped(opt, held, 2, first=1)
    for key, value in sums.items():
        assert measured(opt)[f"hypergradient/{key}"] == pytest.approx(value, rel=1e-9)


def test_scopes_signals_and_order() -> None:
    """Per tensor, each has its own; cosines are of the sampled parts; orders measure the same."""
    held = parameters()
    learn = {"lr": Learn("sgd", lr=0, bounds=(0, 1), scope="tensor", signal="cosine", sample=K)}
    for order in ("overlapped", "exact"):
        opt = optdsl.load("sgd", learn=learn, order=order, backend="eager")(held, lr=0.1)
        stepped(opt, held, 1)
        before = [p.grad for p in held]
        stepped(opt, held, 1, first=1)
        for p, g in zip(held, before, strict=True):
            assert g is not None
            assert p.grad is not None
            sample = sample_of(p.shape, K)
            index = sample.index(p.device)
            now, then = p.grad.reshape(-1)[index], -g.reshape(-1)[index]
            found = float(opt.state[p]["hypergradient/lr"])
            assert found == pytest.approx(float(sample.weight * now @ then), rel=1e-12)


def test_the_signal_of_a_cosine_is_that_of_the_sample() -> None:
    held = parameters()
    learn = {"lr": Learn("sgd", lr=1, bounds=(0, 9), signal="cosine", sample=K)}
    opt = optdsl.load("sgd", learn=learn)(held, lr=3.0)
    stepped(opt, held, 1)
    then = [-p.grad for p in held if p.grad is not None]
    stepped(opt, held, 1, first=1)
    sums = [0.0, 0.0, 0.0]
    for p, x in zip(held, then, strict=True):
        assert p.grad is not None
        sample = sample_of(p.shape, K)
        parts = [y.reshape(-1)[sample.index(y.device)] for y in (p.grad, x)]
        for n, (a, b) in enumerate([(0, 1), (0, 0), (1, 1)]):
            sums[n] += sample.weight * float(parts[a] @ parts[b])
    moved = 3.0 - opt.param_groups[0]["lr"]
    assert moved == pytest.approx(sums[0] / math.sqrt(sums[1] * sums[2]), rel=1e-9)


@pytest.mark.parametrize("name", ["betas", "normed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_those_of_the_fixed_rule_to_the_bit(name: str, dtype: torch.dtype) -> None:
    held, fixed = parameters(dtype), parameters(dtype)
    for some in (held, fixed):
        generator = torch.Generator().manual_seed(5)
        wide = torch.randn(2, 40, 9, 8, generator=generator).to(dtype)
        some.append(nn.Parameter(wide.to(memory_format=torch.channels_last)))
    opt = optdsl.compile(sampled(name), backend="eager")(held)
    other = optdsl.compile(sampled(name), backend="eager", learn=False)(fixed)
    stepped(opt, held, 4)
    stepped(other, fixed, 4)
    for p, q in zip(held, fixed, strict=True):
        assert torch.equal(p, q)
        for key, value in other.state[q].items():
            assert torch.equal(opt.state[p][key], value), key


def test_kept_states_are_of_the_sample() -> None:
    held = parameters()
    opt = optdsl.compile(sampled("betas"), backend="eager")(held)
    stepped(opt, held, 1)
    for p in held:
        sample = sample_of(p.shape, K)
        shape = p.shape if sample.whole else (sample.count,)
        kept = [x for key, x in opt.state[p].items() if key.startswith("tangent/")]
        assert len(kept) == 2
        assert all(x.shape == shape for x in kept)


def test_a_sample_of_one_in_one_is_every_element() -> None:
    one = compiler.derive(Source("a.opt", f"{rule('adamw')}learn sample 1/1\n"))
    assert one == compiler.derive(Source("a.opt", rule("adamw")))


def test_a_resumed_training_is_the_same_to_the_bit() -> None:
    text, held = sampled("betas"), parameters(torch.float32)
    opt = optdsl.compile(text)(held)
    stepped(opt, held, 3)
    again = copy.deepcopy(held)
    other = optdsl.compile(text)(again)
    saved = copy.deepcopy(opt.state_dict())
    assert float(saved["state"][0][SAMPLE]) == K
    other.load_state_dict(saved)
    assert SAMPLE not in other.state[again[0]]
    for o, ps in ((opt, held), (other, again)):
        stepped(o, ps, 2, first=3)
    assert opt.metrics() == other.metrics()
    assert all(torch.equal(p, q) for p, q in zip(held, again, strict=True))
    for p, q in zip(held, again, strict=True):
        assert opt.state[p].keys() == other.state[q].keys()
        assert all(torch.equal(x, other.state[q][key]) for key, x in opt.state[p].items())


@pytest.mark.parametrize("to", [1, 2, 8])
@pytest.mark.parametrize("of", [1, K])
def test_another_sample_completes_what_is_pending(of: int, to: int) -> None:
    """The hyper-gradient of a loaded pending step is the one that was to be measured."""
    held = parameters()
    opt = optdsl.compile(sampled("betas", of), backend="eager")(held)
    stepped(opt, held, 3)
    saved, again = copy.deepcopy(opt.state_dict()), copy.deepcopy(held)
    other = optdsl.compile(sampled("betas", to), backend="eager")(again)
    other.load_state_dict(saved)
    # What is loaded is saved as it was, with its own sample.
    assert other.state_dict()["state"][0].keys() >= saved["state"][0].keys()
    third = optdsl.compile(sampled("betas", to), backend="eager")(copy.deepcopy(held))
    third.load_state_dict(other.state_dict())
    gradients(again, 3)
    other.observe()
    gradients(third.param_groups[0]["params"], 3)
    third.step()
    stepped(opt, held, 1, first=3)
    stepped(other, again, 1, first=3)
    for one in (other, third):
        for key, value in measured(opt).items():
            assert measured(one)[key] == pytest.approx(value, rel=1e-12)
    assert SAMPLE not in other.state[again[0]]
    stepped(opt, held, 1, first=4)
    stepped(other, again, 1, first=4)
    for p, q in zip(held, again, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("to", [1, K, 8])
@pytest.mark.parametrize("of", [1, K])
def test_a_migrated_state_keeps_its_own_sample(of: int, to: int) -> None:
    """Tangents go on to a rule that learns from other elements."""
    held = parameters()
    opt = optdsl.compile(sampled("betas", of), backend="eager")(held)
    stepped(opt, held, 2)
    how = Learn("sgd", lr=0, bounds=(0.01, 0.999), sample=to)
    again = copy.deepcopy(held)
    other = optdsl.load("adamw", learn={"beta1": how}, backend="eager")(again)
    other.load_state_dict(other.migrated(copy.deepcopy(opt.state_dict())))
    stepped(opt, held, 1, first=2)
    stepped(other, again, 1, first=2)
    expected = measured(opt)["hypergradient/beta1"]
    assert measured(other)["hypergradient/beta1"] == pytest.approx(expected, rel=1e-12)


def test_torchs_checkpoints_resume() -> None:
    """`torch.distributed.checkpoint` knows states and groups only."""
    from torch.distributed.checkpoint import state_dict as checkpoints

    cls = optdsl.compile(sampled("adamw"))
    model = nn.Linear(70, 60)
    opt = cls(model.parameters())
    stepped(opt, list(model.parameters()), 2)
    saved = checkpoints.get_optimizer_state_dict(model, opt)
    assert SAMPLE in saved["state"]["weight"]
    again = copy.deepcopy(model)
    other = cls(again.parameters())
    empty = checkpoints.get_optimizer_state_dict(again, other)
    assert empty["state"]["weight"].keys() == saved["state"]["weight"].keys()
    checkpoints.set_optimizer_state_dict(again, other, saved)
    for one, holder in ((opt, model), (other, again)):
        stepped(one, list(holder.parameters()), 1, first=2)
    assert opt.metrics() == other.metrics()


def test_tensors_without_values_have_states_of_the_same_shapes() -> None:
    held = [nn.Parameter(torch.zeros(s, device="meta")) for s in SHAPES]
    opt = optdsl.compile(sampled("adamw"), backend="eager")(held)
    for p in held:
        p.grad = torch.zeros_like(p)
    for _ in range(2):
        opt.step()
    assert opt.state[held[0]]["tangent/lr"].shape == (sample_of(SHAPES[0], K).count,)


def test_who_learns_nothing_takes_a_sampled_state() -> None:
    held = parameters()
    opt = optdsl.compile(sampled("betas"), backend="eager")(held)
    stepped(opt, held, 2)
    again = copy.deepcopy(held)
    fixed = optdsl.compile(rule("betas"), backend="eager", learn=False)(again)
    fixed.load_state_dict(copy.deepcopy(opt.state_dict()))
    stepped(opt, held, 2, first=2)
    stepped(fixed, again, 2, first=2)
    for p, q in zip(held, again, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
        assert not any(key.startswith(("pending/", "tangent/")) for key in fixed.state[q])


def test_steps_that_lag_are_completed_for_the_sample_only() -> None:
    """The states that compiled kernels leave: sampled elements lag, and others do not."""
    text = sampled("betas")
    program = compiler.derive(Source("own.opt", text))
    (plan,) = plans(program, rounded=False, kinds=("replay",))
    theta, sample = parameters()[0].detach(), sample_of(SHAPES[0], K)
    assert plan.outside is not None
    index, hypers = sample.index(theta.device), program.defaults
    g, after = (torch.randn(SHAPES[0], dtype=torch.float64) for _ in range(2))
    state = interpret.initial_state(plan.outside, theta, g, hypers)
    done = interpret.step(plan.outside, theta, g, state, hypers, 1)
    expected = interpret.step(program, theta, g, state, hypers, 1)
    lagging = {
        name: tensors.scattered(x, state[name].reshape(-1)[index], sample)
        for name, x in done.state.items()
    }
    lagging |= {"step": torch.tensor(1.0), pending("g"): g.reshape(-1)[index]}
    row = [1.0, *(hypers[h.name] for h in program.hypers)]
    lagging[PENDING_HYPERS] = torch.tensor(row, dtype=torch.float64)
    work = ParameterTask(done.parameter, after, lagging, hypers)
    observed = completion.products(program, work)
    sums = completion.completed(program, work)
    for name, x in expected.tangents.items():
        value = K * float(after.reshape(-1)[index] @ x.reshape(-1)[index])
        assert sums[name] == pytest.approx(value, rel=1e-9)
        assert observed[name] == pytest.approx(value, rel=1e-9)
    assert lagging.keys() == {*done.state, "step"}
    for name, x in done.state.items():
        torch.testing.assert_close(lagging[name], x, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (SAMPLE, torch.tensor(2.5), "pending/sample is .* whole number"),
        (SAMPLE, torch.tensor(8.0), r"tangent/\w+ has shape \(\d+,\), not \(\d+, \d+\)"),
        ("tangent/beta1", torch.zeros(5), r"tangent/beta1 has shape \(5,\), not"),
        ("tangent/beta1", torch.zeros(9, dtype=torch.int64), "has shape"),
    ],
)
def test_states_of_a_sample_are_checked(key: str, value: Tensor, message: str) -> None:
    held = parameters()
    opt = optdsl.compile(sampled("betas"), backend="eager")(held)
    stepped(opt, held, 1)
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][0][key] = value
    with pytest.raises(ValueError, match=message):
        opt.load_state_dict(saved)


def test_a_standalone_file_refuses_a_sample() -> None:
    with pytest.raises(optdsl.OptionError, match="since it learns from a sample"):
        optdsl.eject(optdsl.compile(sampled("adamw")), learn=True)
