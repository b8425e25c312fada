"""The comparison itself."""

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

    Every optimizer starts from the same weights and sees the same batches; numbers are
    reproducible on one machine, and the global random state is left as it was found.  A run stops
    where a loss is not finite, and the others go on.

    Writes `training.csv`, `summary.json` and the figure, `training.png` and so on for each format,
    to the output directory.  The log is complete after every step, whatever happens next.  A
    KeyboardInterrupt during training ends it, and what was trained until then is reported.

    Args:
        config: What to train.
        console: Where to show progress and the final table, if anywhere.
        load: Returns an optimizer's class by name or path; `optdsl.load` unless given.  The class
            is called as `cls(parameters, **hyperparameters)`, with those of the request.

    Raises:
        TrainingError: The request cannot be carried out, which is found before any training, or
            the summary or picture cannot be written after it.
        KeyboardInterrupt: The user interrupted before training began, or during the search for
            learning rates.
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
            # Results of an older comparison must not be taken for this one's, should it be killed.
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
