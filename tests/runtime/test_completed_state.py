"""`completed_state`: the states of a rule after its last step, whatever the engine keeps."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from tests.oracles.running import Interpreter

from .helpers import ORDERS, SPECS, bits, fingerprint, held, learning, loss, parameters, train
from .test_observe import BACKENDS, PLANS, made
from .test_scope import SHAPES, in_groups

pytestmark = pytest.mark.broad(8)


def declared(optimizer: Any) -> set[str]:
    return {"step", *(s.name for s in optimizer.compiled.program.states)}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spec", SPECS)
def test_compiled_kernels_show_what_eager_code_keeps(spec: str, order: str) -> None:
    """After every step, for every rule of the library that learns."""
    own = optdsl.load(spec).compiled.program.learned
    options: Any = {"order": order} | ({} if own else {"learn": learning(spec)})
    kept, lagging = (
        optdsl.load(spec, backend=backend, **options)(parameters()) for backend in ("eager", "c")
    )
    for step in range(4):
        train(kept, [step])
        train(lagging, [step])
        for one, other in zip(held(kept), held(lagging), strict=True):
            found = lagging.completed_state(other)
            assert found.keys() == declared(kept)
            for name, value in found.items():
                expected = kept.state[one][name]
                torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", PLANS)
def test_a_completed_state_is_the_interpreters(kind: str, backend: str) -> None:
    """Which takes each step at the coefficients that the step has learned before."""
    (parameter,) = parameters(shapes=[(5,)])
    optimizer = made(kind, backend, "exact")([parameter])
    program, group = optimizer.compiled.program, optimizer.param_groups[0]
    interpreter, state = Interpreter(program), dict[str, Tensor]()
    for t in range(1, 5):
        optimizer.zero_grad()
        loss([parameter], t).backward()
        theta, g = parameter.detach().clone(), parameter.grad
        optimizer.step()
        hypers = {h.name: float(group[h.name]) for h in program.hypers}
        assert g is not None
        state = state or interpreter.start(theta, g, hypers)
        state = interpreter.step(theta, g, state, hypers, t).state
        found = optimizer.completed_state(parameter)
        assert float(found.pop("step")) == t
        for name, value in found.items():
            torch.testing.assert_close(value, state[name], rtol=1e-10, atol=1e-14)
        lags = (kind, backend) in {("replay", "c"), ("replay", "triton")}
        assert lags != torch.equal(optimizer.state[parameter]["m"], found["m"])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", PLANS)
def test_reading_changes_nothing(kind: str, backend: str) -> None:
    """The copies are the reader's, and the training goes on as without them."""
    optimizer = made(kind, backend, "overlapped")(parameters())
    train(optimizer, range(3))
    before = fingerprint(optimizer)
    usual = copy.deepcopy(optimizer)
    for parameter in held(optimizer):
        for value in optimizer.completed_state(parameter).values():
            value.zero_()
    assert fingerprint(optimizer) == before
    for one in (optimizer, usual):
        train(one, range(3, 5))
    assert fingerprint(optimizer) == fingerprint(usual)


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_nothing_is_learned_it_is_the_state(backend: str) -> None:
    optimizer = optdsl.load("mada", learn=False, backend=backend)(parameters(torch.float32))
    train(optimizer, range(3))
    for parameter in held(optimizer):
        found, state = optimizer.completed_state(parameter), optimizer.state[parameter]
        assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in state.items()}


def test_what_a_tensor_has_learned_is_part_of_its_state() -> None:
    optimizer = made("replay", "c", "exact", "tensor")(in_groups(parameters(shapes=SHAPES)))
    train(optimizer, range(3))
    for parameter in held(optimizer):
        found = optimizer.completed_state(parameter)
        state = optimizer.state[parameter]
        own = {k for k in state if k.startswith(("coefficient/", "hypergradient/", "learn/"))}
        assert found.keys() == declared(optimizer) | own
        assert found["coefficient/lr"] == state["coefficient/lr"]


def test_dtypes_are_those_that_are_kept() -> None:
    optimizer = made("replay", "c", "exact")(parameters(torch.bfloat16))
    train(optimizer, range(3))
    found = optimizer.completed_state(held(optimizer)[0])
    assert {found[k].dtype for k in found.keys() - {"step"}} == {torch.float32}


def test_a_parameter_without_a_state_and_one_of_another_optimizer() -> None:
    optimizer = made("replay", "c", "exact")(parameters())
    assert optimizer.completed_state(held(optimizer)[0]) == {}
    assert not optimizer.state
    with pytest.raises(ValueError, match=r"no such parameter, of shape \(3, 2\)"):
        optimizer.completed_state(parameters()[0])
    with pytest.raises(TypeError, match="takes a parameter of the optimizer, not 'weight'"):
        optimizer.completed_state("weight")  # type: ignore[arg-type]
