"""Text to syntax tree. The grammar is ``grammars/optdsl.lark``; nothing else defines syntax."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

from lark import Token, Tree, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from optdsl.diagnostics import Report, Source, Span
from optdsl.syntax import ast
from optdsl.syntax.advice import advice
from optdsl.syntax.build import Builder, latin
from optdsl.syntax.expected import expectation
from optdsl.syntax.layout import LogicalLine, cut
from optdsl.syntax.tables import parser

MAX_NESTING = 64


@dataclass(frozen=True)
class Parsed:
    """The part of a text that could be parsed.

    Attributes:
        declaration: the tree without the statements that have syntax errors; its name is "_" if
            the header has an error. None if there is no statement at all.
        broken: all words of the statements with errors, which may be names that they define.
    """

    declaration: ast.Declaration | None
    broken: frozenset[str]


def parse(source: Source) -> ast.Declaration:
    """Parse a specification.

    Raises:
        SpecError: with every syntax error of the text.
    """
    report = Report()
    parsed = parse_partial(source, report)
    report.check()
    assert parsed.declaration is not None
    return parsed.declaration


def parse_partial(source: Source, report: Report) -> Parsed:
    """Parse a text, without the statements that have syntax errors, which are reported."""
    parsed, found = _parsed(source.name, source.text, source.directory)
    report.include(found)
    return parsed


# One text is parsed several times: by itself, for the files that it refers to, and as a member.
@functools.lru_cache(maxsize=64)
def _parsed(name: str, text: str, directory: str | None) -> tuple[Parsed, Report]:
    source, report = Source(name, text, directory), Report()
    layout = cut(source, report)
    if not layout.lines:
        if report.empty:
            report.error(
                "syntax",
                "the file holds no specification",
                Span(source, 0, 0),
                label="expected `optimizer NAME`",
                hint="a specification starts with `optimizer NAME` and a citation in quotes",
            )
        return Parsed(None, frozenset()), report
    broken: set[str] = set()
    nodes: list[ast.Declaration | ast.Statement] = []
    for index, line in enumerate(layout.lines):
        node = _parse_line(source, line, "statement" if index else "header", report)
        if node is None:
            broken |= {latin(w) for w in re.findall(r"\w+", source.text[line.start : line.end])}
        else:
            nodes.append(node)
    if not nodes:
        return Parsed(None, frozenset(broken)), report
    header, rest = _header(source, layout.lines[0], nodes)
    statements = tuple(s for s in rest if not isinstance(s, ast.Declaration))
    declaration = replace(header, statements=statements, closing=layout.closing)
    return Parsed(declaration, frozenset(broken)), report


def _header(
    source: Source, line: LogicalLine, nodes: list[ast.Declaration | ast.Statement]
) -> tuple[ast.Declaration, list[ast.Declaration | ast.Statement]]:
    """The header and the statements, with a placeholder for a header that has a syntax error."""
    if nodes and isinstance(nodes[0], ast.Declaration):
        return nodes[0], nodes[1:]
    first = source.text[line.start : line.end].partition("\n")[0]
    span = Span(source, line.start, line.start + len(first.rstrip()))
    blends = any(isinstance(node, ast.Use | ast.Share | ast.Binding) for node in nodes)
    return ast.Declaration(ast.Identifier("_", span), (), (), span=span, blend=blends), nodes


def parse_prelude(source: Source) -> tuple[ast.Function, ...]:
    """Parse a file of functions.

    Raises:
        SpecError: on a syntax error, or on a statement that is not a ``def``.
    """
    report = Report()
    functions: list[ast.Function] = []
    for line in cut(source, report).lines:
        node = _parse_line(source, line, "statement", report)
        if isinstance(node, ast.Function):
            functions.append(node)
        elif node is not None:
            report.error("syntax", "only functions may stand here", node.span)
    report.check()
    return tuple(functions)


def _parse_line(
    source: Source, line: LogicalLine, start: str, report: Report
) -> ast.Declaration | ast.Statement | None:
    text = source.text[line.start : line.end]
    try:
        tree = parser().parse(text, start=start)
    except UnexpectedInput as error:
        _report_syntax(source, line, text, error, start == "header", report)
        return None
    deep = _too_deep(tree)
    if deep is not None:
        report.error(
            "too-deep",
            f"expressions are nested more than {MAX_NESTING} deep",
            Span(source, line.start + deep[0], line.start + deep[1]),
            label="this part is too deep",
            hint="name a part of it in an equation of its own",
        )
        return None
    return Builder(source, line, _comments(text), report).build(tree)


def _comments(text: str) -> list[tuple[int, str]]:
    """The comments inside a statement, with their offsets in it."""
    if "#" not in text:
        return []
    tokens = parser().lex(text, dont_ignore=True)
    return [(t.start_pos or 0, str(t).rstrip()) for t in tokens if t.type == "COMMENT"]


def _report_syntax(
    source: Source,
    line: LogicalLine,
    text: str,
    error: UnexpectedInput,
    header: bool,
    report: Report,
) -> None:
    accepted: set[str] = set()
    if isinstance(error, UnexpectedToken):
        token = error.token
        accepted = set(error.accepts or error.expected)
        if token.type == "$END":
            start = end = token.end_pos or 0
            message = "the statement ends too early"
        else:
            start, end = token.start_pos or 0, token.end_pos or 0
            kind = "keyword " if token.type in KEYWORDS else ""
            message = f"unexpected {kind}`{token}`"
        label = expectation(accepted)
    else:
        assert isinstance(error, UnexpectedCharacters)
        start = error.pos_in_stream or 0
        end = start + 1
        message = f"the character `{text[start]}` has no meaning here"
        label = "not part of the language"
    report.error(
        "syntax",
        message,
        Span(source, line.start + start, line.start + end),
        label=label,
        hint=advice(text[start:end], text[:start], text[end:], accepted, header),
    )


# The terminals of reserved words.
KEYWORDS = {
    "OPTIMIZER", "BLEND", "HYPER", "STATE", "DEF", "LEARN", "IN", "BY", "AFTER", "USE", "AS",
    "MODIFIER", "OF", "WITH", "FOR", "OTHERWISE", "OVER", "INPUT", "RANDOM", "STORE", "AXIS",
    "PER", "SHARE", "AMONG", "ON", "SIMPLEX", "EXPONENTIATED", "RECOVERS", "MISSES", "AT",
    "SAMPLE",
}  # fmt: skip


def _too_deep(tree: Tree[Token]) -> tuple[int, int] | None:
    """The start and end of a subtree below the nesting limit; found without recursion."""
    level = [tree]
    for _ in range(MAX_NESTING):
        level = [child for node in level for child in node.children if isinstance(child, Tree)]
        if not level:
            return None
    return level[0].meta.start_pos, level[0].meta.end_pos
