"""Parsing and formatting are inverse, on the library and on trees drawn at random."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from optdsl import resources
from optdsl.diagnostics import Report, Source, Span, SpecError
from optdsl.ir.program import Program
from optdsl.specifications import library
from optdsl.syntax import ast, tables
from optdsl.syntax.build import latin
from optdsl.syntax.format import format
from optdsl.syntax.layout import cut
from optdsl.syntax.parse import parse, parse_partial

NOWHERE = Span(Source("", ""), 0, 0)
KEYWORDS = {
    "optimizer", "hyper", "state", "def", "learn", "in", "by", "after", "blend", "use", "as",
    "share", "among", "on", "simplex", "exponentiated", "recovers", "misses", "at",
    "per", "of", "with", "for", "otherwise", "over", "input", "modifier", "random", "store",
}  # fmt: skip


def read(text: str) -> ast.Declaration:
    return parse(Source("t.opt", text))


@pytest.mark.parametrize("name", library.list_specs())
def test_library_is_in_the_canonical_layout(name: str) -> None:
    source = library.open_source(name)
    assert format(parse(source)) == source.text


words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True).filter(
    lambda w: w not in KEYWORDS
)
identifiers = words.map(lambda w: ast.Identifier(w, NOWHERE))
numbers = st.one_of(
    st.floats(0, 1e300, allow_nan=False).map(repr),
    st.integers(0, 10**9).map(str),
    st.sampled_from(["1e-8", ".5", "2.", "0.90"]),
).map(lambda text: ast.Number(float(text), text, NOWHERE))
leaves = st.one_of(
    numbers,
    st.builds(
        lambda n, p, o: ast.Name(n, p, NOWHERE, o), words, st.booleans(), st.just("") | words
    ),
)
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda x: ast.Negate(x, NOWHERE), inner),
        st.builds(
            lambda o, x, y: ast.Binary(o, x, y, NOWHERE), st.sampled_from("+-*/^"), inner, inner
        ),
        st.builds(
            lambda f, a: ast.Call(f, tuple(a), NOWHERE), identifiers, st.lists(inner, max_size=3)
        ),
    ),
    max_leaves=12,
)
compared = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
comparisons = st.one_of(
    expressions,
    st.builds(lambda o, x, y: ast.Binary(o, x, y, NOWHERE), compared, expressions, expressions),
    st.builds(
        lambda o, p, x, y, z: ast.Chain(o, p, x, y, z, NOWHERE),
        compared,
        compared,
        expressions,
        expressions,
        expressions,
    ),
)
comments = st.text("abc 'é#\"", max_size=8).map(lambda c: ("# " + c).rstrip())
trivia = st.builds(
    ast.Trivia, st.booleans(), st.lists(comments, max_size=2).map(tuple), st.just("") | comments
)
intervals = st.builds(
    lambda a, b, x, y: ast.Interval(a, b, x, y, NOWHERE),
    expressions,
    expressions,
    st.booleans(),
    st.booleans(),
)
choices = st.lists(expressions, min_size=1, max_size=3).map(lambda v: ast.Choice(tuple(v), NOWHERE))
typed = st.none() | identifiers
parameters = st.builds(ast.Parameter, identifiers, typed)
several = st.lists(identifiers, min_size=1, max_size=3).map(tuple)
dotted = st.builds(lambda a, b: ast.Identifier(f"{a}.{b}", NOWHERE), words, words)
learnable = st.lists(identifiers | dotted, min_size=1, max_size=3).map(tuple)
options = st.lists(st.builds(ast.Option, identifiers, comparisons), max_size=2).map(tuple)
settings = st.lists(st.builds(ast.Option, identifiers | dotted, comparisons), max_size=2).map(tuple)
members = st.builds(ast.Member, identifiers, st.none() | identifiers)
statements = st.one_of(
    st.builds(
        lambda n, d, i, t: ast.Hyper(n, d, i, span=NOWHERE, trivia=t),
        identifiers,
        comparisons,
        st.none() | intervals | choices,
        trivia,
    ),
    st.builds(
        lambda n, k, x, t: ast.State(n, k, x, span=NOWHERE, trivia=t),
        identifiers,
        typed,
        comparisons,
        trivia,
    ),
    st.builds(
        lambda n, p, x, t: ast.Function(n, tuple(p), x, span=NOWHERE, trivia=t),
        identifiers,
        st.lists(parameters, min_size=1, max_size=3),
        comparisons,
        trivia,
    ),
    st.builds(
        lambda n, p, x, t: ast.Equation(n, p, x, span=NOWHERE, trivia=t),
        identifiers,
        st.booleans(),
        comparisons,
        trivia,
    ),
    st.builds(
        lambda n, s, x, t: ast.Weights(n, tuple(s), x, span=NOWHERE, trivia=t),
        identifiers,
        st.lists(comparisons, min_size=1, max_size=3),
        several,
        trivia,
    ),
    st.builds(
        lambda o, n, x, t: ast.Binding(o, n, x, span=NOWHERE, trivia=t),
        identifiers,
        identifiers,
        comparisons,
        trivia,
    ),
    st.builds(
        lambda m, t: ast.Use(tuple(m), span=NOWHERE, trivia=t),
        st.lists(members, min_size=1, max_size=3),
        trivia,
    ),
    st.builds(
        lambda n, a, t: ast.Share(n, a, span=NOWHERE, trivia=t),
        several,
        st.just(()) | several,
        trivia,
    ),
    st.builds(
        lambda h, r, o, s, t: ast.Claim(h, r, o, s, span=NOWHERE, trivia=t),
        st.booleans(),
        identifiers,
        options,
        settings,
        trivia,
    ),
    st.builds(
        lambda n, b, e, r, o, a, t, u, s: ast.Learn(n, b, r, o, a, e, u, s, span=NOWHERE, trivia=t),
        learnable,
        st.none() | intervals,
        st.booleans(),
        identifiers,
        options,
        st.none() | numbers,
        trivia,
        st.none() | identifiers,
        st.none() | identifiers,
    ),
    st.builds(
        lambda n, k, d, c, t: ast.Random(n, k, d, c, span=NOWHERE, trivia=t),
        identifiers,
        typed,
        identifiers,
        st.none() | comparisons,
        trivia,
    ),
    st.builds(
        lambda n, c, t: ast.Store(n, c, span=NOWHERE, trivia=t), several, identifiers, trivia
    ),
    st.builds(lambda n, t: ast.LearnAfter(n, span=NOWHERE, trivia=t), numbers, trivia),
)
declarations = st.builds(
    lambda n, d, s, t, c, b: ast.Declaration(
        n, tuple(d), tuple(s), tuple(c), b, span=NOWHERE, trivia=t
    ),
    identifiers,
    st.lists(st.text("abc é.#()'", max_size=9), max_size=2),
    st.lists(statements, max_size=6),
    trivia,
    st.lists(comments, max_size=2),
    st.booleans(),
)


@given(declarations)
def test_formatting_then_parsing_gives_the_same_tree(tree: ast.Declaration) -> None:
    text = format(tree)
    assert read(text) == tree
    assert format(read(text)) == text


@given(
    st.text(
        "ab=+-*/^()[]{},:'\"#.<>!012 \n\tβθinhyper learn state def use share recovers at on",
        max_size=80,
    )
)
def test_any_text_parses_or_is_reported_never_crashes(text: str) -> None:
    report = Report()
    parsed = parse_partial(Source("t.opt", "optimizer A\n" + text), report)
    # An indented first line continues the header, and may break it.
    assert parsed.declaration is not None or mistakes(report)


def mistakes(report: Report) -> str:
    with pytest.raises(SpecError) as caught:
        report.check()
    return str(caught.value)


def test_precedence_and_associativity() -> None:
    tree = read("optimizer A\nx = -a^2 - b - c * d^-e^f").statements[0]
    same = read("optimizer A\nx = ((-(a^2)) - b) - (c * (d^(-(e^f))))").statements[0]
    other = read("optimizer A\nx = -a^2 - (b - c * d^-e^f)").statements[0]
    assert tree == same != other


def test_greek_letters_are_spellings() -> None:
    greek = read("optimizer A\nhyper β1 = 0.9\nθ' = θ - η * g / (√v + ε)".replace("√v", "v"))
    plain = read("optimizer A\nhyper beta1 = 0.9\ntheta' = theta - eta * g / (v + eps)")
    assert greek == plain
    assert [latin(c) for c in ("ρ", "λ2", "Σ", "ϵ", "ϑ", "ϕ", "ς")] == [
        "rho", "lambda2", "Sigma", "eps", "theta", "phi", "sigma",
    ]  # fmt: skip


def test_an_indented_text_and_an_indented_continuation() -> None:
    indented = '\n    optimizer A\n      "a"\n    x = g\n      + theta  # why\n'
    tree = read(indented)
    assert tree == read('optimizer A\n  "a"\nx = g + theta  # why\n')
    assert tree.statements[0].trivia.trailing == "# why"


def test_comments_are_kept_where_they_belong() -> None:
    text = "# top\noptimizer A  # name\n\n# above\nx = g\n  # inside\n  + theta\n\n# end\n"
    tree = read(text)
    assert tree.trivia == ast.Trivia(leading=("# top",), trailing="# name")
    assert tree.statements[0].trivia.leading == ("# above", "# inside")
    assert tree.closing == ("# end",)


def test_windows_line_ends_mean_the_same() -> None:
    source = library.open_source("adam")
    assert read(source.text.replace("\n", "\r\n")) == parse(source)


def test_spans_take_no_part_in_equality() -> None:
    def program(text: str) -> Program:
        return library.read(Source("t.opt", text))

    text = library.open_source("adam").text
    moved = "# a comment\n" + text.replace("h^2", "( h ^ 2 )")
    assert program(moved) == program(text)
    assert program(text.replace("h^2", "h^3")) != program(text)
    assert replace(program(text), name="B") != program(text)


def test_the_stored_parse_tables_are_those_of_the_grammar() -> None:
    stored = json.loads(resources.parse_tables_path().read_text(encoding="utf-8"))
    if stored["lark"] == version("lark"):
        assert tables.up_to_date(), "run `make stubs`"
    made = tables.made(resources.grammar_text())
    for name in (*resources.spec_names(), *resources.modifier_names()):
        source = Source(name, resources.spec_text(name))
        for number, line in enumerate(cut(source, Report()).lines):
            text, start = source.text[line.start : line.end], "statement" if number else "header"
            assert tables.parser().parse(text, start=start) == made.parse(text, start=start)


def test_parse_tables_of_another_grammar_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "tables.json"
    monkeypatch.setattr(resources, "parse_tables_path", lambda: place)
    assert not tables.up_to_date()
    assert tables.write() == place
    assert tables.up_to_date()
    other = resources.grammar_text().replace('"sum"', '"total"') + "\n// another grammar\n"
    monkeypatch.setattr(resources, "grammar_text", lambda: other)
    assert not tables.up_to_date()
