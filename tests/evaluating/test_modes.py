"""Eval mode and back: bits, copies and checkpoints, mistakes, dtypes, learned coefficients."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from optdsl.compiler import derive
from optdsl.diagnostics import SpecError
from optdsl.plan import plans
from optdsl.runtime.engines.sharded import shards
from optdsl.specifications import library

from .common import BACKENDS, RULES, copies, parameters, same_bits, train

pytestmark = pytest.mark.broad(3)

KEPT = "trained/theta"

backends = pytest.mark.parametrize("backend", BACKENDS)
rules = pytest.mark.parametrize("rule", RULES)
# What learns has pending steps in compiled code, and states that lag.
LEARNING = {
    "plain": False,
    "learning": {"lr": Learn("sgd", lr=1e-5, bounds=(0, 1))},
    "of each tensor": {"lr": Learn("sgd", lr=1e-5, bounds=(0, 1), scope="tensor")},
}


def saved(content: Any) -> Any:
    """Through a file, read with torch's safe defaults."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file)


def everything(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters and states."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    states = [optimizer.state[p] for p in held if p in optimizer.state]
    return copies(held) + [x.clone() for s in states for _, x in sorted(s.items())]


@pytest.mark.parametrize("learn", LEARNING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@rules
@backends
def test_eval_and_train_leave_no_trace(
    backend: str, rule: str, dtype: torch.dtype, learn: str
) -> None:
    cls = optdsl.load(rule, backend=backend, learn=LEARNING[learn])
    held, other = parameters(dtype), parameters(dtype)
    visited, plain = cls(held, lr=0.01), cls(other, lr=0.01)

    def visit(step: int) -> None:
        before = everything(visited)
        visited.eval()
        # At first, the average is of one point.
        assert step == 0 or not same_bits(copies(held), before[: len(held)])
        assert all(p.dtype == dtype for p in held)
        inside = copies(held)
        visited.eval()
        assert same_bits(copies(held), inside)
        visited.train()
        visited.train()
        assert same_bits(everything(visited), before)

    train(visited, held, range(6), visit)
    train(plain, other, range(6))
    assert same_bits(everything(visited), everything(plain))
    assert visited.metrics() == plain.metrics()


@pytest.mark.parametrize("learn", LEARNING)
@backends
def test_the_point_is_that_of_a_completed_step(backend: str, learn: str) -> None:
    """Compiled code that learns keeps states that lag; the point does not."""
    options: dict[str, Any] = {"learn": LEARNING[learn]}
    cls = optdsl.load("adamw with ema_weights(beta = 0.5)", backend=backend, **options)
    held = parameters()
    optimizer = cls(held, lr=0.01)
    means = copies(held)

    def averaged(step: int) -> None:
        means[:] = [0.5 * m + 0.5 * p.detach() for m, p in zip(means, held, strict=True)]

    train(optimizer, held, range(5), averaged)
    optimizer.eval()
    for x, mean in zip(held, means, strict=True):
        torch.testing.assert_close(x.detach(), mean, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("learn", LEARNING)
@rules
@backends
def test_a_checkpoint_of_eval_mode_goes_on_to_the_bit(backend: str, rule: str, learn: str) -> None:
    cls = optdsl.load(rule, backend=backend, learn=LEARNING[learn])
    held = parameters()
    optimizer = cls([{"params": held[:1]}, {"params": held[1:], "eps": 1e-4}], lr=0.01)
    train(optimizer, held, range(4))
    optimizer.eval()
    checkpoint = saved({"model": copies(held), "optimizer": optimizer.state_dict()})
    inside = copies(held)

    fresh = [nn.Parameter(x) for x in checkpoint["model"]]
    resumed = cls([{"params": fresh[:1]}, {"params": fresh[1:]}])
    resumed.load_state_dict(checkpoint["optimizer"])
    assert same_bits(copies(fresh), inside)
    with pytest.raises(RuntimeError, match=r"is in eval mode.*call train"):
        resumed.step()
    assert same_bits(everything(resumed), everything(optimizer))
    for one, params in ((optimizer, held), (resumed, fresh)):
        one.eval()
        one.train()
        train(one, params, range(4, 8))
    assert same_bits(everything(resumed), everything(optimizer))
    for one in (optimizer, resumed):
        one.eval()
    assert same_bits(everything(resumed), everything(optimizer))


COPY: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
}


@pytest.mark.parametrize("way", COPY)
@backends
def test_a_copy_is_in_eval_mode_too(backend: str, way: str) -> None:
    held = parameters()
    optimizer = optdsl.load(RULES[2], backend=backend)(held, lr=0.01)
    train(optimizer, held, range(3))
    optimizer.eval()
    again = COPY[way](optimizer)
    other = again.param_groups[0]["params"]
    with pytest.raises(RuntimeError, match="eval mode"):
        again.step()
    for one, params in ((optimizer, held), (again, other)):
        one.train()
        train(one, params, range(3, 6))
    assert same_bits(everything(optimizer), everything(again))


@backends
def test_a_checkpoint_of_training_ends_eval_mode(backend: str) -> None:
    held = parameters()
    optimizer = optdsl.load(RULES[0], backend=backend)(held, lr=0.01)
    train(optimizer, held, range(3))
    model, checkpoint = copies(held), saved(optimizer.state_dict())
    train(optimizer, held, range(3, 5))
    optimizer.eval()
    with torch.no_grad():
        for p, x in zip(held, model, strict=True):
            p.copy_(x)
    optimizer.load_state_dict(checkpoint)
    optimizer.train()
    assert same_bits(copies(held), model)
    train(optimizer, held, [3])


@backends
def test_a_parameter_that_took_no_step_is_evaluated_where_it_is(backend: str) -> None:
    held = parameters()
    optimizer = optdsl.load(RULES[2], backend=backend)(held, lr=0.01)
    before = copies(held)
    optimizer.eval()
    assert same_bits(copies(held), before)
    with pytest.raises(RuntimeError, match="call train"):
        optimizer.step()
    again = pickle.loads(pickle.dumps(optimizer))
    with pytest.raises(RuntimeError, match="call train"):
        again.step()
    optimizer.train()
    held[0].grad = torch.ones_like(held[0])
    optimizer.step()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    before = copies(held)
    optimizer.eval()
    assert not torch.equal(held[0], before[0])
    assert same_bits(copies(held[1:]), before[1:])
    optimizer.train()
    assert same_bits(copies(held), before)


@backends
def test_parameters_that_share_memory_come_back(backend: str) -> None:
    whole = torch.arange(6, dtype=torch.float64)
    held = [nn.Parameter(whole[:4]), nn.Parameter(whole[2:])]
    optimizer = optdsl.load(RULES[0], backend=backend)(held, lr=0.1)
    for step in range(3):
        for n, p in enumerate(held):
            p.grad = torch.full_like(p, float(n + step))
        optimizer.step()
    before = copies(held)
    optimizer.eval()
    assert not same_bits(copies(held), before)
    optimizer.train()
    assert same_bits(copies(held), before)


@backends
def test_what_cannot_be_in_eval_mode_is_told(backend: str) -> None:
    held = parameters()
    optimizer = optdsl.load(RULES[0], backend=backend)(held, lr=0.01)
    train(optimizer, held, range(2))
    before = everything(optimizer)
    optimizer.param_groups[0]["beta1"] = 2.0
    with pytest.raises(ValueError, match="beta1"):
        optimizer.eval()
    assert same_bits(everything(optimizer), before)
    optimizer.param_groups[0]["beta1"] = 0.9
    optimizer.eval()
    called: list[int] = []
    with pytest.raises(RuntimeError, match=r"call train\(\) before step"):
        optimizer.step(lambda: called.append(1) or 0.0)
    assert not called
    with pytest.raises(RuntimeError, match=r"call train\(\) before observe"):
        optimizer.observe()


@backends
def test_what_fails_halfway_changes_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = parameters()
    optimizer = optdsl.load(RULES[0], backend=backend)(held, lr=0.01)
    train(optimizer, held, range(3))
    before, evaluated = everything(optimizer), shards.evaluated

    def failing(point: Any, work: Any) -> None:
        if work.parameter is held[1]:
            raise MemoryError
        evaluated(point, work)

    monkeypatch.setattr(shards, "evaluated", failing)
    with pytest.raises(MemoryError):
        optimizer.eval()
    assert same_bits(everything(optimizer), before)
    train(optimizer, held, [3])


@backends
def test_half_a_checkpoint_of_eval_mode_is_refused(backend: str) -> None:
    held = parameters()
    optimizer = optdsl.load(RULES[0], backend=backend)(held, lr=0.01)
    train(optimizer, held, range(2))
    whole = copy.deepcopy(optimizer.state_dict())
    optimizer.eval()
    mode = optimizer.state_dict()
    assert mode["evaluating"] is True
    assert all(KEPT in state for state in mode["state"].values())
    fresh = optdsl.load(RULES[0], backend=backend)(parameters())
    before = everything(fresh)
    for wrong, message in (
        ({k: v for k, v in mode.items() if k != "evaluating"}, "`evaluating` is missing"),
        (whole | {"evaluating": True}, f"has no {KEPT}"),
        (mode | {"evaluating": "yes"}, "no bool"),
        (
            mode | {"state": {n: s | {KEPT: torch.ones(3)} for n, s in mode["state"].items()}},
            "shape",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            fresh.load_state_dict(wrong)
        assert same_bits(everything(fresh), before)
    fresh.load_state_dict(mode)


@backends
def test_a_state_of_eval_mode_migrates(backend: str, tmp_path: Path) -> None:
    """A pending step is completed with the parameter as it is trained."""
    learn = {"lr": Learn("sgd", lr=1e-5, bounds=(0, 1))}
    cls = optdsl.load(RULES[1], backend=backend, learn=learn)
    held = parameters()
    optimizer = cls(held, lr=0.01)
    train(optimizer, held, range(3))
    expected = [optimizer.completed_state(p) for p in held]
    optimizer.eval()
    assert [optimizer.completed_state(p).keys() for p in held] == [s.keys() for s in expected]
    fixed = optdsl.load(RULES[1], backend=backend, learn=False)(held)
    fixed.load_state_dict(fixed.migrated(optimizer.state_dict()))
    fixed.train()
    optimizer.train()
    for p, state in zip(held, expected, strict=True):
        for key, value in state.items():
            torch.testing.assert_close(fixed.state[p][key], value, rtol=1e-12, atol=1e-13)


def test_torch_has_no_eval_mode() -> None:
    text = library.open_source("adamw").text + "eval = theta / 2\n"
    held = parameters()
    optimizer = optdsl.compile(text)(held)
    train(optimizer, held, range(2))
    optimizer.eval()
    with pytest.raises(ValueError, match=r"call train\(\)"):
        optdsl.to_torch(optimizer.state_dict())
    optimizer.train()
    torch.optim.AdamW(held).load_state_dict(optdsl.to_torch(optimizer.state_dict()))


def test_a_step_does_not_compute_the_point() -> None:
    """The programs of steps, and so their kernels, do not have the point."""
    program = derive(library.open_source("schedule_free_adamw"))
    assert program.evaluation is not None
    for plan in plans(program, rounded=False):
        assert plan.advance.evaluation is None
        assert len(plan.advance.operations) < len(program.operations)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("of eval\neval = base.eval + g", "`eval` depends on `g`"),
        ("of eval\neval = base.eval'", "`eval` depends on `theta'`"),
        ("of eval\neval = base.eval > 0", "`eval` is a number"),
        ("of theta'\ntheta' = base.eval'", "`.*` depends on itself once `Mine`"),
        ("of eval\nstate s = base.eval\ns' = theta\neval = s", "`base.eval`"),
        ("of eval\neval = eval'", "unknown name|is primed"),
        ("of eval'\neval' = theta", "has no `eval'` for `Mine`"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.opt").write_text(f"modifier Mine {text}\n")
    (tmp_path / "made.opt").write_text("optimizer Made = AdamW with Mine\n")
    with pytest.raises(SpecError, match=message):
        optdsl.load(str(tmp_path / "made.opt"))


def test_a_modifier_must_not_make_a_point_depend_on_the_gradient(tmp_path: Path) -> None:
    (tmp_path / "mine.opt").write_text("modifier Mine of apart\napart = base.apart + g\n")
    (tmp_path / "made.opt").write_text("optimizer Made = ScheduleFreeAdamW with Mine\n")
    with pytest.raises(SpecError, match="`eval` depends on `g`"):
        optdsl.load(str(tmp_path / "made.opt"))
