"""Coefficients are learned for the whole optimizer, for each group, or for each tensor."""

from __future__ import annotations

import copy
import itertools
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from optdsl.options import OptionError
from tests.oracles.hypergradient_descent import Coefficient
from tests.oracles.references import Adam
from tests.oracles.scoped_descent import ScopedDescent

from .helpers import ORDERS, SPECS, bits, fingerprint, held, learning, parameters, resumed, train

pytestmark = pytest.mark.broad(8)

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

BACKENDS = ("eager", "c")
SCOPES = ("group", "tensor")
SHAPES = [(3, 2), (4,), (2,), (5,)]
GROUPS = [2, 2]  # how many of them each group has
STARTS = {"lr": 0.05, "weight_decay": 0.1, "beta1": 0.8}
# Learning rates at which clips, bounds and signs are at work within a few steps.
HOW = {
    "lr": {"lr": 1e-3, "momentum": 0.9, "clip": 2.0, "bounds": (0.0, 0.06), "after": 2},
    "weight_decay": {"lr": 0.05, "momentum": 0.5, "clip": 1.0, "bounds": (0.0, 0.2)},
    "beta1": {"lr": 0.02, "momentum": 0.0, "bounds": (0.1, 0.95), "after": 2},
}
MIXED = [
    {"lr": "tensor", "weight_decay": "tensor", "beta1": "tensor"},
    {"lr": "group", "weight_decay": "group", "beta1": "group"},
    {"lr": "tensor", "weight_decay": "optimizer", "beta1": "group"},
    {"lr": "optimizer", "weight_decay": "group", "beta1": "optimizer"},
]


def units(scope: str) -> list[int]:
    """Which unit each of the parameters belongs to."""
    group = [n for n, count in enumerate(GROUPS) for _ in range(count)]
    return {"optimizer": [0] * len(group), "group": group, "tensor": list(range(len(group)))}[scope]


def oracle(scopes: dict[str, str], signals: dict[str, str], exact: bool) -> ScopedDescent:
    coefficients = {}
    for name, scope in scopes.items():
        how: dict[str, Any] = {"clip": float("inf"), "after": 0, **HOW[name]}
        lower, upper = how.pop("bounds")
        coefficients[name] = {
            unit: Coefficient(STARTS[name], lower=lower, upper=upper, **how)
            for unit in set(units(scope))
        }
    return ScopedDescent(
        [p.detach() for p in parameters(shapes=SHAPES)],
        [Adam(eps=0.1, beta2=0.9) for _ in SHAPES],
        {name: units(scope) for name, scope in scopes.items()},
        coefficients,
        signals,
        exact,
    )


def in_groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    rest = iter(params)
    return [{"params": list(itertools.islice(rest, count))} for count in GROUPS]


def stream(steps: int) -> list[list[Tensor | None]]:
    """Gradients; in some steps a tensor, a group or everything has none."""
    generator = torch.Generator().manual_seed(3)
    drawn: list[list[Tensor | None]] = []
    for step in range(steps):
        row: list[Tensor | None] = []
        for shape in SHAPES:
            row.append(torch.randn(shape, generator=generator, dtype=torch.float64) + 0.3)
        for absent in {1: [3], 3: [0], 4: [0, 1], 6: [0, 1, 2, 3]}.get(step, []):
            row[absent] = None
        drawn.append(row)
    return drawn


