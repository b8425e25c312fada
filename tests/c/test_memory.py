"""What must never be read or written, and what must not be lost when something breaks off."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import optdsl
from optdsl.runtime.engines import tensor_table as columns
from optdsl.schedule import Role


@pytest.fixture(params=["watched", "looked at"], autouse=True)
def _ways_to_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's guards, and as where torch does not have them."""
    if request.param == "looked at":
        monkeypatch.setattr(columns, "guards", None)


def stepped(
    rule: str, size: int = 10, **options: object
) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.linspace(-1, 1, size))
    optimizer = optdsl.load(rule, backend="c", **options)([parameter])
    for k in (1.0, -2.0):
        parameter.grad = torch.linspace(-k, 2 * k, size)
        optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize("rule", ["adam", "mada"])
def test_a_parameter_that_has_grown_is_refused(rule: str) -> None:
    """Its states have not grown; eager code would raise, C would write beyond them."""
    parameter, optimizer = stepped(rule)
    before = {k: v.clone() for k, v in optimizer.state[parameter].items()}
    parameter.data = torch.zeros(1000)
    parameter.grad = torch.ones(1000)
    with pytest.raises(RuntimeError, match=r"has shape \(10,\), and its parameter \(1000,\)"):
        optimizer.step()
    assert all(torch.equal(optimizer.state[parameter][k], v) for k, v in before.items())
    assert not parameter.any()


def test_a_parameter_that_was_turned_is_refused() -> None:
    """It has as many elements as before, and they mean something else."""
    parameter = torch.nn.Parameter(torch.ones(2, 5))
    parameter.grad = torch.ones(2, 5)
    optimizer = optdsl.load("adam", backend="c")([parameter])
    optimizer.step()
    parameter.data = torch.ones(5, 2)
    parameter.grad = torch.ones(5, 2)
    with pytest.raises(RuntimeError, match=r"m has shape \(2, 5\), and its parameter \(5, 2\)"):
        optimizer.step()


def test_a_gradient_of_another_shape_is_refused() -> None:
    parameter, optimizer = stepped("adam")
    parameter.data = torch.zeros(1000)
    for value in optimizer.state[parameter].values():
        if value.ndim:
            value.data = torch.zeros(1000)
    with pytest.raises(RuntimeError, match=r"gradient has shape \(10,\)"):
        optimizer.step()


def test_a_state_without_memory_is_not_touched() -> None:
    parameter, optimizer = stepped("adam")
    optimizer.state[parameter]["m"] = torch.zeros(10, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        optimizer.step()


@pytest.mark.parametrize("rule", ["adam", "mada"])
def test_a_gradient_with_the_negative_bit_counts_as_what_it_is(rule: str) -> None:
    values = []
    for lazy in (False, True):
        parameter, optimizer = stepped(rule)
        g = torch.linspace(1, 2, 10)
        parameter.grad = torch._neg_view(g) if lazy else -g
        assert parameter.grad.is_neg() == lazy
        optimizer.step()
        values.append(parameter.detach().clone())
    assert torch.equal(*values)


@pytest.mark.parametrize("rule", ["adam", "mada"])
def test_a_parameter_twice_in_a_group_takes_two_steps(rule: str) -> None:
    """As with torch, which warns; in one call, two threads would write the same memory."""
    values = []
    for backend in ("c", "eager"):
        parameter = nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64))
        with pytest.warns(UserWarning, match="duplicate"):
            optimizer = optdsl.load(rule, backend=backend)([parameter, parameter])
        for k in (1.0, -2.0, 3.0):
            parameter.grad = torch.linspace(-k, 2 * k, 9, dtype=torch.float64)
            optimizer.step()
        values.append(parameter.detach().clone())
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-14)


