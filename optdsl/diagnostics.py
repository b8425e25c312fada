"""Diagnostics: mistakes and doubtful places in a specification, with hints what to write instead.

A stage collects diagnostics in a `Report` and raises one `SpecError` with all errors. Warnings and
notes, together called remarks, raise nothing; they are returned with the result.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict, Unpack

MAX_DIAGNOSTICS = 100

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, eq=False)
class Source:
    """A text and the name under which diagnostics show it (a path, or ``<text>``).

    Attributes:
        name: the name.
        text: the text.
        directory: where the file lies; None for the library's and for texts without a file.
        rules: the specifications that the text refers to, by the names it uses for them; None
            before they are looked up.
    """

    name: str
    text: str = field(repr=False)
    directory: str | None = None
    rules: tuple[tuple[str, Source], ...] | None = field(default=None, repr=False)

    @property
    def loadable(self) -> str:
        """The argument with which `optdsl.load` opens this source."""
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

    @property
    def place(self) -> str:
        """Where it begins, as ``name:line:column``."""
        return "{}:{}:{}".format(self.source.name, *self.source.position(self.start))


@dataclass(frozen=True)
class Note:
    """An explanation of a diagnostic, with the place that it is about, if any."""

    message: str
    span: Span | None = None


@dataclass(frozen=True)
class Diagnostic:
    """An error, a warning or a note.

    Attributes:
        code: identifies the kind of diagnostic, and does not change between versions.
        message: the mistake, in one sentence.
        span: the smallest part of the text that has the mistake.
        label: a short explanation, shown beside the marked part.
        notes: further explanations.
        hint: what to write instead.
        severity: only an "error" makes a specification invalid.
    """

    code: str
    message: str
    span: Span
    label: str = ""
    notes: Sequence[Note] = ()
    hint: str = ""
    severity: Severity = "error"


class SpecWarning(UserWarning):
    """A warning by `optdsl.load`, `compile` or `blend` about a valid specification."""


class SpecError(ValueError):
    """A specification is invalid; `diagnostics` holds its errors in source order.

    Of more than `MAX_DIAGNOSTICS` errors, it holds those that were found first.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n\n".join(render(d) for d in self.diagnostics))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Diagnostic, ...]]]:
        return type(self), (self.diagnostics,)


class _Details(TypedDict, total=False):
    label: str
    notes: Sequence[Note]
    hint: str


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
        return not self.count

    @property
    def count(self) -> int:
        """How many mistakes were found so far."""
        return len(self._found) + len(self._adopted)

    @property
    def full(self) -> bool:
        """Whether the limit on mistakes is reached, so that no further one is kept."""
        return len(self._found) >= MAX_DIAGNOSTICS

    def error(self, code: str, message: str, span: Span, **details: Unpack[_Details]) -> None:
        """Add a mistake; the same one at the same place is kept once."""
        self._add(Diagnostic(code, message, span, **details))

    def adopt(self, error: SpecError) -> None:
        """Add the mistakes of another specification, which this one refers to."""
        self._adopted += error.diagnostics

    def remark(
        self, severity: Severity, code: str, message: str, span: Span, **details: Unpack[_Details]
    ) -> None:
        """Add a warning or a note, which `check` does not raise; the same one is kept once."""
        self._add(Diagnostic(code, message, span, severity=severity, **details))

    def include(self, other: Report) -> None:
        """Add the mistakes and remarks of another report."""
        for found in (*other._found.values(), *other._remarks.values()):
            self._add(found)

    def _add(self, found: Diagnostic) -> None:
        kept = self._found if found.severity == "error" else self._remarks
        key = (found.code, found.span.start, found.span.end, found.message)
        if len(kept) < MAX_DIAGNOSTICS:
            kept.setdefault(key, replace(found, notes=tuple(found.notes)))

    def check(self) -> None:
        """Raise `SpecError` with all mistakes so far, in source order, when there are any."""
        if not self.empty:
            raise SpecError([*self._adopted, *_ordered(self._found.values())])


def _ordered(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    return sorted(found, key=lambda d: (d.span.start, d.span.end))


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint ``did you mean `x`?`` with the known name most similar to `name`, or "".

    Case only decides between names that are equally similar without it.
    """

    def similarity(x: str, y: str) -> float:
        return difflib.SequenceMatcher(a=x, b=y).ratio()

    scored = ((similarity(k.lower(), name.lower()), similarity(k, name), k) for k in set(known))
    score, _, found = max(scored, default=(0.0, 0.0, ""))
    return f"did you mean `{found}`?" if score >= 0.6 else ""


def _width(text: str) -> int:
    """Terminal columns that `text` takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


# Of a source line with more characters, only the part around the mistake is shown.
_LONG = 100


def _excerpt(span: Span, mark: str, label: str, gutter: int) -> list[str]:
    """The source line of a span, with the span underlined by `mark`."""
    number, column = span.source.position(span.start)
    # Control characters of the source must not reach the terminal.
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
    kind = f"{diagnostic.severity}[{diagnostic.code}]"
    out = [f"{diagnostic.span.place}: {kind}: {diagnostic.message}"]
    out += _excerpt(diagnostic.span, "^", diagnostic.label, gutter)
    for note in diagnostic.notes:
        if note.span is None:
            first, *rest = note.message.split("\n")
            out.append(f"{'':>{gutter}} = note: {first}")
            out += [f"{'':>{gutter}}   {line}".rstrip() for line in rest]
        else:
            out.append(f"{'':>{gutter}} = note: {note.message} ({note.span.place})")
            out += _excerpt(note.span, "-", "", gutter)
    if diagnostic.hint:
        out.append(f"{'':>{gutter}} = hint: {diagnostic.hint}")
    return "\n".join(out)
