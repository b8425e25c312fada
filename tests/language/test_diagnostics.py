"""Every diagnostic has a bad program beside its rendered text; an unpinned diagnostic rots.

After a deliberate change of words: ``OPTDSL_BLESS=1 pytest tests/language/test_diagnostics.py``,
then read the difference.
"""

import os
import pickle
import re
from pathlib import Path

import pytest

import optdsl
from optdsl.diagnostics import Diagnostic, Report, Source, Span, SpecError, render
from optdsl.ir.ops import FUNCTIONS
from optdsl.lower import foreign
from optdsl.specifications import library

BAD = Path(__file__).parent / "bad"
PROGRAMS = sorted(BAD.glob("*.opt"))
DOUBTFUL = sorted((BAD.parent / "doubtful").glob("*.opt"))


def errors(path: Path) -> SpecError:
    with pytest.raises(SpecError) as caught:
        library.read(Source(path.name, path.read_text()))
    return caught.value


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_rendered_text_is_pinned(path: Path) -> None:
    rendered = str(errors(path)) + "\n"
    golden = path.with_suffix(".txt")
    if os.environ.get("OPTDSL_BLESS"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda p: p.stem)
def test_spans_lie_in_the_file_and_are_small(path: Path) -> None:
    for diagnostic in errors(path).diagnostics:
        span = diagnostic.span
        assert span.source.name == path.name
        assert 0 <= span.start <= span.end <= len(span.source.text)
        assert "\n" not in span.text


@pytest.mark.parametrize("path", DOUBTFUL, ids=lambda p: p.stem)
def test_what_is_said_of_doubtful_programs_is_pinned(path: Path) -> None:
    found = library.specification(Source(path.name, path.read_text())).remarks
    assert all(d.severity != "error" for d in found)
    rendered = "\n\n".join(map(render, found)) + "\n"
    golden = path.with_suffix(".txt")
    if os.environ.get("OPTDSL_BLESS"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


@pytest.mark.parametrize("name", library.list_specs())
def test_nothing_is_said_of_the_library(name: str) -> None:
    assert library.specification(library.open_source(name)).remarks == ()


def test_every_code_has_a_bad_program() -> None:
    package = Path(optdsl.__file__).parent
    code = re.compile(r'(?:report\.error|Problem)\(\s*"([a-z-]+)"')
    used = {c for p in package.rglob("*.py") for c in code.findall(p.read_text())}
    pinned = {d.code for p in PROGRAMS for d in errors(p).diagnostics}
    assert used == pinned
    remark = re.compile(r'report\.remark\(\s*"[a-z]+",\s*"([a-z-]+)"')
    used = {c for p in package.rglob("*.py") for c in remark.findall(p.read_text())}
    doubtful = [library.specification(Source(p.name, p.read_text())) for p in DOUBTFUL]
    assert used == {d.code for specified in doubtful for d in specified.remarks}


def test_no_hint_replaces_a_function_that_there_is() -> None:
    assert foreign.HINTS.keys() & {*FUNCTIONS, *library.prelude()} == set()


def test_the_mistakes_that_people_make_are_covered() -> None:
    codes = {d.code for p in PROGRAMS for d in errors(p).diagnostics}
    assert codes >= {
        "syntax", "unknown-name", "duplicate", "cycle", "prime", "state-not-updated", "no-update",
        "type", "out-of-bounds", "empty-interval", "unknown-function", "arity", "too-deep",
        "too-large",
    }  # fmt: skip


def test_all_errors_of_a_file_come_at_once_in_order() -> None:
    found = errors(BAD / "several.opt").diagnostics
    assert [d.code for d in found] == ["syntax", "unknown-name", "unknown-name"]
    assert [d.span.start for d in found] == sorted(d.span.start for d in found)


def test_an_oversized_file_is_refused_before_parsing() -> None:
    text = "optimizer A\n" + "x = g\n" * 1200
    with pytest.raises(SpecError, match="too-large"):
        library.read(Source("a.opt", text))
    with pytest.raises(SpecError, match="too-large"):
        library.read(Source("a.opt", "# " + "x" * 100_001))


def test_wide_and_combining_characters_keep_the_marker_in_place() -> None:
    source = Source("a.opt", "x = 漢e\u0301 + y")
    start = source.text.index("y")
    text = render(Diagnostic("c", "m", Span(source, start, start + 1), "here"))
    _, line, marker = text.split("\n")
    # The ideograph takes two columns, the combining accent none: the sum is as without them.
    assert marker.index("^") == line.index("y")


def test_a_remark_is_rendered_with_its_severity_and_raises_nothing() -> None:
    source, report = Source("a.opt", "x y"), Report()
    report.remark("warning", "unused", "second", Span(source, 2, 3))
    report.remark("note", "tested", "first", Span(source, 0, 1), hint="try")
    report.remark("note", "tested", "first", Span(source, 0, 1), hint="try")
    report.check()
    assert report.empty
    first, second = report.remarks
    assert render(first) == "a.opt:1:1: note[tested]: first\n1 | x y\n  | ^\n  = hint: try"
    assert render(second).startswith("a.opt:1:3: warning[unused]: second\n")


def test_a_members_mistakes_do_not_hide_the_blends_own(tmp_path: Path) -> None:
    (tmp_path / "mine.opt").write_text("optimizer Mine\ntheta' = theta - lr * g\n")
    path = tmp_path / "pair.opt"
    path.write_text("blend Pair\nuse Mine, Lion\nhyper a = 1\ntheta' = a * Lion.thta'\n")
    with pytest.raises(SpecError) as caught:
        library.read(library.open_source(path))
    found = [(Path(d.span.source.name).name, d.message) for d in caught.value.diagnostics]
    assert found == [
        ("mine.opt", "unknown name `lr`"),
        ("pair.opt", "unknown name `Lion.thta'`"),
    ]


def test_errors_survive_pickling() -> None:
    error = errors(BAD / "arity.opt")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
