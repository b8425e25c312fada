"""The inputs on which torch tests its own optimizers, valid and erroneous, given to ours.

Torch's optimizer is the oracle. Inputs that name a rule we have not, or an implementation of
torch's (`capturable`, `foreach`), are left out or lose that keyword.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl

pytestmark = pytest.mark.broad(10)

pytest.importorskip("expecttest", reason="torch's own test helpers need it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_optimizers as theirs
# It freezes torch's flags for the whole process, which other tests did not ask for.
setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)

BACKENDS = ("eager", "auto")
SPECS = {torch.optim.Adam: "adam", torch.optim.AdamW: "adamw", torch.optim.SGD: "sgd"}
INFOS = [info for info in theirs.optim_db if info.optim_cls in SPECS]
# Flags of how torch computes, none of which changes what is computed.
WAYS = ("capturable", "foreach", "fused", "differentiable")


def spec_of(cls: type[torch.optim.Optimizer], kwargs: dict[str, Any]) -> str | None:
    """The specification of a rule with these arguments; None where we have none."""
    if not kwargs.get("amsgrad", False):
        return SPECS[cls]
    return "amsgrad" if cls is torch.optim.Adam else None


def valid() -> Iterator[Any]:
    """Torch's class, our specification, and the keywords of both."""
    for info in INFOS:
        # Some inputs are only for some devices, for reasons that are not ours.
        found = [x for device in ("cpu", "cuda", "mps") for x in info.optim_inputs_func(device)]
        for number, given in enumerate(found):
            kwargs = {k: v for k, v in given.kwargs.items() if k not in WAYS}
            spec = spec_of(info.optim_cls, kwargs)
            if spec is not None:
                own = {k: v for k, v in kwargs.items() if k != "amsgrad"}
                name = f"{spec}-{number}-{given.desc}".replace(" ", "_")
                yield pytest.param(info.optim_cls, spec, kwargs, own, id=name)


def plain_numbers(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same without tensors, which torch rounds to float32 on its way."""

    def number(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(number, value))
        return value.item() if isinstance(value, Tensor) else value

    return {key: number(value) for key, value in kwargs.items()}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(3, 2), (4,), ()]
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]


def train(optimizer: torch.optim.Optimizer, after: Callable[[], Any] = lambda: None) -> None:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(8):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(100 + step)
        for parameter in params:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = (2 * parameter + noise).detach()
        optimizer.step()
        after()


Given = Callable[[list[nn.Parameter]], Any]
FORMS: dict[str, Given] = {
    "tensors": lambda params: params,
    "named": lambda params: [(str(n), p) for n, p in enumerate(params)],
    "groups": lambda params: [
        {"params": params[:1], "lr": 0.02},
        {"params": params[1:], "weight_decay": 0.3},
    ],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("reference", "spec", "kwargs", "own"), list(valid()))
def test_valid_inputs_do_what_they_do_to_torchs_optimizer(
    reference: type[torch.optim.Optimizer],
    spec: str,
    kwargs: dict[str, Any],
    own: dict[str, Any],
    backend: str,
    form: str,
) -> None:
    mine, expected = parameters(), parameters()
    train(optdsl.load(spec, backend=backend)(FORMS[form](mine), **own))
    train(reference(FORMS[form](expected), **plain_numbers(kwargs)))
    torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.optim_cls.__name__)
def test_schedulers_with_which_torch_tests_drive_ours_as_well(info: Any, backend: str) -> None:
    cls = optdsl.load(SPECS[info.optim_cls], backend=backend)
    assert info.scheduler_inputs
    for makers in info.scheduler_inputs:
        mine, expected = parameters(), parameters()
        optimizers = [cls(mine, lr=0.01), info.optim_cls(expected, lr=0.01)]
        for optimizer in optimizers:
            schedulers = [make(optimizer) for make in makers]

            def after(schedulers: list[Any] = schedulers) -> None:
                for scheduler in schedulers:
                    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                    scheduler.step(*([1.0] if plateau else []))

            train(optimizer, after)
        rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
        assert rates[0] == rates[1]
        torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


# What torch refuses because of how it computes, and we take: each beta may be a tensor by itself,
# and hyperparameters may be tensors whatever is said of the implementation.
TAKEN = (
    "betas must be either both floats or both Tensors",
    "lr as Tensor doesn't work with foreach & not capturable",
    "betas[0] as a Tensor is not supported for capturable=False and foreach=True",
    "betas[1] as a Tensor is not supported for capturable=False and foreach=True",
)


def erroneous(taken: bool) -> list[Any]:
    found = []
    for info in INFOS:
        for number, error in enumerate(info.optim_error_inputs_func("cpu", torch.float64)):
            assert error.error_on is theirs.OptimizerErrorEnum.CONSTRUCTION_ERROR
            desc = error.optimizer_error_input.desc.replace("\\", "")
            if (desc in TAKEN) is taken:
                name = f"{SPECS[info.optim_cls]}-{number}-{error.optimizer_error_input.desc}"
                found.append(pytest.param(info.optim_cls, error, id=name.replace(" ", "_")))
    return found


@pytest.mark.parametrize(("reference", "error"), erroneous(taken=False))
def test_erroneous_inputs_are_refused_with_a_clear_message(
    reference: type[torch.optim.Optimizer], error: Any
) -> None:
    """In torch's words where it is torch that checks, else with the class and the argument."""
    cls = optdsl.load(SPECS[reference])
    given = error.optimizer_error_input
    params = parameters() if given.params is None else given.params
    if error.error_type is UserWarning:
        with pytest.warns(UserWarning, match=error.error_regex):
            cls(params, **given.kwargs)
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        cls(params, **given.kwargs)
    message = str(caught.value)
    assert "\n" not in message
    if not given.kwargs:
        assert isinstance(caught.value, error.error_type)
        assert re.search(error.error_regex, message)
        return
    names = {*given.kwargs, "beta1", "beta2"}
    starts = [f"{cls.__name__}: {name} " for name in names]
    starts += [f"{cls.__name__} has no hyperparameter {name!r}" for name in names]
    assert message.startswith(tuple(starts))


@pytest.mark.parametrize(("reference", "error"), erroneous(taken=True))
def test_what_only_an_implementation_of_torch_cannot_do_is_done(
    reference: type[torch.optim.Optimizer], error: Any
) -> None:
    given = error.optimizer_error_input.kwargs
    kwargs = {key: value for key, value in given.items() if key not in WAYS}
    mine, expected = parameters(), parameters()
    train(optdsl.load(SPECS[reference])(mine, **given))
    train(reference(expected, **plain_numbers(kwargs)))
    torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)


def test_all_that_torch_tests_is_here() -> None:
    """The lists above are not empty by mistake."""
    assert len(INFOS) == len(SPECS)
    specs = [param.values[1] for param in valid()]
    counts = {spec: len(list(group)) for spec, group in itertools.groupby(sorted(specs))}
    assert counts.keys() == {"adam", "adamw", "amsgrad", "sgd"}
    assert min(counts.values()) >= 4
    kwargs = [param.values[3] for param in valid()]
    assert any(isinstance(k.get("lr"), Tensor) for k in kwargs)
    assert any(isinstance(k.get("betas", (0,))[0], Tensor) for k in kwargs)
    assert any(k.get("maximize") for k in kwargs)
    assert len(erroneous(taken=False)) > 20
    assert len(erroneous(taken=True)) >= 4
