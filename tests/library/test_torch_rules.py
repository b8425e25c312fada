"""The rules of torch.optim, with all their options, on the inputs with which torch tests them.

`tests/contract/test_torch_inputs.py` does the same for Adam, AdamW and SGD, and has batteries of
parameter groups and schedulers; `tests/matrices` has Adafactor and Muon.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl

pytest.importorskip("expecttest", reason="torch's own test helpers need it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_optimizers as theirs
# It freezes torch's flags for the whole process, which other tests did not ask for.
setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)

pytestmark = pytest.mark.broad(8)

STEPS = 100
BACKENDS = ["eager", "auto"]
SHAPES: list[tuple[int, ...]] = [(3, 2), ()]
RULES: dict[Any, str] = {
    torch.optim.Adadelta: "adadelta",
    torch.optim.Adagrad: "adagrad",
    torch.optim.Adamax: "adamax",
    torch.optim.ASGD: "asgd",
    torch.optim.NAdam: "nadam",
    torch.optim.RAdam: "radam",
    torch.optim.RMSprop: "rmsprop",
    torch.optim.Rprop: "rprop",
}
# Flags of how torch computes, none of which changes what is computed.
WAYS = {"capturable", "foreach", "fused", "differentiable"}
# The names of the numbers of which torch makes a tuple.
TUPLES = {"etas": ("etaminus", "etaplus"), "step_sizes": ("step_size_min", "step_size_max")}


def named(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of torch's optimizer under the names of the rule."""
    own: dict[str, Any] = {}
    for key, value in kwargs.items():
        own |= dict(zip(TUPLES[key], value, strict=True)) if key in TUPLES else {key: value}
    return own


def plain(value: Any) -> Any:
    """A number in place of a tensor, which torch would round to float32 on its way."""
    return value.item() if isinstance(value, Tensor) else value


def inputs() -> Iterator[Any]:
    """Torch's class, our rule, and the arguments of torch's, each of them once."""
    for info in theirs.optim_db:
        if info.optim_cls in RULES:
            found = [x for device in ("cpu", "cuda") for x in info.optim_inputs_func(device)]
            settings = [{k: v for k, v in x.kwargs.items() if k not in WAYS} for x in found]
            for number, kwargs in enumerate(settings):
                if str(kwargs) not in map(str, settings[:number]):
                    name = f"{RULES[info.optim_cls]}-{kwargs}".replace(" ", "")
                    yield pytest.param(info.optim_cls, RULES[info.optim_cls], kwargs, id=name)
    for kwargs in ({}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True}):
        rule = "adamw with max_moment"
        given = {"amsgrad": True, **kwargs}
        yield pytest.param(torch.optim.AdamW, rule, given, id=f"{rule}-{kwargs}".replace(" ", ""))


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in SHAPES]


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters after some steps, in some of which one tensor has no gradient."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        for number, p in enumerate(held):
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = None if step % 4 == number else (0.5 * p + noise).detach()
        optimizer.step()
    return [p.detach() for p in held]


@pytest.fixture
def float64() -> Iterator[None]:
    """Torch keeps numbers of a tensor, such as NAdam's product of momenta, in this precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("reference", "rule", "kwargs"), list(inputs()))
def test_a_rule_is_that_of_torch(
    reference: Any, rule: str, kwargs: dict[str, Any], backend: str
) -> None:
    own = {k: v for k, v in named(kwargs).items() if k != "amsgrad"}
    mine = trained(optdsl.load(rule, backend=backend)(parameters(), **own))
    numbers = {k: plain(v) for k, v in kwargs.items()}
    expected = trained(reference(parameters(), foreach=False, **numbers))
    torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)


# Inputs that torch refuses for how it computes.
ALLOWED = "lr as Tensor"


def erroneous() -> Iterator[Any]:
    for info in theirs.optim_db:
        if info.optim_cls in RULES:
            for error in info.optim_error_inputs_func("cpu", torch.float64):
                given = error.optimizer_error_input
                if given.kwargs and not given.desc.startswith(ALLOWED):
                    kwargs = {k: v for k, v in given.kwargs.items() if k not in WAYS}
                    name = f"{RULES[info.optim_cls]}-{given.desc}".replace(" ", "_")
                    yield pytest.param(RULES[info.optim_cls], kwargs, id=name)


@pytest.mark.parametrize(("rule", "kwargs"), list(erroneous()))
def test_what_torch_refuses_is_refused(rule: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"must|no hyperparameter"):
        optdsl.load(rule)(parameters(), **named(kwargs))


def test_every_first_order_rule_of_torch_is_here() -> None:
    elsewhere = {"Adafactor", "Adam", "AdamW", "Muon", "SGD"}
    # Torch's sparse implementation of Adam is Adam; L-BFGS evaluates the loss several times.
    others = {"SparseAdam", "LBFGS"}
    found = {info.optim_cls.__name__ for info in theirs.optim_db}
    assert found == {c.__name__ for c in RULES} | elsewhere | others
    assert {param.values[1] for param in inputs()} >= set(RULES.values())
