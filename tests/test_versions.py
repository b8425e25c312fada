"""The range of versions that is claimed is the range that is tested."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CLAIMED = PROJECT["project"]["dependencies"]


def pinned(file: str) -> dict[str, str]:
    """The version of each package in a file of constraints."""
    lines = (ROOT / file).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_lowest_versions_are_those_that_are_tested() -> None:
    extra = PROJECT["dependency-groups"]["test"]
    lowest = pinned("constraints-lowest.txt")
    for requirement in [*CLAIMED, *(r for r in extra if r.startswith("numpy"))]:
        name, version = re.match(r"(\w+)>=([\d.]+)", requirement).groups()  # type: ignore[union-attr]
        tested = numbers(lowest.pop(name))
        assert tested[: len(numbers(version))] == numbers(version), requirement
        assert not any(tested[len(numbers(version)) :]), requirement
    assert lowest == {}


def test_the_newest_versions_are_within_what_is_claimed() -> None:
    newest = pinned("constraints.txt")
    for requirement in CLAIMED:
        name, lower, upper = re.match(r"(\w+)>=([\d.]+)(?:,<([\d.]+))?", requirement).groups()  # type: ignore[union-attr]
        assert numbers(lower) < numbers(newest[name]), requirement
        assert upper is None or numbers(newest[name]) < numbers(upper), requirement


def test_the_readme_says_the_same() -> None:
    lowest, newest = pinned("constraints-lowest.txt"), pinned("constraints.txt")
    pythons = re.findall(r"Python :: (3\.\d+)", "".join(PROJECT["project"]["classifiers"]))
    torches = [version.rpartition(".")[0] for version in (lowest["torch"], newest["torch"])]
    told = " ".join((ROOT / "README.md").read_text().split())
    assert f"Python {pythons[0]} to {pythons[-1]}, PyTorch {torches[0]} to {torches[1]}" in told
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"
