"""Specifications of directories and packages: found by name, told apart, and never stale."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import optdsl
from optdsl.cli import main
from optdsl.diagnostics import SpecError
from optdsl.specifications import search, sources

RULE = """optimizer {name}
hyper lr = {lr} in [0, inf)
update = g
theta' = theta - lr * update
"""
HALF = "modifier Half of update\nupdate = 0.5 * base.update\n"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path) -> Path:
    """A rule and a modifier; no entry of the cache is of this directory."""
    return filled(tmp_path / "rules")


def filled(place: Path, lr: float = 0.5) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / "downhill.opt").write_text(RULE.format(name="Downhill", lr=lr))
    (place / "half.opt").write_text(HALF)
    return place


def packaged(site: Path, name: str = "far", value: str | None = None) -> Path:
    """An installed package with the rules; its module must not be imported."""
    inside = filled(site / name / "specs", lr=0.25)
    (site / name / "__init__.py").write_text("raise SystemExit('imported')\n")
    metadata = site / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = f"[{search.GROUP}]\n{name} = {value or f'{name}.specs'}\n"
    (metadata / "entry_points.txt").write_text(points)
    return inside


def step(cls: Any) -> float:
    """How far a step goes down a slope of one."""
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = cls([p])
    p.grad = torch.ones_like(p)
    optimizer.step()
    return -p[0].item()


def test_a_directory_is_given_listed_or_of_a_package(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(optdsl.UnknownSpecError, match="downhill"):
        optdsl.load("downhill")
    assert step(optdsl.load("downhill", path=directory)) == 0.5
    with pytest.raises(optdsl.UnknownSpecError):
        optdsl.load("downhill")  # the directory was given to one call
    monkeypatch.setenv("OPTDSL_PATH", f":{directory}:")
    assert step(optdsl.load("Down_Hill")) == 0.5
    monkeypatch.delenv("OPTDSL_PATH")
    packaged(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert step(optdsl.load("downhill")) == 0.25
    assert "far" not in sys.modules


def test_they_are_used_as_the_librarys_own(directory: Path, tmp_path: Path) -> None:
    def load(name: str) -> Any:
        return optdsl.load(name, path=[str(directory)], backend="eager")

    assert step(load("downhill with half")) == 0.25
    plain = step(optdsl.load("adam", backend="eager"))
    assert step(load("adam with half")) == pytest.approx(plain / 2)
    mixed = "blend Both\nuse Downhill, Adam\nhyper c = 1 in [0, 1]\n"
    mixed += "theta' = c * Downhill.theta' + (1 - c) * Adam.theta'\nrecovers Downhill at c = 1\n"
    assert step(optdsl.compile(mixed, path=directory, backend="eager")) == 0.5
    member = "use (SGD with half) as A, Downhill as B\n"
    member += "theta' = 0.5 * A.theta' + 0.5 * B.theta'\n"
    assert optdsl.compile("blend Third\n" + member, path=directory).__name__ == "Third"
    assert [*optdsl.blend("downhill", "adam", path=directory)([torch.zeros(1)]).defaults]
    learns = RULE.format(name="Learns", lr=0.1) + "learn lr in [0, 9] by Downhill(lr = 0.01)\n"
    (tmp_path / "learns.opt").write_text(learns)
    learned = load(str(tmp_path / "learns.opt"))
    how = {"lr": optdsl.Learn("downhill", lr=0.01, bounds=(0, 9))}
    wished = optdsl.load("sgd", learn=how, path=directory, backend="eager")
    for cls in (learned, wished):
        p = torch.nn.Parameter(torch.zeros(1))
        optimizer = cls([p], lr=0.1)
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
        assert optimizer.param_groups[0]["lr"] > 0.1
    with pytest.raises(optdsl.OptionError, match="no rule is called 'downhill'"):
        optdsl.load("sgd", learn=how)
    assert "class Downhill" in optdsl.eject("downhill", path=directory)


def test_a_clash_names_both_files(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = filled(tmp_path / "other")
    both = rf"{directory}/downhill.opt \(path\) and {other}/downhill.opt \(OPTDSL_PATH\)"
    monkeypatch.setenv("OPTDSL_PATH", str(other))
    with pytest.raises(optdsl.SpecClashError, match=both) as caught:
        optdsl.load("downhill", path=directory)
    assert pickle.loads(pickle.dumps(caught.value)).places == caught.value.places
    with pytest.raises(
        SpecError, match=r"may be any of several specifications\n.*\n.*downhill.opt"
    ):
        optdsl.load("downhill with half", path=directory)
    # One file that is found twice is one, and a file beside another is nearer than all others.
    assert step(
        optdsl.load(
            "downhill", path=[other, str(tmp_path / "rules" / ".." / "other")], backend="eager"
        )
    )
    (directory / "near.opt").write_text("optimizer Near = downhill with half\n")
    assert step(optdsl.load(directory / "near.opt", backend="eager")) == 0.25
    # A rule of the library is not replaced, and the library's own blends stay what they are.
    shutil.copy(directory / "downhill.opt", other / "adam.opt")
    monkeypatch.delenv("OPTDSL_PATH")
    with pytest.raises(optdsl.SpecClashError, match=r"adam.opt \(path\) and the library"):
        optdsl.load("Adam", path=other)
    with pytest.raises(SpecError, match=r"adam.opt \(path\) and the library"):
        optdsl.load("adam with half", path=other)
    assert optdsl.load("adam_avgrad", path=other) is optdsl.load("adam_avgrad")


def test_what_is_kept_is_that_of_the_same_files(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = filled(tmp_path / "other", lr=0.125)
    for _ in range(2):
        assert step(optdsl.load("downhill with half", path=directory, backend="eager")) == 0.25
        assert step(optdsl.load("downhill with half", path=other, backend="eager")) == 0.0625
    filled(other, lr=2.0)
    assert step(optdsl.load("downhill with half", path=other, backend="eager")) == 1.0
    # A class is found again without the directory.
    again = pickle.loads(
        pickle.dumps(optdsl.load("downhill", path=other, backend="eager")([torch.zeros(3)]))
    )
    assert again.param_groups[0]["lr"] == 2.0
    inside = packaged(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    text = "optimizer Mine = downhill with half\n"
    assert step(optdsl.compile(text, backend="eager")) == 0.125
    filled(inside, lr=3.0)
    assert step(optdsl.compile(text, backend="eager")) == 1.5
    packaged(tmp_path / "site", "farther")
    with pytest.raises(SpecError, match=r"package far\) and .*package farther\)"):
        optdsl.compile(text)


def test_directories_and_packages_that_are_broken_stop_no_others(
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    packaged(tmp_path / "site", "gone", "gone.rules")
    packaged(tmp_path / "site", "absent", "nowhere")
    packaged(tmp_path / "site", "strange", "strange:specs")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    missing = tmp_path / "missing"
    monkeypatch.setenv("OPTDSL_PATH", f"{missing}:{directory}")
    (directory / "adam.opt").write_text(RULE.format(name="Adam", lr=1))
    (directory / "wrong.opt").write_text("optimizer Wrong\ntheta' = theta - nothing\n")
    (directory / "no_text.opt").write_bytes(b"\xff")
    circle = "optimizer {} = {} with half\n"
    (directory / "circle.opt").write_text(circle.format("Circle", "circle_too"))
    (directory / "circle_too.opt").write_text(circle.format("CircleToo", "circle"))
    monkeypatch.setattr("optdsl.report.library.rows", lambda: ())
    assert main(["list", "--json"]) == 1
    out, err = capsys.readouterr()
    found = [(row["name"], row["kind"], row["origin"], row["file"]) for row in json.loads(out)]
    assert found == [
        ("downhill", "elementwise", "OPTDSL_PATH", str(directory / "downhill.opt")),
        ("half", "modifier", "OPTDSL_PATH", str(directory / "half.opt")),
    ]
    for part in (
        f"OPTDSL_PATH: cannot read {missing}: No such file or directory",
        "package gone: the entry point gone = gone.rules: there is no directory",
        "package absent: the entry point absent = nowhere: there is no package nowhere",
        "package strange: the entry point strange = strange:specs: it must be the name",
        f"several specs are named 'adam': {directory}/adam.opt (OPTDSL_PATH) and the library",
        "wrong.opt:2:18: unknown name `nothing`",
        "no_text.opt is not UTF-8 text (byte 0)",
        "`circle_too` is made of itself",
    ):
        assert part in err
    with pytest.raises(optdsl.UnknownSpecError, match=r"missing.*there is no package"):
        optdsl.load("downhil")
    with pytest.raises(optdsl.OptionError, match="missing is no directory of specifications"):
        optdsl.load("adam", path=missing)
    assert main(["show", "adam", "--path", str(missing)]) == 2


@pytest.mark.parametrize(
    "command", ["show {}", "eject {}", "verify {}", "blend {} adam", "check {file}"]
)
def test_commands_take_directories(
    command: str, directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.opt"
    file.write_text("optimizer Mine = downhill with half\n")
    words = command.format("downhill", file=file).split()
    assert main([*words, "--path", str(directory)]) == 0
    assert main(words) in {1, 2}
    assert "downhill" in capsys.readouterr().err


def test_a_blend_is_written_where_its_rules_are_found(directory: Path, tmp_path: Path) -> None:
    output = tmp_path / "mixed.opt"
    words = ["blend", "downhill", "adam", "--path", str(directory), "-o", str(output)]
    assert main(words) == 0
    assert main(["check", str(output), "--path", str(directory)]) == 0
    # A path names a file that the blend would not find by itself.
    words[1], words[3:5] = str(directory / "downhill.opt"), []
    assert main([*words, "--force"]) == 2


def test_the_library_is_found_without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> None:
        raise AssertionError("packages were looked at")

    monkeypatch.setattr(search, "_entry_points", never)
    for name in ("adamw", "mada", "adamw(lr = 0.1) with cautious"):
        sources.surroundings(sources.open_source(name))
        optdsl.load(name)


@pytest.mark.parametrize("written", ["{}/downhill.opt with half", "{}/downhill.opt(lr = 0.25)"])
def test_a_file_takes_modifiers_and_options(written: str, directory: Path) -> None:
    """Both halve the step; the modifier is found beside the file."""
    text = written.format(directory)
    assert step(optdsl.load(text)) == 0.25
    scope: dict[str, Any] = {}
    exec(optdsl.eject(text), scope)
    made = [v for v in scope.values() if isinstance(v, type) and v.__name__.startswith("Downhill")]
    assert step(made[0]) == 0.25
    for command in ("check", "show", "verify"):
        assert main([command, text]) == 0


def test_a_file_in_the_current_directory_takes_modifiers(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    for text in ("downhill.opt with half", "./downhill.opt with half", "downhill.opt (lr = 0.25)"):
        assert step(optdsl.load(text)) == 0.25
    # What is read again is what the file says now.
    filled(directory, lr=1.0)
    assert step(optdsl.load("downhill.opt with half")) == 0.5
    # A file may be called like a combination.
    (directory / "downhill.opt with half").write_text(RULE.format(name="Other", lr=0.125))
    assert step(optdsl.load("./downhill.opt with half")) == 0.125


def test_mistakes_with_files_and_modifiers_say_what_to_write(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(directory)
    (directory / "my-rule.opt").write_text(RULE.format(name="Mine", lr=1))
    for text, part in (
        ("downhill with cautious", "for the file write downhill.opt"),
        ("adam with half", "give its directory"),
        ("my-rule.opt with half", "rename my-rule.opt"),
        ("adam with half.opt", "modifiers have names"),
        ("downhill.opt with half # why", "no comments"),
        ("downhill.opt with halv", "did you mean `half`"),
    ):
        with pytest.raises(ValueError, match=part):
            optdsl.load(text)
        assert main(["show", text]) in {1, 2}
        assert part in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"uphill\.opt"):
        optdsl.load("uphill.opt with half")
    assert main(["show", "uphill.opt with half"]) == 2
