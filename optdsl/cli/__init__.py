"""The command line: each command calls one library function and prints what it returns."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from optdsl import __version__
from optdsl.cli import commands, train
from optdsl.cli.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (a specification is wrong) or 2 (a usage error)."""
    _survive_any_terminal()
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except UsageError as error:
        print(f"optdsl {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output went away (`optdsl show adam | head`).
        sys.stderr.close()
        return 0
    except OSError as error:
        # Nothing is left in the buffer that the interpreter would try to write once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"optdsl {options.command}: cannot write: {error.strerror}", file=sys.stderr)
        return 2
    return int(status)


def _survive_any_terminal() -> None:
    """Escape what the terminal's encoding cannot show, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optdsl", description="Optimizers written once, as equations, compiled to PyTorch."
    )
    parser.add_argument("--version", action="version", version=f"optdsl {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = subparsers.add_parser("list", help="the specifications of the library")
    command.set_defaults(run=commands.list_)

    command = subparsers.add_parser("check", help="find the mistakes of specifications")
    command.add_argument("files", nargs="+", metavar="FILE", help="a .opt file, or - for the input")
    command.set_defaults(run=commands.check)

    command = subparsers.add_parser("show", help="what a specification says and becomes")
    command.add_argument("name", metavar="NAME", help="a name of the library, or a .opt file")
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--backend", metavar="BACKEND", help="print the code for this backend: eager or c"
    )
    what.add_argument(
        "--plan", action="store_true", help="print the bytes of its state and of a step"
    )
    what.add_argument("--ir", action="store_true", help="print the lowered program")
    command.add_argument(
        "--no-learn", action="store_true", help="with all coefficients fixed, without tangents"
    )
    command.set_defaults(run=commands.show)

    command = subparsers.add_parser("fmt", help="lay out specifications in the canonical way")
    command.add_argument("files", nargs="+", metavar="FILE", help="a .opt file, or - for the input")
    command.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a file would change"
    )
    command.set_defaults(run=commands.format_)

    command = subparsers.add_parser(
        "verify", help="prove what specifications say of themselves, or refute it"
    )
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="a name, a .opt file, or a directory of them"
    )
    command.set_defaults(run=commands.verify)

    command = subparsers.add_parser(
        "blend", help="mix the updates of any rules, with weights that are learned"
    )
    command.add_argument(
        "rules", nargs="+", metavar="RULE", help="a name of the library, or a .opt file"
    )
    command.add_argument(
        "-o", "--output", metavar="FILE", help="write the specification (default: print it)"
    )
    command.add_argument("--name", metavar="NAME", help="of the blend (default: the rules' names)")
    command.add_argument("--force", action="store_true", help="replace FILE if it exists")
    command.set_defaults(run=commands.blend)

    command = subparsers.add_parser(
        "train", help="train a small model on real text and compare optimizers"
    )
    train.add_arguments(command)
    command.set_defaults(run=train.run)
    return parser