def test_an_interrupt_in_a_step_leaves_a_step_that_was_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python raises it as soon as the kernels return, before it knows what they returned."""
    (parameter, optimizer), (held, reference) = stepped("mada"), stepped("mada")
    calls = optimizer.compiled.parts.whole.of(parameter)._calls
    call = calls[Role.FUSED]

    def interrupted(*arguments: object) -> int:
        call.function(*arguments)
        raise KeyboardInterrupt

    version = parameter._version
    with monkeypatch.context() as patch:
        patch.setitem(calls, Role.FUSED, replace(call, function=interrupted))
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    assert parameter._version > version
    reference.step()
    for values in (1.0, 2.0):
        # The interrupted step did not learn, and nothing learns before step 50.
        assert torch.equal(held, parameter)
        state, other = optimizer.state[parameter], reference.state[held]
        assert all(torch.equal(state[k], v) for k, v in other.items())
        for p, o in ((parameter, optimizer), (held, reference)):
            p.grad = torch.full_like(p, values)
            o.step()


def test_a_slope_that_is_zero_does_not_lose_the_old_parameter() -> None:
    """A mean of iterates forgets the parameter at its first step."""
    text = (
        "optimizer Mean\nhyper lr = 0.1 in [0, inf)\nhyper a = 0.5 in [0, 1]\nstate z = theta\n"
        "z' = z - lr * g\ntheta' = (1 - 1 / t) * theta * (1 - a * 0.01) + z' / t\n"
    )
    learn = {"a": optdsl.Learn("sgd", lr=0.1), "lr": optdsl.Learn("sgd", lr=1e-4)}
    found = []
    for backend in ("c", "eager"):
        parameter = nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
        optimizer = optdsl.compile(text, backend=backend, learn=learn)([parameter])
        for k in range(5):
            parameter.grad = torch.linspace(k, 3, 7, dtype=torch.float64)
            optimizer.step()
        found.append(optimizer.metrics())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_a_tensor_that_wraps_others_runs_as_eager_code() -> None:
    """It has no memory of its own to point to; DTensor is such a one."""
    parameter = nn.Parameter(TwoTensor(torch.ones(3), torch.ones(3)))
    parameter.grad = TwoTensor(torch.ones(3), torch.ones(3))
    optdsl.load("lion", backend="auto")([parameter], lr=0.25).step()
    assert torch.equal(parameter.a, torch.full((3,), 0.75))
    with pytest.raises(RuntimeError, match='backend="auto" serves both'):
        optdsl.load("lion", backend="c")([parameter]).step()


def test_a_plain_parameter_does_not_take_a_wrapped_gradient() -> None:
    parameter, optimizer = stepped("lion", size=3)
    optimizer.state[parameter]["m"] = TwoTensor(torch.ones(3), torch.ones(3))
    with pytest.raises(RuntimeError, match="no memory of its own"):
        optimizer.step()


@pytest.mark.parametrize("backend", ["c", "eager"])
def test_gradients_may_be_subnormal_when_divided_by_their_size(backend: str) -> None:
    text = "optimizer A\nhyper lr = 1 in [0, 9]\ntheta' = theta - lr * g / mean(abs(g))\n"
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([1e-39, -1e-39, 1e-39])
    optdsl.compile(text, backend=backend)([parameter]).step()
    assert torch.equal(parameter.detach(), torch.tensor([-1.0, 1.0, -1.0]))


def test_without_memory_no_step_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    parameter, optimizer = stepped("mada")
    before = {k: v.clone() for k, v in optimizer.state[parameter].items()}
    fresh, new = nn.Parameter(torch.ones(3)), optdsl.load("yogi", backend="c")
    fresh.grad = torch.ones(3)
    for held, taken in ((parameter, optimizer), (fresh, new([fresh]))):
        calls = taken.compiled.parts.whole.of(held)._calls
        for name, call in list(calls.items()):
            monkeypatch.setitem(calls, name, replace(call, function=lambda *arguments: 1))
        with pytest.raises(MemoryError):
            taken.step()
        state = taken.state[held]
        assert state.keys() == (before.keys() if held is parameter else set())
        assert all(torch.equal(state[k], before[k]) for k in state)


def test_a_learned_slope_may_become_zero() -> None:
    """Where learning may lead to a step that forgets the old parameter, that is kept."""
    text = (
        "optimizer Shrink\nhyper lr = 0.1 in [0, inf)\nhyper a = 0.9 in [0, 1]\nstate m = 0\n"
        "m' = 0.9 * m + g\ntheta' = a * theta - lr * m'\nlearn a by SGD(lr = 0.5)\n"
    )
    found = []
    for backend in ("c", "eager"):
        parameter = nn.Parameter(torch.linspace(1, 2, 7, dtype=torch.float64))
        optimizer = optdsl.compile(text, backend=backend)([parameter])
        for k in range(8):
            sign = 1.0 if k < 4 else -1.0
            parameter.grad = sign * torch.linspace(1, 2, 7, dtype=torch.float64)
            optimizer.step()
        found.append([*optimizer.metrics().values(), *parameter.tolist()])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def seen(backend: str) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    """An optimizer that has looked at its tensors twice."""
    parameter = nn.Parameter(torch.linspace(-1, 1, 100).reshape(10, 10))
    optimizer = optdsl.load("adam", backend=backend)([parameter])
    for _ in range(2):
        parameter.grad = torch.linspace(1, 2, 100).reshape(10, 10)
        optimizer.step()
    return parameter, optimizer


def test_a_state_that_was_turned_in_place_is_read_as_it_lies() -> None:
    results = []
    for backend in ("c", "eager"):
        parameter, optimizer = seen(backend)
        optimizer.state[parameter]["m"].t_()
        optimizer.step()
        results.append(parameter.detach())
    torch.testing.assert_close(*results)


def test_a_parameter_that_was_negated_in_place_is_read_as_what_it_is() -> None:
    results = []
    for backend in ("c", "eager"):
        parameter, optimizer = seen(backend)
        parameter.data = torch._neg_view(parameter.data)
        optimizer.step()
        results.append(parameter.detach().resolve_neg())
    torch.testing.assert_close(*results)


def test_a_state_that_was_negated_by_hand_is_read_as_what_it_is() -> None:
    (parameter, optimizer), (other, plain) = stepped("adam"), stepped("adam")
    state = optimizer.state[parameter]
    state["m"] = torch._neg_view(-state["m"])
    for _ in range(2):
        optimizer.step()
        plain.step()
    assert torch.equal(parameter, other)
    assert not state["m"].is_neg()


def test_nothing_is_written_beyond_a_state_that_became_narrower() -> None:
    parameter, optimizer = seen("c")
    state = optimizer.state[parameter]["m"]
    memory = state.detach().view(torch.float16).reshape(-1)
    beyond = memory[100:].view(torch.int16).clone()
    state.data = memory[:100].reshape(10, 10)
    optimizer.step()
    assert torch.equal(memory[100:].view(torch.int16), beyond)


def test_a_state_that_became_shorter_is_refused() -> None:
    parameter, optimizer = seen("c")
    state = optimizer.state[parameter]["m"]
    memory = state.detach().clone()
    whole, before = state.detach(), parameter.detach().clone()
    state.data = whole[:5]
    with pytest.raises(RuntimeError, match=r"m has shape \(5, 10\), and its parameter \(10, 10\)"):
        optimizer.step()
    assert torch.equal(whole, memory)
    assert torch.equal(parameter, before)


def test_states_that_were_dropped_do_not_stay_in_memory() -> None:
    parameter = nn.Parameter(torch.ones(100))
    optimizer = optdsl.load("mada", backend="c")([parameter])
    for _ in range(2):
        parameter.grad = torch.ones(100)
        optimizer.step()
    old = [weakref.ref(v) for v in optimizer.state[parameter].values()]
    optimizer.state[parameter] = {k: v.clone() for k, v in optimizer.state[parameter].items()}
    for _ in range(3):
        optimizer.step()
    assert not any(ref() is not None for ref in old)
