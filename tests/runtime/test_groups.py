"""Parameters and parameter groups are given as to any torch optimizer."""

import warnings

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn

from .helpers import SPECS, bits, fingerprint, held, learner, loss, parameters, plain, train

pytestmark = pytest.mark.broad(8)


@pytest.mark.parametrize("spec", SPECS)
def test_it_is_a_torch_optimizer_that_moves_every_parameter(spec: str) -> None:
    cls = optdsl.load(spec)
    assert issubclass(cls, torch.optim.Optimizer)
    params = parameters()
    before = [bits(p) for p in params]
    train(cls(params), [0])
    assert all(bits(p) != b for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize("spec", SPECS)
def test_groups_have_values_of_their_own(spec: str) -> None:
    """Two groups of one optimizer do what two optimizers do."""
    cls = plain(spec)
    together, apart = parameters(), parameters()
    own = {"lr": 0.03, "weight_decay": 0.2}
    groups = [{"params": together[:1], **own}, {"params": together[1:]}]
    train(cls(groups, lr=0.01, weight_decay=0.1), range(4))
    first, rest = cls(apart[:1], **own), cls(apart[1:], lr=0.01, weight_decay=0.1)
    for step in range(4):
        first.zero_grad()
        rest.zero_grad()
        loss(apart, step).backward()
        first.step()
        rest.step()
    assert [bits(p) for p in together] == [bits(p) for p in apart]


@pytest.mark.parametrize("spec", SPECS)
def test_named_parameters(spec: str) -> None:
    named = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).double()
    names = [name for name, _ in named.named_parameters()]
    optimizer = learner(spec)(named.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == names
    unnamed = learner(spec)([nn.Parameter(p.detach().clone()) for p in named.parameters()])
    train(optimizer, range(4))
    train(unnamed, range(4))
    assert fingerprint(optimizer)["state"] == fingerprint(unnamed)["state"]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names


def test_a_list_of_pairs_is_named_parameters() -> None:
    first, second = parameters(shapes=[(2,), (3,)])
    groups = [{"params": [("first", first)]}, {"params": [("second", second)], "lr": 0.5}]
    optimizer = optdsl.load("adam")(groups)
    assert [g["param_names"] for g in optimizer.param_groups] == [["first"], ["second"]]
    with pytest.raises(ValueError, match="with/without names"):
        optimizer.add_param_group({"params": parameters(shapes=[(1,)])})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize("given", [[], iter(()), ()])
def test_no_parameters_is_torchs_own_error(given: object) -> None:
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        optdsl.load("adam")(given)


@pytest.mark.parametrize("spec", SPECS)
def test_a_group_can_be_empty(spec: str) -> None:
    params = parameters()
    optimizer = learner(spec)([{"params": []}, {"params": params}, {"params": []}])
    alone = learner(spec)(parameters())
    train(optimizer, range(5))
    train(alone, range(5))
    assert fingerprint(optimizer)["parameters"] == fingerprint(alone)["parameters"]
    assert optimizer.metrics() == alone.metrics()


def test_what_torch_refuses_is_refused() -> None:
    cls = optdsl.load("adam")
    with pytest.raises(TypeError, match="iterable of Tensors or dicts"):
        cls(torch.ones(2, requires_grad=True))
    with pytest.raises(TypeError, match="ordered collections"):
        cls([{"params": set(parameters())}])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        cls([1.0])
    with pytest.raises(ValueError, match="non-leaf"):
        cls([torch.ones(2, requires_grad=True) * 2])
    optimizer = cls(parameters())
    with pytest.raises(TypeError, match="dict"):
        optimizer.add_param_group(parameters())


def test_a_parameter_in_two_groups_is_refused() -> None:
    params = parameters()
    cls = optdsl.load("adam")
    with pytest.raises(ValueError, match="more than one parameter group"):
        cls([{"params": params}, {"params": params[:1]}])
    optimizer = cls(params[:2])
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": params[1:]})
    assert len(optimizer.param_groups) == 1


def test_a_parameter_twice_in_a_group_is_warned_of_and_stepped_twice_as_in_torch() -> None:
    mine, reference = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = optdsl.load("sgd")([mine, mine], lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.optim.SGD([reference, reference], lr=0.1)
    for parameter, stepped in ((mine, optimizer), (reference, expected)):
        parameter.grad = torch.ones(2)
        stepped.step()
    torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("scope", ["optimizer", "tensor"])
@pytest.mark.parametrize("order", ["overlapped", "exact"])
@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.filterwarnings("ignore:.*duplicate parameters")
def test_a_parameter_twice_in_a_group_that_learns(backend: str, order: str, scope: str) -> None:
    learn = {"lr": Learn("sgd", lr=0.0, bounds=(0, 1), scope=scope)}
    cls = optdsl.load("adam", backend=backend, order=order, learn=learn)
    mine, reference = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    optimizer = cls([mine, mine], lr=0.1)
    expected = torch.optim.Adam([reference, reference], lr=0.1)
    for step in range(4):
        for parameter in (mine, reference):
            parameter.grad = torch.tensor([1.0, -2.0, step], dtype=torch.float64)
        optimizer.step()
        expected.step()
    torch.testing.assert_close(mine, reference)


@pytest.mark.parametrize("order", ["overlapped", "exact"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_late_group_starts_with_the_learned_values(spec: str, order: str) -> None:
    params = parameters()
    optimizer = learner(spec, order)(params[:2], lr=0.01)
    train(optimizer, range(5))
    learned = optimizer.metrics()
    assert learned["lr"] != 0.01
    optimizer.add_param_group({"params": params[2:], "label": "late"})
    late = optimizer.param_groups[1]
    assert {name: late[name] for name in learned} == learned
    assert late["label"] == "late"
    train(optimizer, range(5, 8))
    assert optimizer.metrics() != learned
    for name, value in optimizer.metrics().items():
        assert [g[name] for g in optimizer.param_groups] == [value, value]
    steps = [int(optimizer.state[p]["step"]) for p in params]
    assert steps == [8, 8, 3]


@pytest.mark.parametrize("steps", [0, 5])
def test_a_late_group_starts_with_a_learned_value_that_was_set_by_hand(steps: int) -> None:
    params = parameters()
    optimizer = learner("mada_legacy")(params[:2], rho=0.25)
    train(optimizer, range(steps))
    optimizer.param_groups[0]["rho"] = 0.75
    optimizer.add_param_group({"params": params[2:]})
    assert optimizer.param_groups[1]["rho"] == 0.75
    train(optimizer, range(steps, steps + 2))


def test_a_late_group_takes_what_is_not_learned_from_the_defaults() -> None:
    params = parameters()
    optimizer = learner("adam")(params[:1], beta1=0.8, eps=1e-6)
    optimizer.param_groups[0]["beta1"] = 0.5
    optimizer.add_param_group({"params": params[1:], "eps": 1e-4})
    assert optimizer.param_groups[1]["beta1"] == 0.8
    assert optimizer.param_groups[1]["eps"] == 1e-4


def test_learned_values_that_differ_between_groups_are_refused() -> None:
    cls = optdsl.load("mada_legacy", learn=["rho"])
    params = parameters()
    words = (
        r"rho is learned for the whole optimizer, .* \[0\.25, 0\.5\]; .*or learn it for each group"
    )
    with pytest.raises(ValueError, match=words):
        cls([{"params": params[:1], "rho": 0.25}, {"params": params[1:], "rho": 0.5}])
    optimizer = cls(params[:1], rho=0.25)
    with pytest.raises(ValueError, match=words):
        optimizer.add_param_group({"params": params[1:], "rho": 0.5})
    assert held(optimizer) == params[:1]
    optimizer.add_param_group({"params": params[1:], "lr": 0.5, "gamma": 0.5})
    train(optimizer, range(2))
    optimizer.param_groups[1]["rho"] = 0.5
    before = fingerprint(optimizer)
    with pytest.raises(ValueError, match=words):
        train(optimizer, [2])
    assert fingerprint(optimizer) == before


@pytest.mark.parametrize("own", [0, 1])
def test_a_groups_learned_value_may_not_override_the_constructors(own: int) -> None:
    """Whichever group it is: the other one was promised what the constructor got."""
    groups = [{"params": [p]} for p in parameters(shapes=[(2,), (2,)])]
    groups[own]["rho"] = 0.5  # type: ignore[assignment]
    with pytest.raises(ValueError, match="learned for the whole optimizer"):
        optdsl.load("mada_legacy", learn=["rho"])(groups, rho=0.25)


def test_values_that_are_not_learned_may_differ_between_groups() -> None:
    params = parameters()
    groups = [{"params": params[:1], "rho": 0.25}, {"params": params[1:], "rho": 0.5}]
    optimizer = optdsl.load("mada_legacy", learn=False)(groups)
    train(optimizer, range(3))
    assert [g["rho"] for g in optimizer.param_groups] == [0.25, 0.5]


@pytest.mark.parametrize("spec", SPECS)
def test_parameters_without_a_gradient_stay(spec: str) -> None:
    """Frozen ones, unused ones, and none at all."""
    frozen, unused, used = parameters(shapes=[(2,), (2,), (2,)])
    frozen.requires_grad_(False)
    optimizer = learner(spec)([frozen, unused, used])
    before = fingerprint(optimizer)
    optimizer.step()
    assert fingerprint(optimizer) == before
    for step in range(5):
        optimizer.zero_grad()
        loss([used], step).backward()
        optimizer.step()
    assert [bits(p) for p in (frozen, unused)] == before["parameters"][:2]
    assert not optimizer.state.get(frozen)
    assert not optimizer.state.get(unused)
    alone = learner(spec)(parameters(shapes=[(2,), (2,), (2,)])[2:])
    train(alone, range(5))
    assert bits(used) == bits(held(alone)[0])
    assert optimizer.metrics() == alone.metrics()


def test_a_parameter_can_be_frozen_and_thawed() -> None:
    params = parameters(shapes=[(2,), (3,)])
    optimizer = learner("adamw")(params)
    train(optimizer, range(2))
    params[1].requires_grad_(False)
    still = bits(params[1])
    train(optimizer, range(2, 4))
    assert bits(params[1]) == still
    params[1].requires_grad_(True)
    train(optimizer, range(4, 6))
    assert bits(params[1]) != still
    assert [int(optimizer.state[p]["step"]) for p in params] == [6, 4]


def test_learning_something_is_seen_in_the_groups() -> None:
    optimizer = optdsl.load("adam", learn={"lr": Learn("sgd", lr=0.1, bounds=(0, 1))})(parameters())
    train(optimizer, range(2))
    assert optimizer.param_groups[0]["lr"] == optimizer.metrics()["lr"] != 1e-3
