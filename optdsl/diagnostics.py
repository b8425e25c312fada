"""Mistakes in a specification: where they are, what is wrong, what to do.

Everything that can be wrong with a text becomes a `Diagnostic`; a stage collects them in a
`Report` and raises one `SpecError` with all of them. What is only doubtful is a diagnostic of
another severity, a remark: it stops nothing, and is returned beside the result.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

MAX_DIAGNOSTICS = 100

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, eq=False)
class Source:
    """A text and the name under which diagnostics show it (a path, or ``<text>``).

    Attributes:
        name: the name.
        text: the text.
        directory: where the file lies; None for the library's and for texts without a file.
        rules: the specifications that the text refers to, by the names it has for them; None as
            long as nobody has looked them up.
    """

    name: str
    text: str = field(repr=False)
    directory: str | None = None
    rules: tuple[tuple[str, Source], ...] | None = field(default=None, repr=False)

    @property
    def loadable(self) -> str:
        """What `optdsl.load` takes for it."""
        return self.name if self.directory is not None else self.name.removesuffix(".opt")

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of a character offset."""
        before = self.text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1

    def line(self, number: int) -> str:
        """Line `number` (from 1) without its end; empty when there is no such line."""
        lines = self.text.split("\n")
        return lines[number - 1].rstrip("\r") if number <= len(lines) else ""


@dataclass(frozen=True)
class Span:
    """The half-open range of characters [start, end) of a source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        """The characters of the span."""
        return self.source.text[self.start : self.end]


@dataclass(frozen=True)
class Note:
    """A second place, or a remark, that explains a diagnostic."""

    message: str
    span: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """One mistake or remark: a stable `code`, the smallest `span` at fault, words, a way out.

    Only a `severity` of "error" makes a specification wrong.
    """

    code: str
    message: str
    span: Span
    label: str = ""
    notes: tuple[Note, ...] = ()
    hint: str = ""
    severity: Severity = "error"


class SpecWarning(UserWarning):
    """What `optdsl.load` and its siblings say of a specification that is doubtful, not wrong."""


class SpecError(ValueError):
    """A specification is wrong; `diagnostics` holds the mistakes in source order.

    Of more than `MAX_DIAGNOSTICS`, the first ones found.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(render(d) for d in self.diagnostics))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Diagnostic, ...]]]:
        return type(self), (self.diagnostics,)


class Report:
    """Collects the diagnostics of a stage."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Diagnostic] = {}
        self._remarks: dict[tuple[object, ...], Diagnostic] = {}
        self._adopted: list[Diagnostic] = []

    @property
    def remarks(self) -> tuple[Diagnostic, ...]:
        """Warnings and notes so far, in source order."""
        return tuple(_ordered(self._remarks.values()))

    @property
    def empty(self) -> bool:
        """Whether no mistake was found so far."""
        return not self._found and not self._adopted

    @property
    def count(self) -> int:
        """How many mistakes were found so far."""
        return len(self._found) + len(self._adopted)

    @property
    def full(self) -> bool:
        """Whether there are so many mistakes that no further one is kept."""
        return len(self._found) >= MAX_DIAGNOSTICS

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        *,
        label: str = "",
        notes: Iterable[Note] = (),
        hint: str = "",
    ) -> None:
        """Add a mistake; the same one at the same place is kept once."""
        key = (code, span.start, span.end, message)
        if not self.full and key not in self._found:
            self._found[key] = Diagnostic(code, message, span, label, tuple(notes), hint)

    def adopt(self, error: SpecError) -> None:
        """Add the mistakes of another text, without which this one cannot be."""
        self._adopted += error.diagnostics

    def remark(
        self,
        severity: Severity,
        code: str,
        message: str,
        span: Span,
        *,
        label: str = "",
        notes: Iterable[Note] = (),
        hint: str = "",
    ) -> None:
        """Add a warning or a note, which `check` does not raise; the same one is kept once."""
        key = (code, span.start, span.end, message)
        if len(self._remarks) < MAX_DIAGNOSTICS and key not in self._remarks:
            found = Diagnostic(code, message, span, label, tuple(notes), hint, severity)
            self._remarks[key] = found

    def include(self, other: Report) -> None:
        """Add the mistakes and remarks of another report."""
        for key, found in other._found.items():
            if not self.full:
                self._found.setdefault(key, found)
        self._remarks |= {k: d for k, d in other._remarks.items() if k not in self._remarks}

    def check(self) -> None:
        """Raise `SpecError` with all mistakes so far, in source order, when there are any."""
        if not self.empty:
            raise SpecError([*self._adopted, *_ordered(self._found.values())])


def _ordered(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    return sorted(found, key=lambda d: (d.span.start, d.span.end))


def nearest(name: str, known: Iterable[str]) -> str:
    """The words ``did you mean `x`?`` for the known name most like `name`, or nothing.

    Case counts only where something is like the name as it is written.
    """
    known = sorted(known)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not matches:
        folded = {k.lower(): k for k in known}
        close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
        matches = [folded[found] for found in close]
    return f"did you mean `{matches[0]}`?" if matches else ""


def _width(text: str) -> int:
    """Terminal columns that `text` takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


# A longer source line is shown in part, around the mistake.
_LONG = 100


def _excerpt(span: Span, mark: str, label: str, gutter: int) -> list[str]:
    """The source line of a span, with the span underlined by `mark`."""
    number, column = span.source.position(span.start)
    # What is shown must not steer the terminal.
    shown = span.source.line(number).replace("\t", " ")
    line = "".join(c if c.isprintable() else "�" for c in shown)
    if len(line) > _LONG:
        cut = max(0, min(column - 1 - _LONG // 2, len(line) - _LONG))
        column -= cut - (1 if cut else 0)
        more = "…" if cut + _LONG < len(line) else ""
        line = ("…" if cut else "") + line[cut : cut + _LONG] + more
    inside = line[column - 1 : column - 1 + max(span.end - span.start, 1)]
    underline = " " * _width(line[: column - 1]) + mark * max(_width(inside), 1)
    return [
        f"{number:>{gutter}} | {line}".rstrip(),
        f"{'':>{gutter}} | {underline} {label}".rstrip(),
    ]


def render(diagnostic: Diagnostic) -> str:
    """A diagnostic as plain text: place, message, the marked source line, notes, hint."""
    spans = [diagnostic.span, *(n.span for n in diagnostic.notes if n.span)]
    gutter = max(len(str(s.source.position(s.start)[0])) for s in spans)
    line, column = diagnostic.span.source.position(diagnostic.span.start)
    place = f"{diagnostic.span.source.name}:{line}:{column}"
    out = [f"{place}: {diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"]
    out += _excerpt(diagnostic.span, "^", diagnostic.label, gutter)
    for note in diagnostic.notes:
        if note.span is None:
            first, *rest = note.message.split("\n")
            out.append(f"{'':>{gutter}} = note: {first}")
            out += [f"{'':>{gutter}}   {line}".rstrip() for line in rest]
        else:
            number, start = note.span.source.position(note.span.start)
            where = f"{note.span.source.name}:{number}:{start}"
            out.append(f"{'':>{gutter}} = note: {note.message} ({where})")
            out += _excerpt(note.span, "-", "", gutter)
    if diagnostic.hint:
        out.append(f"{'':>{gutter}} = hint: {diagnostic.hint}")
    return "\n".join(out)
