"""Triton's kernels learn from a sample of the elements, with the host's part in a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime import test_sampled_kernels as kernels

pytest.importorskip("triton")


@pytest.mark.parametrize(
    ("rule", "order"), [(kernels.LAGGING, "overlapped"), (kernels.NORMED, "exact")]
)
def test_as_by_hand(tmp_path: Path, rule: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SHAPES", ((100,), (0, 3), (4500,)))
    kernels.test_as_by_hand(tmp_path, rule, order, "triton")
