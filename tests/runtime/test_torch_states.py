"""Trainings that move from torch's optimizers to ours, and back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from optdsl.torch_states import _AMSGRADW

from .helpers import bits, held, parameters, saved, train

BACKENDS = ("eager", "c")
AMSGRADW = optdsl.compile(_AMSGRADW)
ADAM = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
# Torch's class and its arguments, and the rule that takes the same steps here.
CASES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "adam": (torch.optim.Adam, ADAM, "adam"),
    "adam, foreach": (torch.optim.Adam, {**ADAM, "foreach": True}, "adam"),
    "adam, fused": (torch.optim.Adam, {**ADAM, "fused": True}, "adam"),
    "adamw": (torch.optim.AdamW, ADAM, "adamw"),
    "adamw, maximize": (torch.optim.AdamW, {**ADAM, "maximize": True}, "adamw"),
    "adam, amsgrad": (torch.optim.Adam, {**ADAM, "amsgrad": True}, "amsgrad"),
    "adamw, amsgrad": (torch.optim.AdamW, {**ADAM, "amsgrad": True}, AMSGRADW),
    "sgd": (torch.optim.SGD, {"lr": 0.02, "weight_decay": 0.1}, "sgd"),
    "sgd, momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "dampening": 0.5}, "sgd"),
    "sgd, nesterov": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}, "sgd"),
}
cases = pytest.mark.parametrize(("theirs", "arguments", "rule"), CASES.values(), ids=CASES)


def grouped(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Two groups, one with values of its own and a key of the user's."""
    return [{"params": params[:1], "name": "first"}, {"params": params[1:], "lr": 0.01}]


def copies(params: list[Tensor]) -> list[nn.Parameter]:
    return [nn.Parameter(p.detach().clone()) for p in params]


def ours(rule: Any, backend: str = "eager", **options: Any) -> Any:
    if isinstance(rule, str):
        return optdsl.load(rule, backend=backend, **options)
    return optdsl.compile(_AMSGRADW, backend=backend, **options)


@cases
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_of_torch_goes_on_here_as_it_would_have(
    theirs: Any, arguments: dict[str, Any], rule: Any, backend: str
) -> None:
    reference = theirs(grouped(parameters()), **arguments)
    train(reference, range(4))
    state = saved(reference.state_dict())
    before = copy.deepcopy(state)
    params = copies(held(reference))
    moved = ours(rule, backend)(grouped(params))
    moved.load_state_dict(optdsl.from_torch(state, rule))
    torch.testing.assert_close(state["state"], before["state"], rtol=0, atol=0)
    assert state["param_groups"] == before["param_groups"]
    train(reference, range(4, 9))
    train(moved, range(4, 9))
    torch.testing.assert_close(params, held(reference), rtol=1e-12, atol=1e-13)
    assert [g.get("name") for g in moved.param_groups] == ["first", None]


@cases
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_goes_on_in_torch_as_it_would_have_here(
    theirs: Any, arguments: dict[str, Any], rule: Any, backend: str
) -> None:
    own = {k: v for k, v in arguments.items() if k != "amsgrad"}
    reference = ours(rule, backend)(grouped(parameters()), **own)
    train(reference, range(4))
    params = copies(held(reference))
    moved = theirs(grouped(params))
    moved.load_state_dict(optdsl.to_torch(saved(reference.state_dict())))
    train(reference, range(4, 9))
    train(moved, range(4, 9))
    torch.testing.assert_close(params, held(reference), rtol=1e-12, atol=1e-13)
    kept, new = (o.param_groups[0] for o in (moved, theirs(parameters(), **arguments)))
    assert all(kept[key] == value for key, value in new.items() if key != "params")


@cases
def test_there_and_back_again_is_the_same_to_the_bit(
    theirs: Any, arguments: dict[str, Any], rule: Any
) -> None:
    optimizer = theirs(grouped(parameters()), **arguments)
    train(optimizer, range(3))
    state = optimizer.state_dict()
    back = optdsl.to_torch(optdsl.from_torch(state, rule))
    for key in ("foreach", "fused"):  # None and False say nothing
        for group in (*state["param_groups"], *back["param_groups"]):
            group[key] = bool(group[key])
    own = {key: kept for key, kept in state["state"].items() if set(kept.values()) - {None}}
    torch.testing.assert_close(back["state"], own, rtol=0, atol=0)
    assert back["param_groups"] == state["param_groups"]


