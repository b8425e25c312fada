"""Parameters of every shape and layout, and states that share memory with nothing."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.ir.types import SCALAR

from .helpers import (
    DTYPES,
    ORDERS,
    SPECS,
    bits,
    fingerprint,
    held,
    learner,
    parameters,
    resumed,
    train,
)

pytestmark = pytest.mark.broad(10)

VALUES = torch.linspace(0.5, 2.0, 2 * 3 * 4 * 5, dtype=torch.float64).reshape(2, 3, 4, 5)

LAYOUTS = {
    "transposed": lambda x: x.clone().permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "channels last": lambda x: x.clone(memory_format=torch.channels_last),
    "every second": lambda x: torch.cat([x, x], -1)[..., ::2].copy_(x),
    "from the middle": lambda x: torch.cat([x, x, x]).narrow(0, 2, 2).copy_(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("spec", SPECS)
def test_the_layout_in_memory_does_not_matter(spec: str, layout: str) -> None:
    strided = nn.Parameter(LAYOUTS[layout](VALUES))
    assert strided.stride() != VALUES.stride() or strided.storage_offset()
    assert torch.equal(strided, VALUES)
    optimizer = learner(spec)([strided])
    stride = strided.stride()
    reference = learner(spec)([nn.Parameter(VALUES.clone())])
    train(optimizer, range(6))
    train(reference, range(6))
    new = resumed(learner(spec), optimizer)
    assert strided.stride() == stride
    expected = fingerprint(reference)
    # The dot product may add in another order.
    assert list(optimizer.metrics().values()) == pytest.approx(
        list(reference.metrics().values()), rel=1e-12
    )
    torch.testing.assert_close(strided, held(reference)[0], rtol=1e-11, atol=1e-13)
    assert fingerprint(optimizer)["state"].keys() == expected["state"].keys()
    assert fingerprint(new) == fingerprint(optimizer)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_empty_tensors_and_single_numbers(spec: str, dtype: torch.dtype) -> None:
    shapes = [(0,), (), (3, 0, 2), (1,), (1, 1)]
    optimizer = learner(spec)(parameters(dtype, shapes))
    alone = learner(spec)([p for p in parameters(dtype, shapes) if p.numel()])
    train(optimizer, range(5))
    for step in range(5):
        # The same gradients: an empty tensor draws nothing.
        train(alone, [step])
    assert [bits(p) for p in held(optimizer) if p.numel()] == [bits(p) for p in held(alone)]
    assert optimizer.metrics() == alone.metrics()
    scalars = (s.name for s in optimizer.compiled.program.states if s.type == SCALAR)
    numbers = {"step", *scalars}
    for p in held(optimizer):
        for key, value in optimizer.state[p].items():
            # Numbers of the host are no states of elements: of a pending step, one for each.
            if key != "pending/hypers":
                assert value.shape == (() if key in numbers else p.shape)
    assert fingerprint(resumed(learner(spec), optimizer)) == fingerprint(optimizer)


@pytest.mark.parametrize("spec", SPECS)
def test_nothing_but_empty_tensors(spec: str) -> None:
    optimizer = learner(spec)(parameters(shapes=[(0,), (0, 3)]))
    train(optimizer, range(4))
    found = optimizer.metrics()
    assert [v for k, v in found.items() if k.startswith("hypergradient/")] == [0.0] * (
        len(found) // 2
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_half_precision_computes_in_single(spec: str, dtype: torch.dtype) -> None:
    """One step is that of the float32 copy, rounded."""
    mine = parameters(dtype)
    single = [nn.Parameter(p.detach().float()) for p in mine]
    train(learner(spec)(mine, lr=0.05), [0])
    reference = learner(spec)(single, lr=0.05)
    for p, q in zip(single, mine, strict=True):
        assert q.grad is not None
        p.grad = q.grad.float()
    reference.step()
    assert [bits(p) for p in mine] == [bits(p.to(dtype)) for p in single]


def test_parameters_of_several_dtypes_learn_together() -> None:
    mixed = [p for dtype in DTYPES for p in parameters(dtype)]
    optimizer = learner("mada_legacy")(mixed)
    train(optimizer, range(5))
    assert [p.dtype for p in held(optimizer)] == [p.dtype for p in mixed]
    assert optimizer.metrics()["hypergradient/rho"] != 0
    assert fingerprint(resumed(learner("mada_legacy"), optimizer)) == fingerprint(optimizer)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_torchs_default_dtype_does_not_matter(spec: str, default: torch.dtype) -> None:
    optimizer, reference = (learner(spec)(parameters(torch.float32)) for _ in range(2))
    train(reference, range(5))
    usual = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        train(optimizer, range(5))
    finally:
        torch.set_default_dtype(usual)
    assert fingerprint(optimizer) == fingerprint(reference)


def overlaps(tensors: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Which of these tensors share memory."""
    return [
        (a, b)
        for (a, x), (b, y) in itertools.combinations(tensors.items(), 2)
        if x.data_ptr() < y.data_ptr() + y.nbytes and y.data_ptr() < x.data_ptr() + x.nbytes
    ]


