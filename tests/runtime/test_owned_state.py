"""What belongs to a parameter is its own, lives where it should, and is updated in place."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import optdsl
from optdsl import Learn
from optdsl.runtime.core.owned_numbers import Owned
from tests.processes import begun

from .helpers import ORDERS, fingerprint, held, parameters, saved, train

pytestmark = pytest.mark.broad(8)

BACKENDS = ("eager", "c")
# With several tangents the compiled rule notes the hyperparameters of a pending step.
LEARN = {
    "lr": Learn("sgd", lr=1e-5, bounds=(0, 1)),
    "beta1": Learn("sgd", lr=1e-4, momentum=0.9, clip=5, bounds=(0.5, 0.95)),
    "weight_decay": Learn("adam", lr=1e-4, bounds=(0, 1)),
}
OF_TENSORS = {"lr": Learn("sgd", lr=1e-5, bounds=(0, 1), scope="tensor")}


def steps(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(optimizer.state[p]["step"]) for p in held(optimizer)]


def rule(backend: str, learn: Any = LEARN, order: str = "overlapped") -> Any:
    return optdsl.load("adam", backend=backend, learn=learn, order=order)


def start_anew(state: dict[str, Any]) -> None:
    for value in state.values():
        value.zero_()


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
def test_zeroing_the_state_of_one_parameter_leaves_the_others(backend: str) -> None:
    """As with torch: after 9 more steps with a constant gradient, each moves as it should."""
    ours, theirs = [
        made([nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)], lr=0.01)
        for made in (rule(backend, learn=False), torch.optim.Adam)
    ]
    for optimizer in (ours, theirs):
        first, second = held(optimizer)
        for number in range(12):
            first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
            if number == 3:
                start_anew(optimizer.state[first])
            optimizer.step()
        assert steps(optimizer) == [9, 12]
    for one, other in zip(held(ours), held(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("learn", [False, LEARN, OF_TENSORS])
def test_no_two_tensors_of_a_state_overlap(backend: str, order: str, learn: Any) -> None:
    """Before and after loading, with a pending step or without."""
    optimizer = rule(backend, learn, order)(parameters())
    train(optimizer, range(3))
    for _ in range(2):
        ranges = sorted(
            (x.data_ptr(), x.data_ptr() + x.numel() * x.element_size())
            for state in optimizer.state.values()
            for x in state.values()
        )
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(ranges))
        optimizer.load_state_dict(saved(optimizer.state_dict()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("learn", [False, LEARN, OF_TENSORS])
def test_counts_and_notes_stay_the_tensors_that_they_are(
    backend: str, order: str, learn: Any
) -> None:
    """Also of parameters that have no gradient at some steps, or come later."""
    optimizer = rule(backend, learn, order)(parameters())
    train(optimizer, range(2))
    late = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer.add_param_group({"params": [late]})
    train(optimizer, range(2, 4))
    kept = ("step", "pending/hypers", "coefficient/lr", "hypergradient/lr")
    before = {(p, k): x for p, s in optimizer.state.items() for k, x in s.items() if k in kept}
    assert len(before) >= len(optimizer.state)
    for number in range(4, 10):
        optimizer.zero_grad()
        for place, parameter in enumerate(held(optimizer)):
            if (number + place) % 3:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert steps(optimizer) == [8, 8, 8, 6]
    assert all(optimizer.state[p][k] is x for (p, k), x in before.items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_uncopied_state_dict_is_live_as_with_torch(backend: str) -> None:
    """What `state_dict` returns holds the optimizer's own tensors, all of them."""
    for made in (rule(backend), torch.optim.Adam):
        optimizer = made(parameters())
        train(optimizer, range(5))
        content = optimizer.state_dict()
        train(optimizer, range(5, 12))
        assert [float(s["step"]) for s in content["state"].values()] == [12] * 3
        optimizer.load_state_dict(content)
        assert steps(optimizer) == [12] * 3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
def test_what_is_written_into_counts_is_counted_from(backend: str, order: str) -> None:
    """By any way of torch's: in place, through `data`, by another tensor."""
    optimizer = rule(backend, order=order)(parameters())
    train(optimizer, range(3))
    one, two, three = (optimizer.state[p] for p in held(optimizer))
    one["step"].fill_(20)
    two["step"].data = torch.tensor(30.0, dtype=torch.float64)
    three["step"] = torch.tensor(40.0)
    train(optimizer, range(3, 5))
    assert steps(optimizer) == [22, 32, 42]


