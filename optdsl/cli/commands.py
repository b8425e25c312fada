"""The commands. Imports are inside them: `check` must start without torch."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from optdsl import library
from optdsl.cli.errors import UsageError
from optdsl.diagnostics import Source, SpecError
from optdsl.resources import UnknownSpecError


def list_(options: argparse.Namespace) -> int:
    """``optdsl list``."""
    from optdsl.description import listing

    programs = {name: library.read(library.open_source(name)) for name in library.list_specs()}
    print(listing(programs, shutil.get_terminal_size().columns), end="")
    print("\nB is bytes of state per parameter in float32; `optdsl show NAME` tells more.")
    return 0


def check(options: argparse.Namespace) -> int:
    """``optdsl check FILE...``: every mistake of every file, exit status 1 when there are any."""
    wrong = 0
    unreadable: list[str] = []
    for name in options.files:
        try:
            library.read(_file(name))
        except UsageError as error:
            unreadable.append(str(error))
        except SpecError as error:
            wrong += len(error.diagnostics)
            print(error, file=sys.stderr, end="\n\n")
    if wrong:
        files = "file" if len(options.files) == 1 else "files"
        mistakes = "mistake" if wrong == 1 else "mistakes"
        print(f"{wrong} {mistakes} in {len(options.files)} {files}", file=sys.stderr)
    if unreadable:
        raise UsageError("; ".join(unreadable))
    return 1 if wrong else 0


def show(options: argparse.Namespace) -> int:
    """``optdsl show NAME``."""
    source = _named(options.name)
    learn = not options.no_learn
    try:
        if options.backend is not None:
            print(_emitted(source, options.backend, learn), end="")
            return 0
        from dataclasses import replace

        from optdsl.description import describe
        from optdsl.ir.text import print_program

        program = library.read(source)
        program = program if learn else replace(program, learned=())
        print(print_program(program) if options.ir else describe(source, program), end="")
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _emitted(source: Source, backend: str, learn: bool) -> str:
    from optdsl.compiler import emit
    from optdsl.options import OptionError

    try:
        return emit(source, backend, learn).text
    except OptionError as error:
        raise UsageError(str(error)) from None


def format_(options: argparse.Namespace) -> int:
    """``optdsl fmt FILE...``: rewrites files in place; ``-`` goes from input to output."""
    from optdsl.syntax.format import format
    from optdsl.syntax.parse import parse

    status = 0
    for name in options.files:
        source = _file(name)
        try:
            text = format(parse(source))
        except SpecError as error:
            print(error, file=sys.stderr, end="\n\n")
            status = 1
            continue
        if name == "-" and not options.check:
            print(text, end="")
        elif text != source.text:
            if options.check:
                print(f"{name} is not in the canonical layout", file=sys.stderr)
                status = 1
            else:
                _replace(Path(name), text)
                print(f"formatted {name}")
    return status


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    path = path.resolve()  # a link stays a link
    if not os.access(path, os.W_OK):
        raise UsageError(f"cannot write {path}: it is read-only")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(path.stat().st_mode)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _named(name: str) -> Source:
    try:
        return library.open_source(name)
    except UnknownSpecError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def _file(name: str) -> Source:
    """A file whatever it is called, or the standard input."""
    if name == "-":
        if sys.stdin is None:
            raise UsageError("there is no standard input")
        try:
            return Source("<stdin>", sys.stdin.buffer.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UsageError(f"<stdin> is not UTF-8 text (byte {error.start})") from None
    return _named(str(Path(name)) if name.endswith(".opt") else os.path.join(".", name))
