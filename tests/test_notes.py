"""What the compiler notes for later processes: the same meaning, and never a stale one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import optdsl
from optdsl import compiler
from optdsl.artifact import Target
from optdsl.classes import artifact, elaborate, optimizer_class
from optdsl.compiler import derive
from optdsl.ir.text import parse_program, print_program
from optdsl.plan import plans
from optdsl.plan.text import parse_plan, print_plan
from optdsl.runtime.build import artifact_cache as notes
from optdsl.runtime.build.artifact_cache import noted
from optdsl.specifications import library
from tests.processes import printed
from tests.runtime.compilers import real_compiler

TEXT = "optimizer A\nhyper lr = 0.1 in [0, inf)\ntheta' = theta - lr * g\n"


LEARNS = TEXT + "learn lr in [0, 1] by SGD(lr = 0.01)\n"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "cache"
    monkeypatch.setenv("OPTDSL_CACHE_DIR", str(place))
    return place


def plain(text: str) -> str:
    """What reads a note of any text."""
    return text


def never() -> str:
    raise AssertionError("it was noted")


def test_a_note_is_made_once(directory: Path) -> None:
    assert noted("kind", ["a"], lambda: "text", plain) == "text"
    assert noted("kind", ["a"], never, plain) == "text"
    assert noted("kind", ["b"], lambda: "other", plain) == "other"
    assert noted("another kind", ["a"], lambda: "third", plain) == "third"
    assert not [p for p in (directory / "notes").iterdir() if p.suffix != ".json"]


def test_a_note_by_a_compiler_that_has_changed_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts are imported when they are needed, which may be after files have changed."""
    own = tmp_path / "package" / "part.py"
    own.parent.mkdir()
    own.write_text("first")
    monkeypatch.setattr(notes, "PACKAGE", own.parent)
    monkeypatch.setattr(notes, "_COMPILER", notes._compiler())

    def newer() -> str:
        own.write_text("second")
        return "of the second"

    assert noted("kind", ["a"], newer, plain) == "of the second"
    own.write_text("first")
    assert noted("kind", ["a"], lambda: "of the first", plain) == "of the first"
    assert noted("kind", ["a"], never, plain) == "of the first"


