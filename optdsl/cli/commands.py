"""The commands. They import torch and what needs it themselves, so that `check` starts fast."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optdsl.cli.errors import UsageError
from optdsl.diagnostics import Source, SpecError, render
from optdsl.resources import UnknownSpecError
from optdsl.specifications import library, sources
from optdsl.words import counted


def list_(options: argparse.Namespace) -> int:
    """``optdsl list``: the table of all specifications that are found, or the rows of some kinds.

    The exit status is 1 when there are some that cannot be listed, each with the reason.
    """
    from optdsl.report.library import KINDS, as_json, others, rows
    from optdsl.report.table import listing

    for kind in options.kind or ():
        if kind not in KINDS:
            raise UsageError(f"there is no kind '{kind}'; the kinds are {', '.join(KINDS)}")
    more, troubles = others()
    found = [row for row in (*rows(), *more) if not options.kind or row.kind in options.kind]
    for trouble in troubles:
        print(f"optdsl list: {trouble}", file=sys.stderr)
    if options.json:
        print(as_json(found), end="")
        return 1 if troubles else 0
    print(listing(found), end="")
    print(
        "\nB is bytes of state per parameter in float32, in eager code; of a modifier, what it\n"
        "adds to AdamW. Compiled code may keep less where something is learned: `optdsl show\n"
        "NAME --plan` tells. 4/8 is 4 for matrices and 8 for other tensors; + stands for states\n"
        "of rows, columns or pairs of them. The number after what a rule is compared with is the\n"
        "largest relative difference measured, in float64. Those without a file are the library's."
    )
    return 1 if troubles else 0


def check(options: argparse.Namespace) -> int:
    """``optdsl check FILE...``: print the diagnostics of every file.

    The exit status is 1 when there is an error; with ``--strict``, warnings are errors.
    """
    wrong = wrong_files = 0
    unreadable: list[str] = []
    for name in options.files:
        try:
            remarks = library.checked(_file(name))
            doubtful = [d for d in remarks if options.strict and d.severity == "warning"]
            wrong, wrong_files = wrong + len(doubtful), wrong_files + bool(doubtful)
            for remark in remarks:
                shown = replace(remark, severity="error") if remark in doubtful else remark
                print(render(shown), file=sys.stderr, end="\n\n")
        except UsageError as error:
            unreadable.append(str(error))
        except SpecError as error:
            wrong += len(error.diagnostics)
            wrong_files += 1
            print(error, file=sys.stderr, end="\n\n")
    checked = len(options.files) - len(unreadable)
    if wrong:
        where = f"{wrong_files} of {checked} files" if checked > 1 else "1 file"
        print(f"{counted(wrong, 'mistake')} in {where}", file=sys.stderr)
    elif checked:
        print(f"{counted(checked, 'file')}, no mistakes")
    if unreadable:
        raise UsageError("; ".join(unreadable))
    return 1 if wrong else 0


def show(options: argparse.Namespace) -> int:
    """``optdsl show NAME``: the page of a specification, its plan, its operations or its code."""
    source = _named(options.name)
    learn = not options.no_learn
    if options.state_bytes is not None and not options.plan:
        raise UsageError("--state-bytes bounds the state of a plan: give --plan, too")
    try:
        if options.backend is not None:
            print(_emitted(source, options.backend, learn), end="")
            return 0
        if options.plan:
            from optdsl.report.plan import describe_plan

            print(describe_plan(source, learn, options.state_bytes), end="")
            return 0
        from optdsl.ir.text import print_program
        from optdsl.report.specification import describe

        specified = library.specification(source)
        program = specified.program if learn else replace(specified.program, learned=())
        page = describe(source, program, specified.separate)
        print(print_program(program) if options.ir else page, end="")
        if specified.remarks and not options.ir:
            print("\nRemarks\n")
            print("\n\n".join(textwrap.indent(render(d), "  ") for d in specified.remarks))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _emitted(source: Source, backend: str, learn: bool) -> str:
    from optdsl.compiler import BACKENDS, emit
    from optdsl.options import OptionError

    if backend not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise UsageError(f"there is no code for a backend '{backend}'; the backends are {known}")
    try:
        return emit(source, backend, learn).text
    except OptionError as error:
        raise UsageError(str(error)) from None


def format_(options: argparse.Namespace) -> int:
    """``optdsl fmt FILE...``: rewrites files in place; ``-`` goes from input to output.

    With ``--check`` or ``--diff`` it changes nothing, and the exit status says what it would do.
    """
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
        dry = options.check or options.diff
        if name == "-" and not dry:
            print(text, end="")
        elif text != source.text:
            if dry:
                status = 1
                if options.check:
                    print(f"{name} is not in the canonical layout", file=sys.stderr)
                if options.diff:
                    lines = (source.text.splitlines(), text.splitlines())
                    titles = (name, f"{name} (canonical)")
                    for line in difflib.unified_diff(*lines, *titles, lineterm=""):
                        print(line)
            else:
                _replace(Path(name), text)
                print(f"formatted {name}")
    return status


def verify(options: argparse.Namespace) -> int:
    """``optdsl verify FILE...``: a line for each claim; the exit status is 1 if one is refuted."""
    from optdsl.prove import Verdict
    from optdsl.verification import verify as settle

    counts = dict.fromkeys(Verdict, 0)
    wrong = 0
    for name in _files(options.files):
        try:
            statements = settle(_named(name))
        except SpecError as error:
            wrong += 1
            print(error, file=sys.stderr, end="\n\n")
            continue
        print(name)
        column = max((len(s.text) for s in statements if len(s.text) <= _LONG), default=0)
        for statement in statements:
            counts[statement.verdict] += 1
            # A long statement has its reason on a line of its own.
            gap = f"\n{'':{column + 13}}" if len(statement.text) > column else "  "
            line = f"{statement.verdict.value:<9}{statement.text:<{column}}{gap}{statement.reason}"
            print(f"  {line}")
            for detail in statement.details:
                print(textwrap.indent(f"\n{detail}", " " * 11))
            if statement.test:
                # It is not indented, so that it can be copied into a file.
                print(f"\n{'':11}a test that shows it:\n\n{statement.test}\n")
        if not statements:
            print("  makes no claims")
    total = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items())
    print(f"{total}, {wrong} with mistakes" if wrong else total)
    return 1 if wrong or counts[Verdict.REFUTED] else 0


_LONG = 72


def _files(names: Sequence[str]) -> list[str]:
    """The files, with the specifications in a directory in its place."""
    found: list[str] = []
    for name in names:
        if not os.path.isdir(name):
            found.append(name)
            continue
        inside = sorted(str(p) for p in Path(name).glob("*.opt") if not p.name.startswith("."))
        if not inside:
            raise UsageError(f"{name} has no .opt files")
        found += inside
    return found


def blend(options: argparse.Namespace) -> int:
    """``optdsl blend RULE...``: the specification of a mixture of rules, printed or written."""
    from optdsl.compose import blend_source
    from optdsl.options import OptionError

    output = options.output
    directory = None
    if output is not None:
        directory = _check_output(output, ".opt", options.force)
    if len(options.rules) < 2:
        raise UsageError("a blend needs two rules or more, as in `optdsl blend adam lion`")
    for rule in options.rules:
        _named(rule)
    try:
        source = blend_source(options.rules, options.name, directory)
        remarks = library.specification(replace(source, name=output or source.name)).remarks
    except OptionError as error:
        raise UsageError(str(error)) from None
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    _output(source.text, output)
    for remark in remarks:
        print(render(remark), file=sys.stderr, end="\n\n")
    return 0


def eject(options: argparse.Namespace) -> int:
    """``optdsl eject NAME``: an optimizer as a Python file of its own, printed or written."""
    from optdsl.ejection import eject as ejected
    from optdsl.options import OptionError

    output = options.output
    if output is not None:
        _check_output(output, ".py", options.force)
    _named(options.name)
    try:
        text = ejected(options.name, learn=options.learn, order=options.order)
    except OptionError as error:
        raise UsageError(str(error)) from None
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    _output(text, output)
    return 0


def _check_output(output: str, ending: str, force: bool) -> str:
    """The directory of a file that is to be written."""
    directory = os.path.dirname(output) or os.curdir
    if not output.endswith(ending):
        raise UsageError(f"{output} must end in {ending}")
    if os.path.exists(output) and not force:
        raise UsageError(f"{output} exists already; --force replaces it")
    if not os.path.isdir(directory):
        raise UsageError(f"cannot write {output}: there is no directory {directory}")
    return directory


def _output(text: str, output: str | None) -> None:
    """Print a text, or write it to a file."""
    if output is None:
        print(text, end="")
        return
    try:
        Path(output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from None
    print(f"wrote {output}")


def _replace(path: Path, text: str) -> None:
    """Replace a file atomically."""
    path = path.resolve()  # so that a link is kept, and the file that it points to is replaced
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
        return sources.open_source(name)
    except OSError as error:
        raise UsageError(f"cannot read {name}: {error.strerror}") from None
    except (UnknownSpecError, ValueError) as error:
        raise UsageError(str(error)) from None


def _file(name: str) -> Source:
    """A file, even if its name is one of the library's, or the standard input."""
    if name == "-":
        if sys.stdin is None:
            raise UsageError("there is no standard input")
        try:
            return Source("<stdin>", sys.stdin.buffer.read().decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise UsageError(f"<stdin> is not UTF-8 text (byte {error.start})") from None
    return _named(str(Path(name)) if name.endswith(".opt") else os.path.join(".", name))
