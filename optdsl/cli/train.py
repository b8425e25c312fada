"""``optdsl train``."""

from __future__ import annotations

import argparse
from pathlib import Path

from optdsl.cli.errors import UsageError
from optdsl.resources import UnknownSpecError
from optdsl.specifications import sources

DESCRIPTION = """\
Train a small character-level transformer with each optimizer, from the same weights and on the same
batches, and compare the losses. Writes training.csv (every step), training.png, .svg and .pdf,
summary.json, and report.html, a page with all of it.

Every optimizer has the learning rate and the other hyperparameters that its file has as defaults,
unless --set or --tuned changes them. The learning rate follows one schedule for all: a linear
warm-up over the first 5 % of the steps, then a cosine down to 10 % of the peak."""

EPILOG = """\
examples:
  optdsl train --optimizers adam,lion,mine.opt --set lion.lr=3e-4
  optdsl train --optimizers adam,mada --seeds 3 --tuned

The exit status is 0, 2 for a mistake in the request, or 130 when interrupted; what was trained
until then is still reported."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command, without defaults and types: `configure` has both."""
    add = parser.add_argument
    add(
        "--optimizers",
        metavar="NAMES",
        help="names of the library or .opt files, separated by commas "
        "(default: adam,lion,yogi,adan,avgrad,mada)",
    )
    add("--steps", metavar="N", help="training steps of each run, 1 or more (default: 500)")
    add("--seed", metavar="S", help="seed of the initial weights and the batches (default: 0)")
    add(
        "--seeds",
        metavar="N",
        help="runs of each optimizer, with the seeds S, S+1, ...; tables show mean and standard "
        "deviation, figures the mean and a band from the lowest to the highest (default: 1)",
    )
    add(
        "--task",
        metavar="NAME",
        help="another task than the transformer: characters, bytes, recurrent, mlp, cnn, resnet, "
        "autoencoder, diffusion, logistic, least_squares, rosenbrock or saddle",
    )
    images = "directory with images for the tasks that learn images (default: digits)"
    add("--images", type=Path, metavar="DIR", help=images)
    text = "UTF-8 text to learn (default: sources of Python's standard library)"
    add("--text", type=Path, metavar="FILE", help=text)
    out = "directory for the results; older results in it are replaced (default: training)"
    add("--out", type=Path, metavar="DIR", help=out)
    add(
        "--tensorboard",
        action="store_true",
        help="log every step for TensorBoard, too, in the directory tensorboard of --out",
    )
    add("--formats", metavar="LIST", help="formats of the figure (default: png,svg,pdf)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME.HYPER=VALUE",
        help="a hyperparameter of one optimizer, as in lion.lr=3e-4; may be repeated",
    )
    add(
        "--tuned",
        action="store_true",
        help="search for each learning rate first, with the same budget for every optimizer: 0.1, "
        "0.3, 1, 3 and 10 times its default (or what --set says), a fifth of the steps each, and "
        "take the one with the lowest validation loss; doubles the time of a comparison with one "
        "seed",
    )


def _canonical(name: str) -> str:
    """The library's own spelling of a name; unknown names stay as they are, to be refused later."""
    try:
        return name if name.endswith(".opt") else sources.find(name)
    except UnknownSpecError:
        return name


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(","))


_FIELDS = ("steps", "seed", "seeds", "tuned", "task", "text", "images", "out", "tensorboard")


def run(options: argparse.Namespace) -> int:
    """Compare the optimizers; the exit status is 130 after an interrupt, as usual in a shell."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise UsageError("needs rich and matplotlib: pip install 'optdsl[train]'") from None
    from optdsl.training import TrainingError, compare, configure, parse_overrides

    names = _listed(options.optimizers)
    fields = {n: getattr(options, n) for n in _FIELDS}
    fields["optimizers"] = None if names is None else tuple(map(_canonical, names))
    fields["formats"] = _listed(options.formats)
    try:
        config = configure(
            overrides=parse_overrides(options.set, _canonical),
            **{name: value for name, value in fields.items() if value is not None},
        )
        comparison = compare(config, Console())
    except TrainingError as error:
        raise UsageError(str(error)) from None
    except KeyboardInterrupt:
        return 130  # before the first step, so that there are no results to show
    return 130 if comparison.interrupted else 0
