"""Special numbers in Triton: the cases of tests.c, on the device or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from tests.c import test_special_numbers as cases


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_elements_are_what_eager_makes_of_them(dtype: torch.dtype) -> None:
    cases.compare("elements", "triton", dtype)
