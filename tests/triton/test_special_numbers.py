"""Special numbers in Triton: the cases of tests.c, on the device or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from tests.c import test_special_numbers as cases


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=[] if kind == "elements" else pytest.mark.exhaustive)
    for kind in cases.KINDS
])  # fmt: skip
def test_kernels_do_what_eager_does(kind: str, dtype: torch.dtype) -> None:
    cases.compare(kind, "triton", dtype)