def test_parameters_that_have_no_state_yet_begin_as_in_torch() -> None:
    """The first gradient of a parameter is not dampened, also where others have begun."""
    arguments = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    reference = torch.optim.SGD(parameters(), **arguments)
    for number, parameter in enumerate(held(reference)):
        parameter.grad = torch.ones_like(parameter) if number else None
    reference.step()
    params = copies(held(reference))
    moved = optdsl.load("sgd")(params)
    moved.load_state_dict(optdsl.from_torch(reference.state_dict(), "sgd"))
    for optimizer in (reference, moved):
        train(optimizer, range(3))
    torch.testing.assert_close(params, held(reference), rtol=1e-13, atol=1e-13)


def test_what_is_learned_from_then_on_begins_anew() -> None:
    learn = {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1))}
    reference = torch.optim.AdamW(parameters(), lr=0.02)
    train(reference, range(3))
    optimizer = optdsl.load("adamw", learn=learn)(copies(held(reference)))
    optimizer.load_state_dict(optdsl.from_torch(reference.state_dict(), "adamw"))
    assert optimizer.metrics() == {"lr": 0.02, "hypergradient/lr": 0.0}
    train(optimizer, range(3, 5))
    assert optimizer.metrics()["lr"] != 0.02


@pytest.mark.parametrize("sample", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_pending_step_is_told_and_can_be_completed(backend: str, sample: int) -> None:
    learn = {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1), sample=sample)}
    cls = optdsl.load("adamw", backend=backend, learn=learn)
    optimizer = cls(parameters(), lr=0.02)
    train(optimizer, range(3))
    state = optimizer.state_dict()
    if backend == "c":
        with pytest.raises(ValueError, match=r"step of this state is pending.*fixed\.migrated"):
            optdsl.to_torch(state)
    params = copies(held(optimizer))
    fixed = optdsl.load("adamw", learn=False)(params)
    moved = torch.optim.AdamW(params)
    moved.load_state_dict(optdsl.to_torch(fixed.migrated(state)))
    fixed.load_state_dict(fixed.migrated(state))
    expected = copies(params)
    reference = optdsl.load("adamw", learn=False)(expected)
    reference.load_state_dict(fixed.state_dict())
    for each in (moved, reference):
        train(each, range(3, 6))
    torch.testing.assert_close(params, expected, rtol=1e-12, atol=1e-13)


def test_tensors_as_rates_and_moments_in_half_precision() -> None:
    rate = torch.tensor(0.02)
    optimizer = torch.optim.AdamW(parameters(torch.bfloat16), lr=rate, capturable=False)
    train(optimizer, range(2))
    found = optdsl.from_torch(optimizer.state_dict(), "adamw")
    (group,) = found["param_groups"]
    assert group["lr"].item() == rate.item()
    assert group["lr"] is not rate
    for number, state in optimizer.state_dict()["state"].items():
        assert found["state"][number]["m"].dtype is torch.float32
        assert torch.equal(found["state"][number]["m"], state["exp_avg"].float())


def test_states_of_before_groups_told_whether_the_decay_is_decoupled() -> None:
    optimizer = torch.optim.AdamW(parameters(), lr=0.1)
    train(optimizer, range(2))
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group.pop("decoupled_weight_decay", None)
    for rule in ("adam", "adamw"):
        assert optdsl.from_torch(state, rule)["specification"].lower() == rule


def other(cls: Any = torch.optim.Adam, **arguments: Any) -> dict[str, Any]:
    optimizer = cls(parameters(), **arguments)
    train(optimizer, range(1))
    state: dict[str, Any] = optimizer.state_dict()
    return state


def mixed() -> dict[str, Any]:
    state = other()
    state["param_groups"].append({**state["param_groups"][0], "amsgrad": True, "params": []})
    return state


REFUSED: dict[str, tuple[Any, str, str]] = {
    "another rule": (other, "adamw", r"state of torch's Adam\(amsgrad=False\), and AdamW takes"),
    "amsgrad": (lambda: other(amsgrad=True), "adam", "states only in torch: vmax"),
    "RMSprop": (lambda: other(torch.optim.RMSprop), "adam", "no state of torch's Adam, AdamW or"),
    "NAdam": (lambda: other(torch.optim.NAdam), "adam", "no state of torch's Adam, AdamW or SGD"),
    "groups that differ": (mixed, "adam", "its groups differ in the rule"),
    "differentiable": (lambda: other(differentiable=False) | differentiable(), "adam", "not diff"),
    "nothing": (dict, "adam", "has no `state` or no `param_groups`"),
}


def differentiable() -> dict[str, Any]:
    groups = other()["param_groups"]
    return {"param_groups": [{**group, "differentiable": True} for group in groups]}