def test_numbers_are_known_until_somebody_else_writes_to_them() -> None:
    rows = torch.zeros(3, 2, dtype=torch.float64)
    tensors = list(rows.unbind())
    owned = Owned.of(tensors, None)
    owned.write([[1.0, 2.0]], [0, 0, 0])
    assert owned.rows() == ([[1.0, 2.0]], [0, 0, 0])
    assert owned.numbers() == [1.0, 1.0, 1.0]
    tensors[1].copy_(torch.tensor([3.0, 4.0]))
    assert owned.rows() == ([[1.0, 2.0], [3.0, 4.0]], [0, 1, 0])
    assert owned.numbers() == [1.0, 3.0, 1.0]
    owned.write([[5.0, 6.0], [7.0, 8.0]], [1, 0, 1])
    assert rows.tolist() == [[7.0, 8.0], [5.0, 6.0], [7.0, 8.0]]
    assert owned.numbers() == [7.0, 5.0, 7.0]


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize("learn", [False, LEARN])
def test_copies_are_apart(backend: str, learn: Any) -> None:
    """And go on alike from a count that was set for one parameter."""
    optimizer = rule(backend, learn)(parameters())
    train(optimizer, range(3))
    optimizer.state[held(optimizer)[1]]["step"].fill_(7)
    other = copy.deepcopy(optimizer)
    train(other, range(3, 6))
    assert (steps(optimizer), steps(other)) == ([3, 7, 3], [6, 10, 6])
    train(optimizer, range(3, 6))
    assert all(map(torch.equal, held(optimizer), held(other)))


def test_a_state_that_shares_its_counts_is_taken_apart() -> None:
    """As states do that were pickled by older versions."""
    optimizer = rule("c")(parameters())
    train(optimizer, range(3))
    content = optimizer.__getstate__()
    for key in ("step", "pending/hypers"):
        shared = optimizer.state[held(optimizer)[0]][key]
        for state in content["state"].values():
            state[key] = shared
    optimizer.__setstate__(content)
    optimizer.state[held(optimizer)[0]]["step"].zero_()
    assert steps(optimizer) == [0, 3, 3]


def go_on(optimizer: torch.optim.Optimizer, number: int) -> None:
    for _ in range(number):
        for parameter in held(optimizer):
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.exhaustive
def test_processes_that_share_an_optimizers_state_count_together(backend: str) -> None:
    optimizer = rule(backend, learn=False)(parameters())
    go_on(optimizer, 2)
    for parameter, state in optimizer.state.items():
        parameter.data.share_memory_()
        for value in state.values():
            value.share_memory_()
    before = [p.clone() for p in held(optimizer)]
    process = begun(go_on, optimizer, 3)
    process.join(timeout=120)
    assert process.exitcode == 0
    assert steps(optimizer) == [5] * 3
    go_on(optimizer, 1)
    assert steps(optimizer) == [6] * 3
    assert not any(map(torch.equal, before, held(optimizer)))


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
@pytest.mark.parametrize("learn", [False, LEARN, OF_TENSORS])
def test_the_default_device_does_not_matter(backend: str, learn: Any) -> None:
    runs = []
    for device in ("cpu", "meta"):
        params = parameters()
        gradients = [torch.full_like(p, 0.5) for p in params]
        with torch.device(device):
            optimizer = rule(backend, learn)(params)
            for _ in range(4):
                for parameter, gradient in zip(params, gradients, strict=True):
                    parameter.grad = gradient.clone()
                optimizer.step()
        assert {x.device.type for s in optimizer.state.values() for x in s.values()} == {"cpu"}
        runs.append([p.detach() for p in params])
    assert all(map(torch.equal, *runs))


def take_three(optimizer: Any, params: list[Tensor]) -> None:
    for _ in range(3):
        for parameter in params:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for parameter in params:
        assert optimizer.state[parameter]["m"].shape == parameter.shape


@pytest.mark.parametrize("backend", [*BACKENDS, "triton", "auto"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("learn", [False, LEARN, OF_TENSORS])
def test_fake_tensors_take_steps(backend: str, order: str, learn: Any) -> None:
    """And coefficients, whose hyper-gradients have no values, stay as they are."""
    with FakeTensorMode():
        params = [nn.Parameter(torch.empty(s)) for s in ((3, 2), (4,))]
        optimizer = rule(backend, learn, order)(params)
        before = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        take_three(optimizer, params)
    assert {k: v for k, v in optimizer.param_groups[0].items() if k != "params"} == before


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("learn", [False, LEARN, OF_TENSORS])
def test_meta_parameters_take_steps(backend: str, order: str, learn: Any) -> None:
    params = [nn.Parameter(torch.empty(s, device="meta")) for s in ((3, 2), (4,))]
    optimizer = rule(backend, learn, order)(params)
    before = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    take_three(optimizer, params)
    assert {k: v for k, v in optimizer.param_groups[0].items() if k != "params"} == before
    assert steps(optimizer) == [3, 3]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["hyperadam", "mada", "mada_legacy"])
def test_the_default_device_is_not_where_anything_is_made(name: str, backend: str) -> None:
    """All that an optimizer does, with a default device that has no values, and without."""
    found = []
    for device in ("cpu", "meta"):
        tensors = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
        with torch.device(device):
            optimizer = optdsl.load(name, backend=backend)(tensors, lr=0.01)
            for number in range(3):
                for p in tensors:
                    p.grad = torch.full_like(p, 0.5, device="cpu")
                if number:
                    optimizer.observe()
                optimizer.step()
            content = optimizer.state_dict()
            optimizer.load_state_dict(optimizer.migrated(content))
            completed = optimizer.completed_state(tensors[0])
            optimizer.step()
        found.append((fingerprint(optimizer), optimizer.metrics(), str(completed)))
    assert found[0] == found[1]
