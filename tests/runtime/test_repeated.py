"""Steps that repeat the one before, which are found out by one call, and all that may change then.

Each change is made to two optimizers: a compiled one after steps that repeat, and one that looks at
every tensor at every step: of the eager backend, or a compiled one, with the same bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl.runtime.engines import looks
from optdsl.runtime.torch_api.repeated import Repeated

SHAPES = ((7, 3), (40,), ())
Changing = Callable[[Any, list[Tensor]], None]


def trained(name: str, backend: str) -> tuple[Any, list[Tensor]]:
    """An optimizer after ten steps, each with new gradients, and its parameters."""
    generator = torch.Generator().manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]
    optimizer = optdsl.load(name, backend=backend)(parameters)
    for k in range(10):
        step(optimizer, parameters, k)
    return optimizer, parameters


def step(optimizer: Any, parameters: list[Tensor], k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(
            parameter.dtype
        )
    optimizer.step()


def kept(optimizer: Any) -> bool:
    """Whether the next step may be found to repeat the last one."""
    return optimizer._known.get(Repeated).kept is not None


def transposed_gradient(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[0].grad = parameters[0].detach().clone().t().contiguous().t()


def negative_gradient(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[1].grad = torch._neg_view(torch.linspace(-1, 1, 40))


def zero_gradient(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[1].grad = torch._efficientzerotensor(40)


def no_gradient(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[1].grad = None


def gradient_in_a_parameter(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[1].grad = parameters[1].detach()


def gradient_in_a_state(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[1].grad = optimizer.state[parameters[1]]["v"]


def moved_parameter(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[1].data = parameters[1].data.clone()


def negative_parameter(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[1].data = torch._neg_view(parameters[1].data)


def wider_parameter(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters[1].data = parameters[1].data.double()
    parameters[1].grad = torch.linspace(-1, 1, 40, dtype=torch.float64)


def shared_state(optimizer: Any, parameters: list[Tensor]) -> None:
    for x in optimizer.state[parameters[1]].values():
        x.share_memory_()


def moved_state(optimizer: Any, parameters: list[Tensor]) -> None:
    state = optimizer.state[parameters[0]]
    state["m"].data = state["m"].data.clone() * 2


def transposed_state(optimizer: Any, parameters: list[Tensor]) -> None:
    state = optimizer.state[parameters[0]]
    state["m"] = state["m"].t().contiguous().t()


def new_state(optimizer: Any, parameters: list[Tensor]) -> None:
    del optimizer.state[parameters[0]]


def counted_again(optimizer: Any, parameters: list[Tensor]) -> None:
    optimizer.state[parameters[0]]["step"].fill_(3)


def larger_rate(optimizer: Any, parameters: list[Tensor]) -> None:
    optimizer.param_groups[0]["lr"] = 0.5


def maximized(optimizer: Any, parameters: list[Tensor]) -> None:
    optimizer.param_groups[0]["maximize"] = True


def reordered(optimizer: Any, parameters: list[Tensor]) -> None:
    optimizer.param_groups[0]["params"].reverse()


def another_group(optimizer: Any, parameters: list[Tensor]) -> None:
    parameters.append(torch.nn.Parameter(torch.ones(5)))
    parameters[-1].grad = torch.linspace(-1, 1, 5)
    optimizer.add_param_group({"params": [parameters[-1]]})


def fewer_parameters(optimizer: Any, parameters: list[Tensor]) -> None:
    optimizer.param_groups[0]["params"].pop()


CHANGES = [
    transposed_gradient,
    negative_gradient,
    zero_gradient,
    no_gradient,
    gradient_in_a_parameter,
    gradient_in_a_state,
    moved_parameter,
    negative_parameter,
    wider_parameter,
    shared_state,
    moved_state,
    transposed_state,
    new_state,
    counted_again,
    larger_rate,
    maximized,
    reordered,
    another_group,
    fewer_parameters,
]


@pytest.mark.skipif(not looks.available(), reason="torch or the compiler does not help")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize(("name", "other"), [("adam", "eager"), ("mada", "auto")])
def test_what_changes_after_steps_that_repeat_is_seen(
    name: str, other: str, change: Changing, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for backend, looked in (("auto", True), (other, False)):
        monkeypatch.setattr(looks, "available", lambda looked=looked: looked)
        optimizer, parameters = trained(name, backend)
        assert kept(optimizer) == looked
        for k, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, 0.5 + k)
        change(optimizer, parameters)
        optimizer.step()
        for k in range(20, 28):
            step(optimizer, parameters, k)
        coefficients = torch.tensor([*optimizer.metrics().values()])
        results.append([*(p.detach().resolve_neg() for p in parameters), coefficients])
    rounding = {"rtol": 0.0, "atol": 0.0} if other == "auto" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(*results, **rounding)


@pytest.mark.parametrize("order", ["exact", "overlapped"])
def test_steps_that_repeat_are_those_that_look_at_every_tensor(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = optdsl.load("mada", order=order)
    results = []
    for looked in (True, False):
        if not looked:
            monkeypatch.setattr(looks, "available", lambda: False)
        generator = torch.Generator().manual_seed(1)
        parameters = [torch.nn.Parameter(torch.randn(s, generator=generator)) for s in SHAPES]
        optimizer = made(parameters)
        for k in range(20):
            step(optimizer, parameters, k)
            assert looked or not kept(optimizer)
        results.append([*parameters, torch.tensor([*optimizer.metrics().values()])])
    for x, y in zip(*results, strict=True):
        assert torch.equal(x, y)


def test_a_sparse_gradient_is_refused_after_steps_that_repeat() -> None:
    optimizer, parameters = trained("adam", "auto")
    before = parameters[0].detach().clone()
    parameters[1].grad = torch.ones(40).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    assert torch.equal(parameters[0], before)


def test_no_gradient_is_kept_from_one_step_to_the_next() -> None:
    optimizer, parameters = trained("mada", "auto")
    gradients = [weakref.ref(p.grad) for p in parameters if p.grad is not None]
    optimizer.zero_grad()
    assert not any(reference() is not None for reference in gradients)
