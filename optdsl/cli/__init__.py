"""The command line: each command calls one library function and prints what it returns."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from optdsl import __version__
from optdsl.cli import commands, study, texts, train
from optdsl.cli.errors import UsageError
from optdsl.options import OptionError
from optdsl.specifications.search import searching


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, 1 (a specification is wrong) or 2 (a usage error)."""
    _survive_any_terminal()
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with searching(options.path):
            status = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except (UsageError, OptionError) as error:
        print(f"optdsl {options.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the output has closed it, as in `optdsl show adam | head`.
        sys.stderr.close()
        return 0
    except OSError as error:
        # Otherwise the interpreter would try to write the rest of the buffer when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"optdsl {options.command}: cannot write: {error.strerror}", file=sys.stderr)
        return 2
    return int(status)


def _survive_any_terminal() -> None:
    """Escape the characters that the terminal's encoding lacks, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optdsl",
        description="Optimizers written once, as equations, compiled to PyTorch.",
        epilog="`optdsl COMMAND --help` describes a command.",
    )
    parser.add_argument("--version", action="version", version=f"optdsl {__version__}")
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands"
    )

    def add(name: str, summary: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
        return subparsers.add_parser(
            name,
            help=summary,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def files(help: str) -> None:
        command.add_argument("files", nargs="+", metavar="FILE", help=help)

    def path() -> None:
        command.add_argument("--path", action="append", metavar="DIR", help=_PATH)

    def flag(name: str, help: str, place: argparse._ActionsContainer | None = None) -> None:
        (place or command).add_argument(name, action="store_true", help=help)

    command = add("list", "list the specifications of the library", texts.LIST)
    command.add_argument(
        "--kind",
        action="append",
        metavar="KIND",
        help="only elementwise, norms, matrices, blend or modifier; may be given several times",
    )
    flag("--json", "print all that is known of them as JSON")
    path()
    command.set_defaults(run=commands.list_)

    command = add("check", "find the mistakes of specifications; changes nothing", texts.CHECK)
    files("a .opt file, or - for the standard input")
    flag("--strict", "treat warnings as mistakes")
    path()
    command.set_defaults(run=commands.check)

    command = add("show", "show what a specification says, and the code it becomes", texts.SHOW)
    command.add_argument("name", metavar="NAME", help=_RULE)
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--backend",
        metavar="BACKEND",
        help="print the code for this backend instead: eager (PyTorch), c, or triton",
    )
    flag("--plan", "print the bytes of its state, and those that a step moves, instead", what)
    flag("--ir", "print the compiler's list of operations instead", what)
    flag("--no-learn", "show it with all coefficients fixed")
    command.add_argument(
        "--state-bytes",
        metavar="BYTES",
        type=float,
        help="with --plan: the fastest plan with at most so many bytes of state per parameter",
    )
    path()
    command.set_defaults(run=commands.show)

    command = add("fmt", "rewrite specifications in the canonical layout", texts.FMT)
    files("a .opt file, which is rewritten, or - to go from the standard input to the output")
    flag("--check", "change nothing; name the files that would change")
    flag("--diff", "change nothing; print what would change")
    command.set_defaults(run=commands.format_, path=None)

    command = add("verify", "prove or refute what specifications claim", texts.VERIFY)
    files("a name of the library, a .opt file, or a directory of .opt files")
    path()
    command.set_defaults(run=commands.verify)

    command = add("blend", "make one specification of several, with learned weights", texts.BLEND)
    command.add_argument("rules", nargs="+", metavar="RULE", help=_RULE)
    command.add_argument(
        "-o", "--output", metavar="FILE", help="write to this .opt file (default: print)"
    )
    command.add_argument(
        "--name", metavar="NAME", help="name of the blend (default: the rules' names, joined)"
    )
    flag("--force", "replace the file of --output if it exists")
    path()
    command.set_defaults(run=commands.blend)

    command = add("eject", "write an optimizer as one file that needs only PyTorch", texts.EJECT)
    command.add_argument(
        "name", metavar="NAME", help=f"{_RULE}, or either with options and modifiers"
    )
    command.add_argument(
        "-o", "--output", metavar="FILE", help="write to this .py file (default: print)"
    )
    flag("--learn", "learn what the rule says, rather than keeping its coefficients fixed")
    command.add_argument(
        "--order",
        choices=("overlapped", "exact"),
        default="overlapped",
        help="with --learn: whether coefficients move after the step that measures their "
        "hyper-gradients, or before it (default: overlapped)",
    )
    flag("--force", "replace the file of --output if it exists")
    path()
    command.set_defaults(run=commands.eject)

    summary = "train a small model on real text and compare optimizers"
    command = add("train", summary, train.DESCRIPTION, train.EPILOG)
    train.add_arguments(command)
    path()
    command.set_defaults(run=train.run)

    summary = "measure the claims about learned optimizers, and write a report"
    command = add("study", summary, study.DESCRIPTION, study.EPILOG)
    study.add_arguments(command)
    command.set_defaults(run=study.run, path=None)
    return parser


_RULE = "a name of the library, of --path, OPTDSL_PATH or a package, or a .opt file"
_PATH = "find the specifications in this directory, too; may be given several times"