def memory(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors that belong to an optimizer, gradients included."""
    found: dict[str, Any] = {}
    for index, p in enumerate(held(optimizer)):
        found |= {f"{index}": p, f"{index}.grad": p.grad}
        found |= {f"{index}.{key}": value for key, value in optimizer.state[p].items()}
    return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spec", SPECS)
def test_states_share_memory_with_nothing(spec: str, order: str) -> None:
    optimizer = learner(spec, order)(parameters())
    for step in range(4):
        train(optimizer, [step])
        assert overlaps(memory(optimizer)) == []
    new = resumed(learner(spec, order), optimizer)
    train(new, [4])
    assert overlaps({**memory(new), **{f"old {k}": v for k, v in memory(optimizer).items()}}) == []


# Initial values and equations that could make two names of one tensor.
SHARING = {
    "the gradient": "state a = g\na' = a + 1\ntheta' = theta - g * a'",
    "the parameter": "state a = theta\na' = a\ntheta' = a - g",
    "a value twice": "state a = g^2\nstate b = g^2\na' = a + 1\nb' = b + 2\n"
    "theta' = theta - a' - b'",
    "two swap": "state a = g\nstate b = 0\na' = b\nb' = a\ntheta' = theta - a' - 2 * b'",
    "one result twice": "state a = 0\nstate b = 0\na' = g^2\nb' = g^2\ntheta' = theta - a - b",
    "the new parameter": "state a = 0\na' = theta - g + a / 2\ntheta' = theta - g + a / 2",
    "the new gradient": "state a = 0\nstate b = 0\na' = g\nb' = g\ntheta' = theta - a - b",
    "a condition": "hyper f = 1\nstate a = where(f == 1, g, -g)\na' = a + 1\ntheta' = theta - a'",
    "the parameter itself": "state a = 0\na' = theta\ntheta' = theta",
    "a scalar for a tensor": "state a = sum(g)\na' = a + g\ntheta' = theta - a'",
    "a scalar twice": "state a : scalar = sum(g)\nstate b : scalar = sum(g)\n"
    "a' = a + 1\nb' = b + 2\ntheta' = theta - a' - b'",
}


@pytest.mark.parametrize("name", SHARING)
def test_no_equation_makes_states_share_memory(name: str) -> None:
    """And the gradients stay as they are."""
    optimizer = optdsl.compile(f"optimizer Own\n{SHARING[name]}\n")(parameters())
    for step in range(3):
        optimizer.zero_grad()
        for p in held(optimizer):
            p.grad = torch.full_like(p, step + 1)
        optimizer.step()
        assert overlaps(memory(optimizer)) == []
        for p in held(optimizer):
            assert torch.equal(p.grad, torch.full_like(p, step + 1))


def test_states_that_start_alike_do_not_move_together() -> None:
    parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = optdsl.compile(f"optimizer Own\n{SHARING['a value twice']}\n")([parameter])
    parameter.grad = torch.ones(2, dtype=torch.float64)
    optimizer.step()
    assert {k: v.tolist() for k, v in optimizer.state[parameter].items() if k != "step"} == {
        "a": [2.0, 2.0],
        "b": [3.0, 3.0],
    }


@pytest.mark.parametrize("f", [0, 1])
@pytest.mark.parametrize(
    "equations",
    [
        "state a = where(f == 1, g, 0)\na' = a + g\ntheta' = theta - a'",
        "state a = where(f == 1, 0, g)\na' = a + g\ntheta' = theta - a'",
        "state a = 0\na' = where(f == 1, g, 0)\ntheta' = theta - a'",
        "state a : scalar = where(f == 1, sum(g), 0)\na' = a + 1\ntheta' = theta - a'",
        "state a = where(f == 1, g, sum(g))\na' = a + g\ntheta' = theta - a'",
        "theta' = where(f == 1, theta - g, 0)",
        "theta' = theta - sqrt(where(f == 1, g^2, 0))",
        "theta' = theta - sum(where(f == 1, g, 1))",
        "theta' = theta - max(where(f == 1, g, 0), g^2)",
        "theta' = theta - sign(where(f == 1, g, 0))",
    ],
)
def test_a_branch_that_is_a_number_becomes_a_tensor(equations: str, f: int) -> None:
    cls = optdsl.compile(f"optimizer Own\nhyper f = 0 in {{0, 1}}\n{equations}\n")
    optimizer = cls(parameters(), f=f)
    train(optimizer, range(3))
    for p in held(optimizer):
        for value in optimizer.state[p].values():
            assert isinstance(value, Tensor)


def test_a_hyperparameter_may_have_any_name_or_is_refused_in_the_text() -> None:
    """`self` is an argument of every constructor, and not one of the optimizer's."""
    text = "optimizer Own\nhyper self = 1\ntheta' = theta - self * g\n"
    try:
        cls = optdsl.compile(text)
    except optdsl.SpecError:
        return
    assert cls(parameters(), self=2.0).param_groups[0]["self"] == 2.0


@pytest.mark.parametrize("number", ["3", "sum(g)", "3 * f + 3"])
def test_a_branch_that_is_a_number_counts_for_every_element(number: str) -> None:
    """Its sum is over the elements of the tensor that it stands in for."""
    text = "optimizer Own\nhyper f = 0 in {0, 1}\ntheta' = theta - sum(where(f == 1, g, %s))\n"
    parameter = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    parameter.grad = torch.tensor([1.0, 2.0, 3.0, -3.0], dtype=torch.float64)
    optdsl.compile(text % number)([parameter]).step()
    assert parameter.tolist() == [-12.0] * 4


@pytest.mark.parametrize(
    ("equations", "expected"),
    [
        ("state a = 1\nstate b = 2\na' = b\nb' = a\ntheta' = theta", [(5, 2, 1), (5, 1, 2)]),
        ("state a = 1\nstate b = 2\na' = theta\nb' = a\ntheta' = b", [(2, 5, 1), (1, 2, 5)]),
        ("state a = 1\nstate b = 2\na' = g\nb' = a\ntheta' = theta + b", [(7, 9, 1), (8, 9, 9)]),
    ],
)
def test_new_values_are_made_of_old_ones(equations: str, expected: list[Any]) -> None:
    """Whatever the order in which they are written."""
    parameter = nn.Parameter(torch.tensor([5.0]))
    optimizer = optdsl.compile(f"optimizer Own\n{equations}\n")([parameter])
    for values in expected:
        parameter.grad = torch.tensor([9.0])
        optimizer.step()
        state = optimizer.state[parameter]
        assert (parameter.item(), state["a"].item(), state["b"].item()) == values
