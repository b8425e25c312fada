"""``optdsl train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from optdsl import library
from optdsl.cli.errors import UsageError
from optdsl.resources import UnknownSpecError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command; what is not given is left to the library's defaults."""
    parser.add_argument(
        "--optimizers",
        metavar="NAMES",
        help="names of the library or .opt files, with commas "
        "(default: adam,lion,yogi,adan,avgrad,mada)",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps for each optimizer")
    parser.add_argument("--seed", type=int, metavar="S", help="of weights and batches (default: 0)")
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="UTF-8 text to learn (default: sources of Python's standard library)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="for results (default: training)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME.HYPER=VALUE",
        help="a hyperparameter of one optimizer, as in lion.lr=3e-4; may be repeated",
    )


def _canonical(name: str) -> str:
    """The library's own spelling of a name; others are left for the library to refuse."""
    try:
        return name if name.endswith(".opt") else library.find(name)
    except UnknownSpecError:
        return name


def run(options: argparse.Namespace) -> int:
    """Compare the optimizers; 130 when interrupted, as for every interrupted program."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise UsageError("needs rich and matplotlib: pip install 'optdsl[train]'") from None
    from optdsl.training import TrainingError, compare, configure, parse_overrides

    names = None if options.optimizers is None else options.optimizers.split(",")
    fields = {
        "optimizers": None if names is None else tuple(_canonical(name.strip()) for name in names),
        "steps": options.steps,
        "seed": options.seed,
        "text": options.text,
        "out": options.out,
    }
    try:
        config = configure(
            overrides=parse_overrides(options.set),
            **{name: value for name, value in fields.items() if value is not None},
        )
        comparison = compare(config, Console())
    except TrainingError as error:
        raise UsageError(str(error)) from None
    except KeyboardInterrupt:
        return 130  # before the first step: there is nothing to show
    return 130 if comparison.interrupted else 0
