"""Hyperparameters: their names, their bounds, and what counts as a number."""

import math
from decimal import Decimal
from typing import Any

import pytest
import torch
from torch import nn

import optdsl

from .helpers import SPECS, fingerprint, held, learner, parameters, plain, train

pytestmark = pytest.mark.broad(10)


def betas(spec: str) -> list[str]:
    names = [h.name for h in plain(spec).compiled.program.hypers]
    return [name for name in names if "beta" in name]


def bounds(spec: str, beta: str) -> str:
    """Of a beta; Schedule-Free divides by its first one."""
    return "(0, 1)" if (spec, beta) == ("schedule_free_adamw", "beta1") else "[0, 1)"


# A hyperparameter out of its bounds, and the bounds that the error names.
OUT_OF_BOUNDS = [
    *((spec, "lr", -1e-9, "[0, inf)") for spec in SPECS),
    *((spec, "lr", math.inf, "[0, inf)") for spec in SPECS),
    *((spec, "lr", math.nan, "[0, inf)") for spec in SPECS),
    *((spec, "weight_decay", -0.5, "[0, inf)") for spec in SPECS),
    *((spec, beta, 1.0, bounds(spec, beta)) for spec in SPECS for beta in betas(spec)),
    *((spec, beta, -0.1, bounds(spec, beta)) for spec in SPECS for beta in betas(spec)),
    ("adan", "beta3", 1.5, "[0, 1)"),
    ("mada_legacy", "rho", 1.0000001, "[0, 1]"),
    ("mada_legacy", "gamma", -1, "[0, 1]"),
    ("sgd", "nesterov", 0.5, "{0, 1}"),
    ("sgd", "dampening", -math.inf, "(-inf, inf)"),
    ("yogi", "v0", -1e-6, "[0, inf)"),
]
NOT_NUMBERS = [
    "0.1",
    "nan",
    b"0.1",
    None,
    1j,
    [0.1],
    (0.9, 0.999),
    {"lr": 0.1},
    pytest.param(object(), id="object"),
    torch.tensor([0.1, 0.2]),
    torch.tensor([]),
]


@pytest.mark.parametrize("spec", SPECS)
def test_an_unknown_name_is_a_type_error_with_the_nearest_one(spec: str) -> None:
    cls = optdsl.load(spec)
    words = rf"{cls.__name__} has no hyperparameter 'weigth_decay': did you mean `weight_decay`\?"
    with pytest.raises(TypeError, match=words):
        cls(parameters(), weigth_decay=0.1)
    with pytest.raises(TypeError, match="has no hyperparameter 'qqq': it has lr, "):
        cls(parameters(), qqq=0.1)


@pytest.mark.parametrize(("spec", "hyper", "value", "bounds"), OUT_OF_BOUNDS)
def test_a_value_out_of_bounds_is_refused_wherever_it_is_given(
    spec: str, hyper: str, value: float, bounds: str
) -> None:
    cls = plain(spec)

    def refused() -> Any:
        words = [cls.__name__, hyper, "out of bounds", bounds]
        return pytest.raises(ValueError, match=".*".join(map(_escaped, words)))

    with refused():
        cls(parameters(), **{hyper: value})
    with refused():
        cls([{"params": parameters()}, {"params": parameters(), hyper: value}])
    optimizer = cls([{"params": parameters()[:1]}, {"params": parameters()[1:]}])
    train(optimizer, range(2))
    with refused():
        optimizer.add_param_group({"params": parameters(), hyper: value})
    assert len(optimizer.param_groups) == 2
    optimizer.param_groups[1][hyper] = value
    before = fingerprint(optimizer)
    with refused():
        train(optimizer, [2])
    assert fingerprint(optimizer) == before


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "[](){}.-" else c for c in text)


@pytest.mark.parametrize("spec", SPECS)
def test_nan_is_refused(spec: str) -> None:
    for hyper in (h.name for h in plain(spec).compiled.program.hypers):
        with pytest.raises(ValueError, match=f"{hyper} = nan is out of bounds"):
            plain(spec)(parameters(), **{hyper: math.nan})
        with pytest.raises(ValueError, match=f"{hyper} = nan is out of bounds"):
            plain(spec)(parameters(), **{hyper: torch.tensor(math.nan)})


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_a_type_error(value: Any) -> None:
    cls = plain("adam")
    words = "Adam: lr must be a real number, not "
    with pytest.raises(TypeError, match=words):
        cls(parameters(), lr=value)
    with pytest.raises(TypeError, match=words):
        cls([{"params": parameters(), "lr": value}])
    optimizer = cls(parameters())
    train(optimizer, [0])
    before = fingerprint(optimizer)
    optimizer.param_groups[0]["lr"] = value
    with pytest.raises(TypeError, match=words):
        train(optimizer, [1])
    optimizer.param_groups[0]["lr"] = 1e-3
    assert fingerprint(optimizer) == before


def test_a_number_beyond_all_floats_is_refused() -> None:
    with pytest.raises((TypeError, ValueError), match="lr"):
        plain("adam")(parameters(), lr=10**400)


