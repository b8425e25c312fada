"""The layout rule: which physical lines make one statement.

A statement starts in the column of the file's first statement, and the lines below it that are
indented more continue it. Cutting the text this way before parsing means that one broken
statement never hides the mistakes in the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from optdsl.diagnostics import Report, Source, Span

MAX_CHARACTERS = 100_000
MAX_STATEMENTS = 1_000

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_LINE = re.compile(r"[^\n]*(\n|\Z)")


@dataclass(frozen=True)
class LogicalLine:
    """The characters [start, end) of one statement, and the comment lines above it."""

    start: int
    end: int
    blank_before: bool
    leading: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A text cut into statements, and the comments after the last one."""

    lines: tuple[LogicalLine, ...]
    closing: tuple[str, ...]


def cut(source: Source, report: Report) -> Layout:
    """Cut `source` into logical lines; a text that exceeds a limit is reported and not cut."""
    text = source.text
    if len(text) > MAX_CHARACTERS:
        _too_large(f"{len(text):,} characters", MAX_CHARACTERS, Span(source, 0, 1), report)
        return Layout((), ())
    broken = _SURROGATE.search(text)
    if broken:
        span = Span(source, broken.start(), broken.end())
        message = "the text is not valid Unicode"
        report.error("syntax", message, span, label="half of a surrogate pair")
        return Layout((), ())
    lines: list[LogicalLine] = []
    comments: list[str] = []
    blank = False
    base: int | None = None
    for match in _LINE.finditer(text):
        content = match.group().rstrip()
        stripped = content.lstrip()
        indent = len(content) - len(stripped)
        if not stripped:
            blank = True
        elif stripped.startswith("#"):
            comments.append(stripped)
        elif base is not None and indent > base and lines:
            # The comments before this line belong to the statement, whose lexer finds them.
            comments, blank = [], False
            first = lines[-1]
            lines[-1] = LogicalLine(
                first.start, match.start() + len(content), first.blank_before, first.leading
            )
        else:
            base = indent if base is None else base
            start, end = match.start() + indent, match.start() + len(content)
            lines.append(LogicalLine(start, end, blank, tuple(comments)))
            comments, blank = [], False
    if len(lines) > MAX_STATEMENTS:
        extra = lines[MAX_STATEMENTS]
        span = Span(source, extra.start, extra.end)
        _too_large(f"{len(lines):,} statements", MAX_STATEMENTS, span, report)
        return Layout((), ())
    return Layout(tuple(lines), tuple(comments))


def _too_large(size: str, limit: int, span: Span, report: Report) -> None:
    report.error(
        "too-large",
        f"the file has {size}",
        span,
        label=f"at most {limit:,} are read",
        hint="a specification holds one rule; is this the right file?",
    )
