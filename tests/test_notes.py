"""What the compiler notes for later processes: the same meaning, and never a stale one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import optdsl
from optdsl import library
from optdsl.compiler import derive
from optdsl.ir.text import parse_program, print_program
from optdsl.plan import plans
from optdsl.plan.text import parse_plan, print_plan
from optdsl.runtime.notes import noted

TEXT = "optimizer A\nhyper lr = 0.1 in [0, inf)\ntheta' = theta - lr * g\n"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("OPTDSL_CACHE_DIR", str(place))
    return place


def never() -> str:
    raise AssertionError("it was noted")


def test_a_note_is_made_once(directory: Path) -> None:
    assert noted("kind", ["a"], lambda: "text") == "text"
    assert noted("kind", ["a"], never) == "text"
    assert noted("kind", ["b"], lambda: "other") == "other"
    assert noted("another kind", ["a"], lambda: "third") == "third"
    assert not [p for p in (directory / "notes").iterdir() if p.suffix != ".json"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"text": "wrong", "sha256": "0"}', "\udcff"])
def test_a_damaged_note_is_made_again(directory: Path, damage: str) -> None:
    noted("kind", ["a"], lambda: "text")
    (note,) = (directory / "notes").iterdir()
    note.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert noted("kind", ["a"], lambda: "again") == "again"
    assert noted("kind", ["a"], never) == "again"


def test_without_a_directory_nothing_is_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPTDSL_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert noted("kind", ["a"], lambda: "one") == "one"
    assert noted("kind", ["a"], lambda: "two") == "two"


def test_what_fails_is_not_noted() -> None:
    for _ in range(2):
        with pytest.raises(optdsl.SpecError, match="unknown name"):
            optdsl.compile(TEXT.replace("* g", "* h"))


def test_programs_and_plans_come_back_as_they_were() -> None:
    for name in library.list_specs():
        program = derive(library.open_source(name))
        assert parse_program(print_program(program)) == program
        for plan in plans(program, rounded=True):
            assert parse_plan(print_plan(plan)) == plan


def in_another_process(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    return run.stdout.strip()


def test_a_rule_beside_a_file_that_changes_is_seen(tmp_path: Path) -> None:
    """The note of a blend depends on the files of its members."""
    (tmp_path / "mine.opt").write_text(TEXT.replace("A", "Mine"))
    (tmp_path / "both.opt").write_text(
        "blend Both\nuse Mine, SGD\nshare lr\nhyper lr = 0.1 in [0, inf)\nhyper w = 0.5 in [0, 1]\n"
        "theta' = w * Mine.theta' + (1 - w) * SGD.theta'\n"
    )
    code = (
        "import optdsl, torch\n"
        f"cls = optdsl.load({str(tmp_path / 'both.opt')!r}, backend='eager')\n"
        "p = torch.ones(1, dtype=torch.float64, requires_grad=True); p.grad = torch.ones_like(p)\n"
        "cls([p], lr=0.25, w=1.0).step(); print(p.item())"
    )
    assert in_another_process(code) == in_another_process(code) == "0.75"
    (tmp_path / "mine.opt").write_text(TEXT.replace("A", "Mine").replace("* g", "* 2 * g"))
    assert in_another_process(code) == "0.5"


@pytest.mark.parametrize("learn", ["True", "['c']", "{'c': optdsl.Learn('sgd', lr=0.1)}"])
def test_a_warm_start_parses_nothing(directory: Path, learn: str) -> None:
    code = (
        "import optdsl, torch, lark\n"
        "calls = []\n"
        "parse = lark.Lark.parse\n"
        "lark.Lark.parse = lambda self, *a, **k: (calls.append(1), parse(self, *a, **k))[1]\n"
        "p = torch.ones(1, requires_grad=True); p.grad = torch.ones(1)\n"
        f"optdsl.load('mada', backend='eager', learn={learn})([p]).step(); print(len(calls))"
    )
    cold, warm = in_another_process(code), in_another_process(code)
    assert int(cold) > 0
    assert int(warm) == 0
    for note in (directory / "notes").iterdir():
        assert set(json.loads(note.read_text())) == {"text", "sha256"}
