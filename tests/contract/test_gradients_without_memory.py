"""Gradients that have no memory of their own: zeros that are none, wrappers of other tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import optdsl
from tests.c.rules import device
from tests.runtime.helpers import held, parameters

pytestmark = pytest.mark.broad(8)

STEPS = 5


class Wrapper(Tensor):
    """A tensor without memory that computes on another one; results are plain tensors."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls, inner.shape, dtype=inner.dtype, device=inner.device
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = pytree.tree_map(
            lambda x: x.inner if isinstance(x, Wrapper) else x, (args, kwargs or {})
        )
        return function(*args, **kwargs)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": lambda g: torch._efficientzerotensor(g.shape, dtype=g.dtype, device=g.device),
    "wrapper": Wrapper,
}


def trained(
    backend: str, spec: str, order: str, kind: str, maximize: bool
) -> tuple[list[Tensor], dict[str, float]]:
    """Some gradients are of the kind, at some steps; parameters and coefficients afterwards."""
    cls = optdsl.load(spec, backend=backend, order=order)
    params = [p.detach().to(device(backend)).requires_grad_() for p in parameters()]
    optimizer = cls(params, lr=0.1, maximize=maximize)
    for step in range(STEPS):
        for number, parameter in enumerate(params):
            gradient = parameter.detach() - step
            unusual = (step + number) % 3 != 1
            parameter.grad = KINDS[kind](gradient) if unusual else gradient
        optimizer.step()
    return [p.detach().cpu() for p in params], optimizer.metrics()


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("order", ["overlapped", "exact"])
@pytest.mark.parametrize(
    ("backend", "spec"),
    [
        *((backend, spec) for backend in ("auto", "c") for spec in ("adam", "mada", "mada_legacy")),
        ("triton", "adam"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_the_eager_backend(
    kind: str, backend: str, spec: str, order: str, maximize: bool
) -> None:
    found, expected = (trained(b, spec, order, kind, maximize) for b in (backend, "eager"))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", ["auto", "c"])
def test_a_parameter_that_wraps_another_is_for_the_eager_engine(backend: str) -> None:
    inner = torch.ones(3, dtype=torch.float64)
    parameter = Wrapper(inner).requires_grad_()
    optimizer = optdsl.load("sgd", backend=backend)([parameter], lr=0.5)
    parameter.grad = Wrapper(torch.ones(3, dtype=torch.float64))
    if backend == "c":
        with pytest.raises(RuntimeError, match='backend="auto" serves both'):
            optimizer.step()
        return
    optimizer.step()
    assert held(optimizer) == [parameter]
    assert inner.tolist() == [0.5] * 3