def give(params: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = None if g is None else g.to(p.dtype, copy=True)


def learned(optimizer: torch.optim.Optimizer, name: str, scope: str) -> list[tuple[float, float]]:
    """Value and hyper-gradient of each unit, read where the documents say they are kept."""
    if scope == "tensor":
        found = [
            (s[f"coefficient/{name}"], s[f"hypergradient/{name}"])
            for s in (optimizer.state[p] for p in held(optimizer))
        ]
    else:
        groups = optimizer.param_groups[: 1 if scope == "optimizer" else None]
        found = [(g[name], g[f"hypergradient/{name}"]) for g in groups]
    return [(float(value), float(slope)) for value, slope in found]


@dataclass(frozen=True)
class Descent:
    """An optimizer whose coefficients have scopes, and the oracle that it must follow."""

    scopes: dict[str, str]
    parameters: list[nn.Parameter]
    optimizer: CompiledOptimizer
    expected: ScopedDescent

    @classmethod
    def of(cls, scopes: dict[str, str], backend: str, order: str, signal: str) -> Self:
        if (backend, signal) == ("c", "cosine"):
            # No kernel of C measures cosines: eager code does, where no backend is named.
            backend = "auto"
        learn = {n: Learn("sgd", scope=s, signal=signal, **HOW[n]) for n, s in scopes.items()}
        rule = optdsl.load("adam", backend=backend, order=order, learn=learn)
        params = parameters(shapes=SHAPES)
        optimizer = rule(in_groups(params), beta2=0.9, eps=0.1, **STARTS)
        expected = oracle(scopes, dict.fromkeys(scopes, signal), order == "exact")
        return cls(scopes, params, optimizer, expected)

    def agrees(self) -> None:
        for p, value in zip(self.parameters, self.expected.values, strict=True):
            torch.testing.assert_close(p.detach(), value, rtol=1e-10, atol=1e-12)
        for name, scope in self.scopes.items():
            for unit, (value, slope) in enumerate(learned(self.optimizer, name, scope)):
                coefficient = self.expected.coefficients[name][unit]
                assert value == pytest.approx(coefficient.value, rel=1e-9)
                measured = self.expected.measured.get((name, unit), 0.0)
                assert slope == pytest.approx(measured, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("signal", ["raw", "sign", "cosine"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scopes", MIXED, ids=lambda s: "-".join(s.values()))
def test_units_learn_as_by_autograd(
    scopes: dict[str, str], backend: str, order: str, signal: str
) -> None:
    """In every mixture of scopes, and with gradients that are absent now and then."""
    descent = Descent.of(scopes, backend, order, signal)
    moved = dict.fromkeys(scopes, False)
    for gradients in stream(12):
        give(descent.parameters, gradients)
        descent.optimizer.step()
        descent.expected.step(gradients)
        descent.agrees()
        for name, scope in scopes.items():
            values = learned(descent.optimizer, name, scope)
            moved[name] |= any(value != STARTS[name] for value, _ in values)
    assert all(moved.values())


@pytest.mark.parametrize(("backend", "order"), [("eager", "overlapped"), ("c", "exact")])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("spec", SPECS)
def test_a_unit_is_like_an_optimizer_of_its_own(
    spec: str, scope: str, backend: str, order: str
) -> None:
    """To the bit: each group, or each tensor, does what an optimizer does that has only that."""
    alone = optdsl.load(spec, backend=backend, order=order, learn=uneven(spec))
    cls = optdsl.load(spec, backend=backend, order=order, learn=scoped(uneven(spec), scope))
    together, apart = parameters(shapes=SHAPES), parameters(shapes=SHAPES)
    optimizer = cls(in_groups(together), lr=0.01, weight_decay=0.01)
    kinds = units(scope)
    singles = [
        alone(
            [p for p, u in zip(apart, kinds, strict=True) if u == unit], lr=0.01, weight_decay=0.01
        )
        for unit in sorted(set(kinds))
    ]
    for gradients in stream(8):
        give(together, gradients)
        give(apart, gradients)
        optimizer.step()
        for single in singles:
            single.step()
    assert [bits(p) for p in together] == [bits(p) for p in apart]
    for name in uneven(spec):
        found = learned(optimizer, name, scope)
        each = [s.metrics() for s in singles]
        assert found == [(m[name], m[f"hypergradient/{name}"]) for m in each]
    assert len({value for value, _ in learned(optimizer, "lr", scope)}) > 1


def uneven(spec: str) -> dict[str, Learn]:
    """What tests learn elsewhere, with a learning rate that every unit moves by another amount."""
    return {
        **learning(spec),
        "lr": Learn("sgd", lr=1e-6, momentum=0.9, clip=1e4, bounds=(0, 1), after=2),
    }


def scoped(learn: dict[str, Learn], scope: str) -> dict[str, Learn]:
    return {n: Learn(**{**how.model_dump(), "scope": scope}) for n, how in learn.items()}


def scoped_class(scope: str, order: str = "exact", backend: str = "auto") -> Any:
    learn = scoped(uneven("mada_legacy"), scope)
    return optdsl.load("mada_legacy", order=order, backend=backend, learn=learn)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_resumed_run_is_the_same_to_the_bit(
    scope: str, backend: str, order: str, dtype: torch.dtype
) -> None:
    """Through a file read with torch's defaults, through deepcopy, and through pickle."""
    cls = scoped_class(scope, order, backend)
    unbroken = cls(in_groups(parameters(dtype, SHAPES)))
    others = []
    for cut in (0, 1, 4):
        train(unbroken, range({0: 0, 1: 0, 4: 1}[cut], cut))
        others += [(cut, resumed(cls, unbroken)), (cut, copy.deepcopy(unbroken))]
        others.append((cut, pickle.loads(pickle.dumps(unbroken))))
    train(unbroken, range(4, 7))
    assert len({v for v, _ in learned(unbroken, "lr", scope)}) > 1
    for cut, other in others:
        train(other, range(cut, 7))
        assert fingerprint(other) == fingerprint(unbroken), cut
        assert other.metrics() == unbroken.metrics()


@pytest.mark.parametrize("scope", SCOPES)
def test_a_state_goes_from_one_backend_to_another(scope: str) -> None:
    """What one backend has pending, the other settles."""
    for first, second in itertools.permutations(BACKENDS):
        unbroken = scoped_class(scope, backend=first)(in_groups(parameters(shapes=SHAPES)))
        train(unbroken, range(4))
        other = resumed(scoped_class(scope, backend=second), unbroken)
        train(unbroken, range(4, 7))
        train(other, range(4, 7))
        for name, value in unbroken.metrics().items():
            assert other.metrics()[name] == pytest.approx(value, rel=1e-9), name


def test_a_load_into_a_finer_scope_starts_from_what_was_learned() -> None:
    old = scoped_class("optimizer")(in_groups(parameters(shapes=SHAPES)))
    train(old, range(5))
    group = resumed(scoped_class("group"), old)
    value = old.metrics()["lr"]
    assert {group.metrics()[f"lr/{n}"] for n in (0, 1)} == {value}
    # Its rule goes on with the memory that it had.
    step = "learn/lr/step"
    assert [g[step] for g in group.param_groups] == [old.param_groups[0][step]] * 2
    train(group, range(5, 8))
    tensor = resumed(scoped_class("tensor"), group)
    expected = [g["lr"] for g in group.param_groups for _ in g["params"]]
    assert tensor.metrics()["lr/max"] == max(expected)
    assert tensor.metrics()["lr/min"] == min(expected)
    assert step not in tensor.param_groups[0]
    train(tensor, range(8, 10))
    assert len({v for v, _ in learned(tensor, "lr", "tensor")}) == 4


def test_a_load_into_a_coarser_scope_goes_by_the_groups() -> None:
    old = scoped_class("tensor")(in_groups(parameters(shapes=SHAPES)), lr=0.01)
    train(old, range(5))
    new = resumed(scoped_class("group"), old)
    assert new.metrics()["lr/0"] == 0.01
    assert not any(k.startswith("coefficient/") for s in new.state.values() for k in s)
    train(new, range(5, 8))
    assert new.metrics()["lr/0"] != new.metrics()["lr/1"]


def test_a_load_with_another_rule_keeps_the_value_only() -> None:
    old = scoped_class("tensor")(in_groups(parameters(shapes=SHAPES)))
    train(old, range(6))
    learn = {"lr": Learn("adam", lr=1e-5, bounds=(0, 1), scope="tensor")}
    new = resumed(optdsl.load("mada_legacy", learn=learn), old)
    for parameter, before in zip(held(new), held(old), strict=True):
        state = new.state[parameter]
        assert state["coefficient/lr"] == old.state[before]["coefficient/lr"]
        assert not any(k.startswith("learn/") for k in state)
        assert "coefficient/rho" not in state
    train(new, [6, 7])
    assert {float(s["learn/lr/step"]) for s in new.state.values()} == {2.0}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_late_group_starts_anew(scope: str) -> None:
    """From the constructor's value, with `after` counted from its own first step."""
    learn = {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1), after=3, scope=scope)}
    params = parameters(shapes=SHAPES)
    optimizer = optdsl.load("adam", learn=learn)(params[:2], lr=0.01)
    train(optimizer, range(6))
    optimizer.add_param_group({"params": params[2:3]})
    optimizer.add_param_group({"params": params[3:], "lr": 0.02})
    for step, expected in ((6, (0.01, 0.02)), (8, (0.01, 0.02)), (9, None)):
        train(optimizer, range(step - 1 if step == 8 else step, step + 1))
        found = [v for v, _ in learned(optimizer, "lr", scope)][-2:]
        if expected is None:
            assert found[0] != 0.01
            assert found[1] != 0.02
        else:
            assert tuple(found) == expected


@pytest.mark.parametrize("scope", SCOPES)
def test_groups_may_start_differently(scope: str) -> None:
    params = parameters(shapes=SHAPES)
    groups = in_groups(params)
    groups[1]["lr"] = 0.5
    with pytest.raises(ValueError, match="learned for the whole optimizer"):
        scoped_class("optimizer")(groups, lr=0.25)
    optimizer = scoped_class(scope)(groups, lr=0.25)
    name = "lr/{}".format
    ends = ("min", "max") if scope == "tensor" else (0, 1)
    assert [optimizer.metrics()[name(end)] for end in ends] == [0.25, 0.5]


def test_what_metrics_are_called() -> None:
    how = {"bounds": (0, 1), "lr": 1e-4}
    learn = {
        "beta1": Learn("sgd", **how | {"bounds": (0, 0.9)}),
        "lr": Learn("sgd", scope="group", **how),
        "weight_decay": Learn("sgd", scope="tensor", **how),
    }
    optimizer = optdsl.load("adam", learn=learn)(in_groups(parameters(shapes=SHAPES)))
    train(optimizer, range(4))
    metrics = optimizer.metrics()
    tensors = learned(optimizer, "weight_decay", "tensor")
    names = ["beta1", "lr/0", "lr/1", *(f"weight_decay/{x}" for x in ("mean", "min", "max"))]
    assert set(metrics) == {*names, *(f"hypergradient/{n}" for n in names)}
    assert metrics["lr/1"] == optimizer.param_groups[1]["lr"]
    slopes = [slope for _, slope in tensors]
    assert metrics["hypergradient/weight_decay/min"] == min(slopes)
    assert metrics["hypergradient/weight_decay/max"] == max(slopes)
    assert metrics["hypergradient/weight_decay/mean"] == pytest.approx(sum(slopes) / 4)


def test_a_group_without_tensors_is_no_unit_that_learns() -> None:
    for scope in SCOPES:
        params = parameters(shapes=SHAPES)
        optimizer = scoped_class(scope)([{"params": []}, {"params": params}], lr=0.01)
        train(optimizer, range(5))
        assert optimizer.param_groups[0]["lr"] == 0.01
        assert len({v for v, _ in learned(optimizer, "lr", scope)} - {0.01}) > 0


@pytest.mark.parametrize("way", [False, True])
def test_every_tensor_has_its_own_weights(way: bool) -> None:
    """A weight vector stays on its simplex in each."""
    how = Learn("sgd", lr=0.5, scope="tensor", exponentiated=way)
    cls = optdsl.blend("adam", "lion", learn={"w": how})
    optimizer = cls(in_groups(parameters(shapes=SHAPES)))
    train(optimizer, range(6))
    weights = [
        [float(s["coefficient/w_adam"]), float(s["coefficient/w_lion"])]
        for s in (optimizer.state[p] for p in held(optimizer))
    ]
    assert all(sum(w) == pytest.approx(1, abs=1e-12) for w in weights)
    assert len({w[0] for w in weights}) == 4


def test_a_step_that_fails_keeps_what_tensors_have(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = scoped_class("tensor")(in_groups(parameters(shapes=SHAPES)))
    train(optimizer, range(4))
    before = fingerprint(optimizer)

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("optdsl.runtime.torch_api.host_step._take", fail)
    with pytest.raises(MemoryError):
        train(optimizer, [4])
    assert fingerprint(optimizer) == before


def test_a_tensors_value_out_of_bounds_is_refused() -> None:
    optimizer = scoped_class("tensor")(in_groups(parameters(shapes=SHAPES)))
    train(optimizer, range(4))
    optimizer.state[held(optimizer)[1]]["coefficient/rho"].fill_(2.0)
    before = fingerprint(optimizer)
    with pytest.raises(ValueError, match="rho = 2 is out of bounds"):
        train(optimizer, [4])
    assert fingerprint(optimizer) == before


def test_by_default_tensors_keep_nothing_more() -> None:
    optimizer = scoped_class("optimizer")(in_groups(parameters(shapes=SHAPES)))
    train(optimizer, range(4))
    for state in optimizer.state.values():
        assert not any(k.startswith(("coefficient/", "hypergradient/", "learn/")) for k in state)


def test_a_scope_is_one_of_three() -> None:
    with pytest.raises(OptionError, match="'optimizer', 'group' or 'tensor'"):
        Learn("sgd", scope="layer")