def test_a_note_of_a_file_that_was_changed_meanwhile_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member is saved while a blend is compiled, and then set back to what it was."""
    member, blend = tmp_path / "mine.opt", tmp_path / "pair.opt"
    before = TEXT.replace("optimizer A", "optimizer Mine")
    member.write_text(before)
    blend.write_text(
        "blend Pair\nuse Mine, Lion\nhyper w = 0.5 in [0, 1]\n"
        "theta' = w * Mine.theta' + (1 - w) * Lion.theta'\n"
    )
    whole = compiler.elaborate

    def saved(*given: Any) -> Any:
        member.write_text(before.replace("lr * g", "2 * lr * g"))
        return whole(*given)

    monkeypatch.setattr(compiler, "elaborate", saved)
    assert "2 * lr" in str(optdsl.load(blend).compiled.recipe)
    monkeypatch.undo()
    monkeypatch.setenv("OPTDSL_CACHE_DIR", str(tmp_path / "cache"))
    member.write_text(before)
    assert "2 * lr" not in str(optdsl.load(blend).compiled.recipe)


DAMAGES = {
    "empty": "",
    "cut": "{",
    "a list": "[]",
    "another digest": '{"text": "wrong", "sha256": "0"}',
    "no UTF-8": "\udcff",
    "nested": "[" * 200_000,
    "nested and closed": "[" * 200_000 + "]" * 200_000,
    "a number for a text": '{"text": 7, "sha256": "0"}',
    "no finite number": '{"text": 1e999, "sha256": NaN}',
    "many digits": '{"text": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_note_is_made_again(directory: Path, damage: str) -> None:
    noted("kind", ["a"], lambda: "text", plain)
    (note,) = (directory / "notes").iterdir()
    note.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert noted("kind", ["a"], lambda: "again", plain) == "again"
    assert noted("kind", ["a"], never, plain) == "again"


@pytest.mark.parametrize("kind", ["pipe", "directory", "huge"])
def test_what_is_no_file_of_ours_is_not_read(directory: Path, kind: str) -> None:
    noted("kind", ["a"], lambda: "text", plain)
    (note,) = (directory / "notes").iterdir()
    note.unlink()
    if kind == "pipe":
        os.mkfifo(note)
    elif kind == "directory":
        note.mkdir()
    else:
        with note.open("wb") as file:
            file.truncate(1 << 40)
    assert noted("kind", ["a"], lambda: "again", plain) == "again"


def test_a_note_of_another_key_is_made_again(directory: Path) -> None:
    noted("kind", ["a"], lambda: "text", plain)
    (first,) = (directory / "notes").iterdir()
    noted("kind", ["b"], lambda: "other", plain)
    (second,) = set((directory / "notes").iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    assert noted("kind", ["b"], lambda: "again", plain) == "again"


def test_a_note_that_cannot_be_read_is_made_again(directory: Path) -> None:
    assert noted("kind", ["a"], lambda: "seven", plain) == "seven"
    assert noted("kind", ["a"], lambda: "7", int) == 7
    assert noted("kind", ["a"], never, int) == 7
    with pytest.raises(ValueError, match="eight"):
        noted("kind", ["c"], lambda: "eight", int)


def forged(note: Path, key: str, text: object) -> None:
    """Write a note whose digest is right."""
    digest = hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()
    note.write_text(json.dumps({"text": text, "sha256": digest}))


WRONG_TEXTS: dict[str, object] = {
    "no text": 7,
    "no program": "wrong",
    "nested": "[" * 200_000,
    "null": "null",
    "an empty list": "[]",
    "an empty object": "{}",
    "two nulls": "[null, null]",
    "no operation": "program A\n  theta : tensor to %0\n",
    "a value that comes later": "program A\n  %0 = neg %1 : tensor\n  theta : tensor to %0\n",
    "a module of numbers": '{"name": 1, "language": 2, "text": 3, "entries": {}}',
}


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_a_wrong_text_does_not_stop_a_rule_from_loading(
    directory: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "c" and real_compiler() is None:
        pytest.skip("there is no C compiler")
    # The digests are under keys that only the notes' writer knows.
    keys: dict[str, str] = {}
    digest = notes._digest

    def remembering(key: str, text: str) -> str:
        keys[key[:32]] = key
        return digest(key, text)

    monkeypatch.setattr(notes, "_digest", remembering)
    want = stepped(backend)
    for name, text in WRONG_TEXTS.items():
        for note in (directory / "notes").iterdir():
            forged(note, keys[note.stem], text)
        assert stepped(backend) == want, name


def stepped(backend: str) -> list[float]:
    """Parameters after two steps, of a class that is made anew."""
    optimizer_class.cache_clear()
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = optdsl.compile(LEARNS, backend=backend)([p])
    for _ in range(2):
        p.grad = p.detach().clone()
        optimizer.step()
    return p.tolist()


def test_without_a_directory_nothing_is_noted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OPTDSL_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert noted("kind", ["a"], lambda: "one", plain) == "one"
    assert noted("kind", ["a"], lambda: "two", plain) == "two"


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
    assert printed(code) == printed(code) == "0.75"
    (tmp_path / "mine.opt").write_text(TEXT.replace("A", "Mine").replace("* g", "* 2 * g"))
    assert printed(code) == "0.5"


def test_a_warm_start_parses_nothing(directory: Path) -> None:
    code = (
        "import optdsl, torch, lark\n"
        "calls = []\n"
        "parse = lark.Lark.parse\n"
        "lark.Lark.parse = lambda self, *a, **k: (calls.append(1), parse(self, *a, **k))[1]\n"
        "for learn in True, ['rho'], {'rho': optdsl.Learn('sgd', lr=0.1)}:\n"
        "    p = torch.ones(1, requires_grad=True); p.grad = torch.ones(1)\n"
        "    optdsl.load('adam_avgrad', backend='eager', learn=learn)([p]).step()\n"
        "print(len(calls))"
    )
    cold, warm = printed(code), printed(code)
    assert int(cold) > 0
    assert int(warm) == 0
    for note in (directory / "notes").iterdir():
        assert set(json.loads(note.read_text())) == {"text", "sha256"}


# What a warm start does without: what reads specifications, emits kernels and validates options.
_READING = "syntax lower blending modifying algebra prove differentiate selection compose"
_EMITTING = "compiler backends.eager backends.c"
_REST = "learn_option specifications.library specifications.references"
UNUSED = {f"optdsl.{name}" for name in f"{_READING} {_EMITTING} {_REST}".split()}


def test_a_warm_start_does_not_import_the_compiler() -> None:
    # Torch's constructor of optimizers imports for seconds, so the artifact is asked for here.
    code = (
        "import sys, optdsl\n"
        "from optdsl.artifact import Target\n"
        "from optdsl.classes import artifact, elaborate\n"
        "from optdsl.specifications.sources import open_source\n"
        "optdsl.load('mada')\n"
        "artifact(elaborate(open_source('mada')).program, Target('c'))\n"
        "print(*sys.modules)"
    )
    optdsl.load("mada")
    artifact(elaborate(library.open_source("mada")).program, Target("c"))
    fresh = [sys.executable, "-c", code]
    found = subprocess.run(fresh, capture_output=True, text=True, check=True).stdout.split()
    assert "optdsl.classes" in found
    assert {"lark", "pydantic", *UNUSED}.isdisjoint(found)
