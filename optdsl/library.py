"""The library of specifications, and the front half of the compiler: text to program."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path

from optdsl import resources
from optdsl.diagnostics import Report, Source
from optdsl.differentiate import moves
from optdsl.ir.program import Hyper, Program
from optdsl.lower import lower
from optdsl.resources import UnknownSpecError
from optdsl.syntax import ast
from optdsl.syntax.parse import parse_partial, parse_prelude


def list_specs() -> tuple[str, ...]:
    """The names of the library's specifications, sorted."""
    return resources.spec_names()


def find(name: str) -> str:
    """The name under which the library has a specification; case and underscores are free.

    Raises:
        UnknownSpecError: when it has none.
    """
    known = {_folded(spec): spec for spec in list_specs()}
    if _folded(name) not in known:
        raise UnknownSpecError(name, list_specs())
    return known[_folded(name)]


def _folded(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def open_source(name: str | os.PathLike[str]) -> Source:
    """The text of a specification of the library, or of a ``.opt`` file.

    Raises:
        UnknownSpecError: when the library has none of that name.
        OSError: when the file cannot be read.
        ValueError: when the file is not UTF-8 text.
    """
    text = os.fspath(name)
    if isinstance(name, str) and not text.endswith(".opt") and os.sep not in text:
        found = find(text)
        return Source(f"{found}.opt", resources.spec_text(found))
    try:
        # A byte order mark is no text; the ends of lines stay as they are, for the formatter.
        return Source(text, Path(text).read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{text} is not UTF-8 text (byte {error.start})") from None


@functools.cache
def prelude() -> Mapping[str, ast.Function]:
    """The functions that every specification may use, by name."""
    tree = parse_prelude(Source("prelude.opt", resources.prelude_text()))
    return {function.name.text: function for function in tree.functions}


def read(source: Source) -> Program:
    """The program of a specification.

    Raises:
        SpecError: with every mistake of the text.
    """
    return _read(source.name, source.text)


@functools.lru_cache(maxsize=256)
def _read(name: str, text: str) -> Program:
    report = Report()
    parsed = parse_partial(Source(name, text), report)
    if parsed.declaration is None:
        report.check()
    assert parsed.declaration is not None
    program = lower(parsed.declaration, prelude(), LIBRARY, report, parsed.broken)
    _check_learned(program, parsed.declaration, report)
    report.check()
    return program


def _check_learned(program: Program, declaration: ast.Declaration, report: Report) -> None:
    """Report hyperparameters that are to be learned and can never move."""
    statements = [s for s in declaration.statements if isinstance(s, ast.Learn)]
    for name in (n for s in statements for n in s.names):
        if not moves(program, name.text):
            report.error(
                "flat",
                f"`{name.text}` cannot be learned: its hyper-gradient is always zero",
                name.span,
                label="theta' does not move with it",
                hint="theta' depends on it only through functions that are flat, or not at all",
            )


# The rules whose `learn` statements are being looked up, in this thread.
_READING: ContextVar[frozenset[str]] = ContextVar("reading", default=frozenset())


class Library:
    """The library's rules, for specifications that refer to them."""

    def names(self) -> Iterable[str]:
        """The names of all rules."""
        return list_specs()

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """A rule's name in the library and its hyperparameters; None when there is none.

        A rule that is learned by itself, directly or around a corner, is none either.
        """
        try:
            found = find(name)
        except UnknownSpecError:
            return None
        reading = _READING.get()
        if found in reading:
            return None
        token = _READING.set(reading | {found})
        try:
            return found, read(open_source(found)).hypers
        finally:
            _READING.reset(token)


LIBRARY = Library()
