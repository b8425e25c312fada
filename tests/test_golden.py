"""Emitted code reads as these files do, and these files compute what torch.optim does.

After a deliberate change:
``optdsl show adam --backend eager --no-learn > tests/golden/adam_eager.py``.
"""

import runpy
from pathlib import Path

import pytest
import torch

from optdsl.compiler import emit
from optdsl.specifications import library

GOLDEN = Path(__file__).parent / "golden"
CASES = {
    # One rho is enough: the references of the blends look at the others.
    "adam_avgrad": (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.01},
             {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01,
              "rho": 1.0}),
    "adam": (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.01},
             {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01}),
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True},
            {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_emitted_text(name: str) -> None:
    assert (
        emit(library.open_source(name), learn=False).text
        == (GOLDEN / f"{name}_eager.py").read_text()
    )


@pytest.mark.parametrize("name", CASES)
def test_the_golden_file_computes_the_rule(name: str) -> None:
    reference, options, hypers = CASES[name]
    code = runpy.run_path(str(GOLDEN / f"{name}_eager.py"))
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(5, dtype=torch.float64))
    theta = parameter.detach().clone()
    optimizer = reference([parameter], **options)
    state: tuple[torch.Tensor, ...] = ()
    for t in range(1, 6):
        parameter.grad = torch.randn(5, dtype=torch.float64)
        state = state or code["initialize"](theta, parameter.grad)
        theta, *rest = code["step"](theta, parameter.grad, *state, t=float(t), **hypers)
        state = tuple(rest)
        optimizer.step()
        torch.testing.assert_close(theta, parameter.detach(), rtol=1e-13, atol=1e-14)
