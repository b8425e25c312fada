"""What users of torch's optimizers pass, and what a swap to ours makes of it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import optdsl
from optdsl import Learn
from tests.contract.common import BACKENDS
from tests.oracles.rules import ELEMENTWISE
from tests.runtime.helpers import bits, held, parameters, saved, train

pytestmark = pytest.mark.broad(8)

# Keys that users and trainers keep in groups for themselves.
OWN: dict[str, Any] = {
    "name": "decay",
    "use_weight_decay": True,
    "lr_scale": 0.5,
    "initial_lr": 0.1,
    "layer_id": 3,
    "param_names": ["a"],
}


def grouped(**more: Any) -> list[dict[str, Any]]:
    params = parameters()
    return [{"params": params[:1], **more}, {"params": params[1:]}]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", ELEMENTWISE)
def test_keys_of_users_are_kept_saved_and_loaded_without_a_word(spec: str, backend: str) -> None:
    cls = optdsl.load(spec, backend=backend)
    own = {k: v for k, v in OWN.items() if k != "param_names"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = cls(grouped(**own))
        train(optimizer, range(2))
        loaded = cls(grouped())
        loaded.load_state_dict(saved(optimizer.state_dict()))
    reference = cls(grouped())
    train(reference, range(2))
    assert [bits(p) for p in held(optimizer)] == [bits(p) for p in held(reference)]
    for each in (optimizer, loaded):
        first, second = each.param_groups
        assert {key: first[key] for key in own} == own
        assert not own.keys() & second.keys()


@pytest.mark.parametrize("key", ["weight_decays", "weigth_decay", "beta_1", "maximise"])
def test_a_key_that_looks_misspelt_warns_and_is_kept(key: str) -> None:
    with pytest.warns(UserWarning, match=f"Adam has no hyperparameter '{key}', .*did you mean"):
        optimizer = optdsl.load("adam")(grouped(**{key: 0.5}))
    assert optimizer.param_groups[0][key] == 0.5


def test_an_option_of_torch_that_is_another_rule_is_not_dropped_in_silence() -> None:
    with pytest.warns(UserWarning, match=r'Adam .*\'amsgrad\'.*optdsl.load\("amsgrad"\)'):
        optdsl.load("adam")(grouped(amsgrad=True))
    with pytest.raises(TypeError, match=r"Adam .*'amsgrad': optdsl.load\(\"amsgrad\"\)"):
        optdsl.load("adam")(parameters(), amsgrad=True)


@pytest.mark.parametrize("where", ["constructor", "group", "added group"])
@pytest.mark.parametrize("hint", ["foreach", "fused", "capturable"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_hints_of_how_to_compute_are_kept_and_change_nothing(
    backend: str, hint: str, where: str
) -> None:
    cls = optdsl.load("adamw", backend=backend)
    reference = cls(grouped())
    if where == "constructor":
        optimizer = cls(grouped(), **{hint: True})
    elif where == "group":
        optimizer = cls(grouped(**{hint: True}))
    else:
        last, first = reversed(grouped(**{hint: True}))
        optimizer = cls([last])
        optimizer.add_param_group(first)
        optimizer.param_groups.reverse()
    train(optimizer, range(3))
    train(reference, range(3))
    assert [bits(p) for p in held(optimizer)] == [bits(p) for p in held(reference)]
    assert optimizer.param_groups[0][hint] is True
    loaded = cls(grouped())
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.param_groups[0][hint] is True


def test_hints_that_ask_for_nothing_leave_nothing() -> None:
    cls = optdsl.load("adamw")
    optimizer = cls(parameters(), foreach=None, fused=False, capturable=False, differentiable=False)
    assert optimizer.defaults == cls(parameters()).defaults
    with pytest.raises(TypeError, match="AdamW: fused must be True, False or None, not 'yes'"):
        cls(parameters(), fused="yes")


def test_differentiable_steps_are_refused_with_the_reason() -> None:
    cls = optdsl.load("adamw")
    words = "AdamW: differentiable=True is not supported: .*give `learn`"
    with pytest.raises(ValueError, match=words):
        cls(parameters(), differentiable=True)
    with pytest.raises(ValueError, match=words):
        cls(grouped(differentiable=True))


@pytest.mark.parametrize("learn", [False, {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1))}])
def test_a_hyperparameter_that_requires_gradients_is_refused_wherever_it_is_given(
    learn: Any,
) -> None:
    cls = optdsl.load("adamw", learn=learn)
    rate = torch.tensor(0.1, requires_grad=True)
    words = "AdamW: {} is a tensor that requires gradients.* let the optimizer learn it"
    with pytest.raises(ValueError, match=words.format("lr")):
        cls(parameters(), lr=rate)
    with pytest.raises(ValueError, match=words.format("lr")):
        cls(parameters(), lr=rate * 2)
    with pytest.raises(ValueError, match=words.format("beta1")):
        cls(parameters(), betas=(rate, 0.9))
    with pytest.raises(ValueError, match=words.format("lr")):
        cls(grouped(lr=rate))
    optimizer = cls(parameters())
    optimizer.param_groups[0]["lr"] = rate
    before = [bits(p) for p in held(optimizer)]
    with pytest.raises(ValueError, match=words.format("lr")):
        train(optimizer, [0])
    assert [bits(p) for p in held(optimizer)] == before
