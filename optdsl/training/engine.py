"""The function that runs a comparison."""

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from optdsl.training import figure, log, report, tuning
from optdsl.training.candidates import Loader, default_loader, load_candidates
from optdsl.training.config import FORMATS, TrainingConfig
from optdsl.training.model import build_model
from optdsl.training.progress import reporter
from optdsl.training.results import Comparison, Trial
from optdsl.training.runs import run_all
from optdsl.training.text import Corpus, load_corpus

CSV_NAME = "training.csv"
SUMMARY_NAME = "summary.json"


def compare(
    config: TrainingConfig, console: Console | None = None, load: Loader = default_loader
) -> Comparison:
    """Trains the same model with each optimizer, once per seed, and compares the results.

    Every optimizer starts from the same weights and gets the same batches.  The numbers are
    reproducible on one machine, and the global random state is restored.  A run ends early at a
    loss that is not finite, or at a KeyboardInterrupt, which ends the comparison; its results up to
    then are reported.  Writes `training.csv`, complete after every step, `summary.json`, and the
    figure as `training.png` and so on to the output directory.

    Args:
        config: The request.
        console: Shows progress and the final table; None for no output.
        load: Returns an optimizer's class by name or path.  The class is called as
            `cls(parameters, **hyperparameters)`, with the hyperparameters of the request.

    Raises:
        TrainingError: The request cannot be carried out, or a file cannot be written.
        KeyboardInterrupt: The user interrupted before training began.
    """
    with torch.random.fork_rng(devices=[]):
        corpus = load_corpus(config.text, config.block)
        model = build_model(config, len(corpus.vocabulary))
        candidates = load_candidates(config, load, model.parameters())
        searches: dict[str, tuple[Trial, ...]] = {}
        if config.tuned:
            tuning.require_rates(candidates)
        log.prepare_directory(config.out)
        metrics = dict.fromkeys(name for candidate in candidates for name in candidate.metrics)
        with log.CsvLog(config.out / CSV_NAME, tuple(metrics)) as rows:
            # Should the process be killed, older results must not look like those of this one.
            for name in (*(figure_name(suffix) for suffix in FORMATS), SUMMARY_NAME):
                (config.out / name).unlink(missing_ok=True)
            if console is not None:
                _introduce(console, config, corpus, model)
            if config.tuned:
                candidates, searches = tuning.tune(config, corpus, candidates, _teller(console))
            with reporter(console, config) as progress:
                entries = run_all(config, corpus, candidates, rows, progress)

    comparison = Comparison(
        config=config,
        entries=entries,
        characters=len(corpus),
        vocabulary=len(corpus.vocabulary),
        parameters=_size(model),
        unigram_entropy=corpus.unigram_entropy,
        csv=config.out / CSV_NAME,
        figures=tuple(config.out / figure_name(suffix) for suffix in config.formats),
        summary=config.out / SUMMARY_NAME,
        searches=searches,
    )
    if console is not None:
        console.print(report.table(comparison))
    log.write_atomically(comparison.summary, lambda path: report.write_summary(comparison, path))
    for file in comparison.figures:
        log.write_atomically(file, lambda path: figure.draw(comparison, path))
    if console is not None:
        for file in (comparison.csv, *comparison.figures, comparison.summary):
            console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
    return comparison


def figure_name(suffix: str) -> str:
    """Returns the name of the figure's file in a format."""
    return f"training.{suffix}"


def _teller(console: Console | None) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if console is not None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    return tell


def _introduce(console: Console, config: TrainingConfig, corpus: Corpus, model: nn.Module) -> None:
    source = config.text or Path("Python's standard library")
    console.print(
        f"text: {source}, {len(corpus):,} characters, {len(corpus.vocabulary)} symbols, "
        f"unigram entropy {corpus.unigram_entropy:.3f} nats per character\n"
        f"model: transformer with {_size(model):,} parameters, {config.layers} layers of width "
        f"{config.width}, block {config.block}, batch {config.batch}",
        markup=False,
        highlight=False,
    )


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
