"""What may be loaded, what is refused, and who may have a say in it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

from .helpers import SPECS, fingerprint, held, learner, parameters, plain, resumed, saved, train

pytestmark = pytest.mark.broad(8)


def mean_the_same(first: str, second: str) -> bool:
    """As HyperAdam and AdamW do, which differ in what they learn."""
    return plain(first).compiled.meaning.hash == plain(second).compiled.meaning.hash


@functools.cache
def trained(loader: str, backend: str) -> CompiledOptimizer:
    """What each refusal leaves as it was, so that one serves them all."""
    target = learner(loader, backend=backend)(parameters(seed=1))
    train(target, range(2))
    return target


@pytest.mark.parametrize(("backend", "steps"), [("auto", 0), ("auto", 2), ("eager", 2)])
@pytest.mark.parametrize("saver", SPECS)
def test_another_specifications_state_is_refused(saver: str, backend: str, steps: int) -> None:
    """Even where both keep the same things by the same names, as Adam and AdamW do."""
    source = plain(saver, backend)(parameters())
    train(source, range(steps))
    content = source.state_dict()
    strangers = [s for s in SPECS if not mean_the_same(saver, s)]
    assert len(strangers) >= len(SPECS) - 2
    for loader in strangers:
        target = trained(loader, backend)
        before = fingerprint(target)
        with pytest.raises(ValueError, match=f"not one of {type(target).__name__}"):
            target.load_state_dict(content)
        assert fingerprint(target) == before
        train(target, [2])


def test_another_number_of_groups_or_parameters_is_refused() -> None:
    cls = learner("adam")
    one, two = cls(parameters()), cls([{"params": [p]} for p in parameters()[:2]])
    fewer = cls(parameters()[:2])
    for optimizer in (one, two, fewer):
        train(optimizer, range(2))
    for target, source, words in (
        (one, two, "different number of parameter groups"),
        (two, one, "different number of parameter groups"),
        (one, fewer, "doesn't match the size"),
    ):
        before = fingerprint(target)
        with pytest.raises(ValueError, match=words):
            target.load_state_dict(source.state_dict())
        assert fingerprint(target) == before


def test_pre_hooks_may_replace_what_is_loaded() -> None:
    """The replacement is what is checked, and what keeps its bits."""
    source = learner("adamw")(parameters(torch.bfloat16))
    train(source, range(4))
    wrapped = {"wrapped": source.state_dict()}
    new = learner("adamw")(parameters(torch.bfloat16))
    new.load_state_dict(source.state_dict())  # which leaves no check behind
    seen: list[str] = []

    def unwrap(_: torch.optim.Optimizer, content: dict[str, Any]) -> dict[str, Any] | None:
        seen.append("pre")
        return content.get("wrapped")

    def look(optimizer: torch.optim.Optimizer) -> None:
        seen.append("post")
        assert {v.dtype for v in optimizer.state[held(optimizer)[0]].values()} == {
            torch.float32,
            torch.float64,
        }

    new.register_load_state_dict_pre_hook(unwrap)
    new.register_load_state_dict_post_hook(look)
    for _ in range(2):
        new.load_state_dict(wrapped)
        assert fingerprint(new)["state"] == fingerprint(source)["state"]
    assert seen == ["pre", "post"] * 2
    with pytest.raises(ValueError, match="not one of AdamW"):
        new.load_state_dict({"wrapped": learner("lion")(parameters()).state_dict()})
    assert fingerprint(new)["state"] == fingerprint(source)["state"]


def test_post_hooks_have_the_last_word() -> None:
    source = learner("lion")(parameters())
    train(source, range(2))
    new = learner("lion")(parameters())

    def forget(optimizer: torch.optim.Optimizer) -> None:
        for state in optimizer.state.values():
            state["m"].zero_()

    new.register_load_state_dict_post_hook(forget)
    new.load_state_dict(source.state_dict())
    assert all(not state["m"].any() for state in new.state.values())


def test_hooks_around_saving() -> None:
    optimizer = learner("adam")(parameters())
    train(optimizer, [0])
    optimizer.register_state_dict_post_hook(lambda _, content: {**content, "epoch": 3})
    content = saved(optimizer.state_dict())
    assert content["epoch"] == 3
    optimizer.load_state_dict(content)


def test_what_was_not_saved_of_learning_starts_anew() -> None:
    """A run that learned nothing goes on with learning."""
    source = plain("adam")(parameters())
    train(source, range(3))
    new = learner("adam")(parameters())
    new.load_state_dict(source.state_dict())
    assert new.metrics() == {
        **{"lr": 1e-3, "weight_decay": 0.0},
        **{"hypergradient/lr": 0.0, "hypergradient/weight_decay": 0.0},
    }
    train(new, range(3, 6))
    assert new.metrics()["lr"] != 1e-3


def test_another_rule_for_the_coefficient_starts_anew() -> None:
    """The memory of one rule is nothing to another one."""
    by_sgd = {"lr": Learn("sgd", lr=1e-4, momentum=0.9, bounds=(0, 1))}
    by_adam = {"lr": Learn("adam", lr=1e-4, bounds=(0, 1))}
    source = optdsl.load("sgd", learn=by_sgd)([nn.Parameter(torch.ones(1))])
    train(source, range(4))
    content = source.state_dict()
    cls = optdsl.load("sgd", learn=by_adam)
    new, fresh = (cls([nn.Parameter(torch.ones(1))], lr=1e-4) for _ in range(2))
    new.load_state_dict(content)
    fresh.load_state_dict(content)
    for key in [k for k in fresh.param_groups[0] if k.startswith("learn/")]:
        fresh.param_groups[0][key] = 0
    train(new, [9])
    train(fresh, [9])
    assert new.metrics() == fresh.metrics()


def test_a_pending_tangent_does_not_outlive_its_step() -> None:
    """Learning, then not, then learning again: what was pending long ago is no longer true."""
    learns, rests = learner("adamw"), plain("adamw")
    first = learns(parameters())
    train(first, range(3))
    middle = resumed(rests, first)
    train(middle, range(3, 6))
    last = resumed(learns, middle)
    coefficients = last.metrics()
    train(last, [6])
    assert last.metrics() == coefficients


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("sample", [1, 8])
def test_a_parameter_without_a_saved_state_has_none_after_the_load(
    backend: str, sample: int
) -> None:
    """A wrapper that moves a state by loading it, such as accelerate's, changes nothing."""
    params = parameters()
    learn = Learn(rule="sgd", lr=1e-2, sample=sample)
    optimizer = optdsl.load("mada", backend=backend, learn={"rho": learn})(params)
    for stepped in ([], params[:2]):
        if stepped:
            params[0].grad, params[1].grad = (torch.ones_like(p) for p in stepped)
            optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        assert [p for p in params if p in optimizer.state] == stepped