@pytest.mark.parametrize(("make", "rule", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_moved_is_refused_with_the_reason(make: Any, rule: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        optdsl.from_torch(make(), rule)


TORCHS: dict[str, tuple[Any, str]] = {
    "Adam": (lambda: other(), "adam"),
    "Adam without steps": (lambda: torch.optim.Adam(parameters()).state_dict(), "adam"),
    "Adam with a maximum": (lambda: other(amsgrad=True), "amsgrad"),
    "AdamW": (lambda: other(torch.optim.AdamW), "adamw"),
    "SGD": (lambda: other(torch.optim.SGD, lr=0.1, momentum=0.5), "sgd"),
}


@pytest.mark.parametrize(("make", "rule"), TORCHS.values(), ids=TORCHS)
@pytest.mark.parametrize("way", ["load_state_dict", "migrated"])
def test_a_state_of_torch_is_recognised_where_one_of_this_library_is_expected(
    make: Any, rule: str, way: str
) -> None:
    state = make()
    optimizer = optdsl.load("lion")(parameters())
    with pytest.raises(ValueError, match=rf"a state of torch's .*from_torch\(.*\"{rule}\"\)"):
        getattr(optimizer, way)(state)
    target = optdsl.load(rule, learn=False)(parameters())
    target.load_state_dict(optdsl.from_torch(state, rule))


@pytest.mark.parametrize("name", ["NAdam", "RAdam", "Adamax", "RMSprop"])
def test_a_state_of_torch_that_cannot_be_converted_is_not_said_to_be_adams(name: str) -> None:
    options = {"momentum": 0.5} if name == "RMSprop" else {}
    state = other(getattr(torch.optim, name), **options)
    optimizer = optdsl.load(name.lower())(parameters())
    with pytest.raises(ValueError, match=rf"not one of {name}: states of torch's Adam, AdamW and"):
        optimizer.load_state_dict(state)


def test_an_optimizer_in_place_of_its_state_is_refused() -> None:
    theirs, ours = torch.optim.Adam(parameters()), optdsl.load("adam")(parameters())
    for call in (
        lambda: optdsl.from_torch(theirs, "adam"),  # type: ignore[arg-type]
        lambda: optdsl.to_torch(ours),  # type: ignore[arg-type]
        lambda: ours.migrated(ours),  # type: ignore[arg-type]
        lambda: ours.load_state_dict(ours),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"an? .* is no state .*: give its state_dict\(\)"):
            call()


def test_a_refusal_of_torchs_state_is_aligned_cut_and_names_the_rule_that_fits() -> None:
    with pytest.raises(ValueError, match="takes other steps:") as caught:
        optdsl.from_torch(other(), "adamw")
    lines = str(caught.value).splitlines()
    assert "  in torch  s = h^2" in lines
    assert "  here      s = g^2" in lines
    assert lines[-1] == '  The library has it as "adam": give that to from_torch.'
    with pytest.raises(ValueError, match="lines more") as caught:
        optdsl.from_torch(other(), "mada")
    assert len(str(caught.value).splitlines()) <= 20


def test_a_state_with_other_entries_is_refused() -> None:
    state = other()
    del state["state"][0]["exp_avg_sq"]
    with pytest.raises(ValueError, match="it keeps step, exp_avg, not exp_avg, exp_avg_sq, step"):
        optdsl.from_torch(state, "adam")


def test_what_torch_has_not_is_refused() -> None:
    optimizer = optdsl.load("lion")(parameters())
    with pytest.raises(ValueError, match="torch has no rule that takes the steps of Lion; it has"):
        optdsl.to_torch(optimizer.state_dict())
    learn = {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1), scope="tensor")}
    optimizer = optdsl.load("adam", learn=learn, backend="eager")(parameters())
    train(optimizer, range(2))
    with pytest.raises(ValueError, match="learned for each tensor"):
        optdsl.to_torch(optimizer.state_dict())
    bare = {k: v for k, v in other().items() if k != "meaning"}
    with pytest.raises(ValueError, match="give to_torch the rule"):
        optdsl.to_torch(bare)


def test_the_rule_may_be_told() -> None:
    """What torch.distributed.checkpoint leaves has no meaning."""
    optimizer = optdsl.load("adam", learn=False)(parameters())
    train(optimizer, range(2))
    state = optimizer.state_dict()
    bare = {key: state[key] for key in ("state", "param_groups")}
    found, expected = optdsl.to_torch(bare, "adam"), optdsl.to_torch(state)
    assert [bits(s["exp_avg"]) for s in found["state"].values()] == [
        bits(s["exp_avg"]) for s in expected["state"].values()
    ]
