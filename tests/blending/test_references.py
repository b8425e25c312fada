"""Where a specification finds the rules that it names, and what travels with its class."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import optdsl
from optdsl import SpecError
from optdsl.specifications import library
from optdsl.specifications.references import folded
from tests.oracles.rules import ELEMENTWISE

STEEP = "optimizer Steep\nhyper lr = 0.1 in [0, inf)\ntheta' = theta - lr * g * 2\n"
MIXED = """\
blend Mixed
use Steep, Lion
hyper lr = 0.1 in [0, inf)
share lr
hyper w = 0.5 in [0, 1]
theta' = w * Steep.theta' + (1 - w) * Lion.theta'
recovers Steep at w = 1
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "steep.opt").write_text(STEEP)
    (tmp_path / "mixed.opt").write_text(MIXED)
    return tmp_path


def moved(cls: Any, **hypers: float) -> float:
    """Where a parameter of 1 goes with a gradient of 1."""
    parameter = nn.Parameter(torch.ones((), dtype=torch.float64))
    parameter.grad = torch.ones((), dtype=torch.float64)
    cls([parameter], **hypers).step()
    return parameter.item()


def test_rules_are_found_beside_the_file(directory: Path) -> None:
    cls = optdsl.load(directory / "mixed.opt")
    assert moved(cls, w=1.0) == pytest.approx(0.8)
    assert moved(cls, w=0.0) == pytest.approx(0.9)


def test_a_file_beside_comes_before_the_library(directory: Path) -> None:
    (directory / "lion.opt").write_text(STEEP.replace("Steep", "Lion").replace("2", "7"))
    assert moved(optdsl.load(directory / "mixed.opt"), w=0.0) == pytest.approx(0.3)


def test_a_file_that_has_the_name_of_what_it_uses_means_the_librarys(tmp_path: Path) -> None:
    text = "blend Lion\nuse Lion\nshare lr, beta1, beta2, weight_decay\nrecovers Lion\n"
    (tmp_path / "lion.opt").write_text(text)
    assert moved(optdsl.load(tmp_path / "lion.opt"), lr=0.25) == 0.75


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c")])
def test_rules_that_are_made_of_themselves_are_refused(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    for name, other in zip(names, (*names[1:], names[0]), strict=True):
        (tmp_path / f"{name}.opt").write_text(f"blend {name}\nuse {other}\nshare lr\n")
    way = " uses ".join(f"{n}.opt" for n in (*names, "a"))
    with pytest.raises(SpecError, match=f"`a` is made of itself(.|\n)*{way}"):
        optdsl.load(tmp_path / "a.opt")


def test_a_name_that_fits_several_files_is_refused(directory: Path) -> None:
    for name in ("ste-ep", "st_eep"):
        (directory / f"{name}.opt").write_text(STEEP)
    (directory / "steep.opt").unlink()
    with pytest.raises(SpecError, match=r"several files(.|\n)*st_eep\.opt, ste-ep\.opt"):
        optdsl.load(directory / "mixed.opt")
    # Written exactly, a name is one file.
    (directory / "Steep.opt").write_text(STEEP.replace("2", "3"))
    assert moved(optdsl.load(directory / "mixed.opt"), w=1.0) == pytest.approx(0.7)


def test_a_rule_that_is_nearly_named_is_suggested(directory: Path) -> None:
    (directory / "mixed.opt").write_text(MIXED.replace("Steep", "Stepe"))
    with pytest.raises(SpecError, match="did you mean `steep`"):
        optdsl.load(directory / "mixed.opt")


def test_an_edited_member_is_seen(directory: Path) -> None:
    assert moved(optdsl.load(directory / "mixed.opt"), w=1.0) == pytest.approx(0.8)
    (directory / "steep.opt").write_text(STEEP.replace("2", "5"))
    assert moved(optdsl.load(directory / "mixed.opt"), w=1.0) == pytest.approx(0.5)


def test_a_pickled_class_brings_its_members_along(directory: Path) -> None:
    pickled = pickle.dumps(optdsl.load(directory / "mixed.opt"))
    shutil.rmtree(directory)
    assert moved(pickle.loads(pickled), w=1.0) == pytest.approx(0.8)


def test_the_names_of_the_library_are_those_of_its_files() -> None:
    """So that `use` finds a rule by the name it gives itself."""
    for name in ELEMENTWISE:
        assert folded(library.read(library.open_source(name)).name) == folded(name)


def test_a_specification_names_no_path(tmp_path: Path) -> None:
    for text in ("use ../Adam", 'use "adam.opt"', "use /etc/passwd", "use Adam.opt"):
        path = tmp_path / "x.opt"
        path.write_text(f"blend X\n{text}\n")
        with pytest.raises(SpecError, match="syntax"):
            optdsl.load(path)


def test_files_that_cannot_be_read_are_reported_where_they_are_named(directory: Path) -> None:
    (directory / "steep.opt").write_bytes(b"optimizer \xff\xfe")
    with pytest.raises(SpecError, match=r"mixed\.opt:2:5(.|\n)*not UTF-8"):
        optdsl.load(directory / "mixed.opt")
    (directory / "steep.opt").unlink()
    (directory / "steep.opt").mkdir()
    with pytest.raises(SpecError, match="unknown rule `Steep`"):
        optdsl.load(directory / "mixed.opt")


def test_blends_of_blends_have_an_end(tmp_path: Path) -> None:
    for i in range(30):
        text = f"blend B{i}\nuse B{i + 1} as X, B{i + 1} as Y\nshare lr\ntheta' = X.theta'\n"
        (tmp_path / f"b{i}.opt").write_text(text)
    (tmp_path / "b30.opt").write_text(STEEP)
    with pytest.raises(SpecError, match="too-deep"):
        optdsl.load(tmp_path / "b0.opt")
