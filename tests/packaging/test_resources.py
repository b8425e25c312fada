"""The texts that travel with the package, read from this checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

from optdsl import resources

ROOT = Path(__file__).resolve().parents[2]


def test_grammar_and_prelude_are_the_files_of_the_checkout() -> None:
    grammars = ROOT / "grammars"
    assert resources.grammar_text() == (grammars / "optdsl.lark").read_text(encoding="utf-8")
    assert resources.prelude_text() == (grammars / "prelude.opt").read_text(encoding="utf-8")


def test_specs_are_the_files_of_the_checkout() -> None:
    files = {path.stem: path for path in (ROOT / "specs").glob("*.opt")}
    assert files
    assert resources.spec_names() == tuple(sorted(files))
    for name, path in files.items():
        assert resources.spec_path(name).samefile(path)
        assert resources.spec_text(name) == path.read_text(encoding="utf-8")
    modifiers = {path.stem: path for path in (ROOT / "specs" / "modifiers").glob("*.opt")}
    texts = {name: path.read_text(encoding="utf-8") for name, path in (files | modifiers).items()}
    assert resources.spec_texts() == texts


def test_names_are_words_that_a_command_line_takes_as_they_are() -> None:
    for name in resources.spec_names():
        assert name.isidentifier()
        assert name == name.lower()


def test_only_spec_files_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    for file in ("b.opt", "a.opt", ".hidden.opt", "a.opt~", "notes.md"):
        (specs / file).write_text("")
    (specs / ".#a.opt").symlink_to("nowhere")
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "optdsl")
    assert resources.spec_names() == ("a", "b")


def test_the_copies_inside_the_package_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory, text in (("optdsl/_specs", "inside"), ("specs", "outside")):
        (tmp_path / directory).mkdir(parents=True)
        (tmp_path / directory / "rule.opt").write_text(text)
    monkeypatch.setattr(resources, "PACKAGE", tmp_path / "optdsl")
    assert resources.spec_text("rule") == "inside"


@pytest.mark.parametrize(
    "name", ["", "no_such_rule", "../grammars/prelude", "/etc/passwd", ".", "a\0b", "adam.opt"]
)
@pytest.mark.parametrize("function", [resources.spec_path, resources.spec_text])
def test_unknown_name(function: object, name: str) -> None:
    assert callable(function)
    with pytest.raises(resources.UnknownSpecError) as caught:
        function(name)
    assert isinstance(caught.value, LookupError)
    assert caught.value.name == name
    assert caught.value.known == resources.spec_names()
    assert repr(name) in str(caught.value)


def test_an_unknown_name_comes_with_a_hint() -> None:
    known = ("adam", "lion")
    assert "`adam`" in str(resources.UnknownSpecError("adma", known))
    assert "adam, lion" in str(resources.UnknownSpecError("xyz", known))


def test_reading_them_loads_neither_torch_nor_the_parser() -> None:
    program = (
        "import sys; from optdsl import resources; resources.prelude_text();"
        "print(sorted({'torch', 'lark'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