def test_numbers_of_every_kind_are_accepted() -> None:
    numpy = pytest.importorskip("numpy")
    quarter = [
        numpy.float16(0.25),
        numpy.float32(0.25),
        numpy.float64(0.25),
        torch.tensor(0.25),
        torch.tensor([0.25], dtype=torch.float64),
        torch.tensor(0.25, dtype=torch.bfloat16),
        nn.Parameter(torch.tensor(0.25), requires_grad=False),
        Decimal("0.25"),
    ]
    expected = plain("adam")(parameters(), lr=0.25)
    train(expected, range(3))
    for value in quarter:
        given = plain("adam")(parameters(), lr=value)
        in_group = plain("adam")([{"params": parameters(), "lr": value}])
        for optimizer in (given, in_group):
            # A tensor stays one: others write into it.
            kind = torch.Tensor if isinstance(value, torch.Tensor) else float
            assert type(optimizer.param_groups[0]["lr"]) is kind
            train(optimizer, range(3))
            for part in ("parameters", "state"):
                assert fingerprint(optimizer)[part] == fingerprint(expected)[part]
        later = plain("adam")(parameters())
        later.param_groups[0]["lr"] = value
        train(later, range(3))
        assert fingerprint(later)["parameters"] == fingerprint(expected)["parameters"]


def test_whole_numbers_and_truth_values_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    for one in (
        1,
        True,
        1.0,
        numpy.bool_(True),
        numpy.int64(1),
        torch.tensor(1),
        torch.tensor(True),
    ):
        mine = optdsl.load("sgd")(parameters(), lr=0.1, momentum=0.9, nesterov=one)
        train(mine, range(3))
        reference = torch.optim.SGD(parameters(), lr=0.1, momentum=0.9, nesterov=True)
        train(reference, range(3))
        torch.testing.assert_close(held(mine), held(reference), rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", ["overlapped", "exact"])
def test_tensors_in_several_groups_are_one_learned_value(order: str) -> None:
    """A tensor has no value by which a set or a dict knows it."""
    params = parameters()
    groups = [{"params": params[:1]}, {"params": params[1:]}]
    optimizer = learner("mada_legacy", order)(groups)
    reference = learner("mada_legacy", order)(parameters(), rho=0.5)
    train(reference, range(5))
    for group in optimizer.param_groups:
        group["rho"] = torch.tensor(0.5)
    train(optimizer, range(5))
    assert optimizer.metrics() == reference.metrics()


def test_a_learned_value_may_be_set_by_hand() -> None:
    optimizer = learner("mada_legacy")(parameters(), rho=0.25)
    train(optimizer, range(5))
    optimizer.param_groups[0]["rho"] = 0.75
    assert optimizer.metrics()["rho"] == 0.75
    optimizer.param_groups[0]["rho"] = 1.5
    before = fingerprint(optimizer)
    with pytest.raises(ValueError, match=r"rho = 1\.5 is out of bounds, it must lie in \[0, 1\]"):
        train(optimizer, [5])
    assert fingerprint(optimizer) == before


@pytest.mark.parametrize("spec", SPECS)
def test_bounds_themselves_are_allowed_where_they_are_closed(spec: str) -> None:
    """Steps with lr = 0 and without decay leave the parameters as they are."""
    optimizer = learner(spec)(parameters(), lr=0, weight_decay=0)
    before = fingerprint(optimizer)["parameters"]
    train(optimizer, range(2))
    assert fingerprint(optimizer)["parameters"] == before


@pytest.mark.parametrize("name", ["hyperadam", "mada"])
@pytest.mark.parametrize(("beta1", "beta2"), [(0.01, 0.01), (0.5, 0.501), (0.99, 0.999)])
def test_learned_betas_may_start_anywhere_on_the_papers_grid(
    name: str, beta1: float, beta2: float
) -> None:
    """Ozkara et al. (2024) start from 275 pairs, beginning at 0.01."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = optdsl.load(name)([parameter], beta1=beta1, beta2=beta2)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert (optimizer.param_groups[0]["beta1"], optimizer.param_groups[0]["beta2"]) == (
        beta1,
        beta2,
    )


def test_a_value_that_is_allowed_at_one_step_is_no_excuse_for_the_next() -> None:
    """What was found to be allowed is not looked at again, and everything else is."""
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = optdsl.load("adam")([parameter], lr=0.1)
    group = optimizer.param_groups[0]
    optimizer.step()
    group["lr"] = torch.tensor(0.1)
    optimizer.step()
    before = parameter.clone()
    group["lr"].fill_(-1.0)
    with pytest.raises(ValueError, match="out of bounds"):
        optimizer.step()
    for value in (-1.0, math.nan):
        group["lr"] = value
        for _ in range(2):
            with pytest.raises(ValueError, match="out of bounds"):
                optimizer.step()
    assert torch.equal(parameter, before)
    group["lr"] = 0.1
    optimizer.step()
    assert not torch.equal(parameter, before)
