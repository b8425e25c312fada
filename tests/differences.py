"""How far specifications are from what they are compared with, as the tests compare them.

`specs/references.toml` names a test of each specification. While it runs, the largest relative
difference of what it compares is measured: of the tensors in float64, the largest difference of an
element over the largest element that is expected. `tests/library/measure.py` records the results
in `specs/measured.json`, which the table of the library shows. Every other run compares its own
differences with them.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
import torch
from torch import Tensor

from optdsl import resources

# Other processors, compilers and versions of torch round otherwise. What is compared after a
# hundred steps differs by some factor then; a mistake in an equation differs by powers of ten.
NOISE = 30.0
# Differences below this are rounding on every processor; a hundred steps add up many of them.
LEAST = 1e-12

_MEASURED: ContextVar[list[float] | None] = ContextVar("measured", default=None)


def compared() -> dict[str, list[str]]:
    """The specifications that each test compares within a bound, by the test."""
    found: dict[str, list[str]] = {}
    for name, references in tomllib.loads(resources.references_text()).items():
        for reference in references:
            if "within" in reference:
                found.setdefault(reference["test"], []).append(name)
    return found


def recorded() -> dict[str, dict[str, float]]:
    """The differences that were measured, by specification and test."""
    found: dict[str, dict[str, float]] = json.loads(resources.measured_text())
    return found


def note(ours: Any, theirs: Any) -> None:
    """Take a comparison into account, if the test is one of those; it raises no error."""
    measured = _MEASURED.get()
    if measured is None:
        return
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        for pair in zip(ours, theirs, strict=False):
            note(*pair)
    elif isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        if ours.shape != theirs.shape or {ours.dtype, theirs.dtype} != {torch.float64}:
            return
        with torch.no_grad():
            measured.append(relative(ours, theirs))


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of an element over the largest element that is expected."""
    if not theirs.numel():
        return 0.0
    gap, size = (ours - theirs).abs().max().item(), theirs.abs().max().item()
    return 0.0 if gap == 0 else gap / size if size else math.inf


@contextmanager
def measuring() -> Iterator[list[float]]:
    """Collect the relative differences of what is compared until the block ends."""
    found: list[float] = []
    token = _MEASURED.set(found)
    plain = torch.testing.assert_close

    def assert_close(actual: Any, expected: Any, **options: Any) -> None:
        note(actual, expected)
        plain(actual, expected, **options)

    torch.testing.assert_close = assert_close
    try:
        yield found
    finally:
        torch.testing.assert_close = plain
        _MEASURED.reset(token)


def problem(name: str, test: str, worst: float) -> str | None:
    """What is wrong with a difference; None if it is within what rounding explains."""
    before = recorded().get(name, {}).get(test)
    if before is None or worst <= max(before * NOISE, LEAST):
        return None
    return (
        f"{name} differs from its reference by {worst:.1e}, and did by {before:.1e}; after a "
        f"change that explains it, run `python -m tests.library.measure {name}`"
    )


def meant(item: pytest.Item, names: list[str]) -> list[str]:
    """The specifications that a test is about, of those that it compares with something.

    They are the ones that its parameters name, and modifiers if those name none: they are tried
    with the rules that are named. Where the parameters name nothing of the library, they are all.
    """
    values = getattr(item, "callspec", None)
    parts = "" if values is None else "-".join(map(str, values.params.values()))
    words = set(re.findall(r"\w+", parts))
    modifiers = set(resources.modifier_names())
    if words.isdisjoint({*resources.spec_names(), *modifiers}):
        return names
    named = words if words & modifiers else words | modifiers
    return [name for name in names if name in named]
