"""The comparison itself."""

import copy
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from optdsl.training import figure, log, report
from optdsl.training.candidates import Candidate, Loader, default_loader, load_candidates
from optdsl.training.config import TrainingConfig
from optdsl.training.loop import train
from optdsl.training.model import build_model
from optdsl.training.progress import Reporter, reporter
from optdsl.training.results import Comparison, Record, Run, Status
from optdsl.training.text import Corpus, load_corpus, spaced_windows

CSV_NAME = "training.csv"
FIGURE_NAME = "training.png"
SUMMARY_NAME = "summary.json"


def compare(
    config: TrainingConfig, console: Console | None = None, load: Loader = default_loader
) -> Comparison:
    """Trains the same model once per optimizer and compares the results.

    Every optimizer starts from the same weights and sees the same batches; numbers are
    reproducible on one machine, and the global random state is left as it was found.  A run stops
    where a loss is not finite, and the others go on.

    Writes `training.csv`, `training.png` and `summary.json` to the output directory.  The log is
    complete after every step, whatever happens next.  A KeyboardInterrupt during training ends it,
    and what was trained until then is reported.

    Args:
        config: What to train.
        console: Where to show progress and the final table, if anywhere.
        load: Returns an optimizer's class by name or path; `optdsl.load` unless given.  The class
            is called as `cls(parameters, lr=..., **hyperparameters)`.

    Raises:
        TrainingError: The request cannot be carried out, which is found before any training, or
            the summary or picture cannot be written after it.
        KeyboardInterrupt: The user interrupted before training began.
    """
    with torch.random.fork_rng(devices=[]):
        corpus = load_corpus(config.text, config.block)
        model = build_model(config, len(corpus.vocabulary))
        candidates = load_candidates(config, load, model.parameters())
        log.prepare_directory(config.out)
        metrics = dict.fromkeys(name for candidate in candidates for name in candidate.metrics)
        with log.CsvLog(config.out / CSV_NAME, tuple(metrics)) as rows:
            # Results of an older comparison must not be taken for this one's, should it be killed.
            for name in (FIGURE_NAME, SUMMARY_NAME):
                (config.out / name).unlink(missing_ok=True)
            if console is not None:
                _introduce(console, config, corpus, model)
            with reporter(console, config) as progress:
                runs = _run_all(config, corpus, model, candidates, rows, progress)

    comparison = Comparison(
        config=config,
        runs=tuple(runs),
        characters=len(corpus),
        vocabulary=len(corpus.vocabulary),
        parameters=_size(model),
        unigram_entropy=corpus.unigram_entropy,
        csv=config.out / CSV_NAME,
        figure=config.out / FIGURE_NAME,
        summary=config.out / SUMMARY_NAME,
    )
    if console is not None:
        console.print(report.table(comparison))
    log.write_atomically(comparison.summary, lambda path: report.write_summary(comparison, path))
    log.write_atomically(comparison.figure, lambda path: figure.draw(comparison, path))
    if console is not None:
        for file in (comparison.csv, comparison.figure, comparison.summary):
            console.print(f"wrote {file}", markup=False, highlight=False, soft_wrap=True)
    return comparison


def _run_all(
    config: TrainingConfig,
    corpus: Corpus,
    model: nn.Module,
    candidates: list[Candidate],
    rows: log.CsvLog,
    progress: Reporter,
) -> list[Run]:
    windows = spaced_windows(corpus.validation, config.block, config.validation_windows)
    runs: list[Run] = []
    for candidate in candidates:
        if any(run.status is Status.INTERRUPTED for run in runs):
            runs.append(Run(candidate.label, Status.NOT_STARTED))
            continue
        run = _run(config, corpus.train, windows, model, candidate, rows, progress)
        progress.finish(run)
        runs.append(run)
    return runs


def _run(
    config: TrainingConfig,
    text: Tensor,
    windows: Tensor,
    model: nn.Module,
    candidate: Candidate,
    rows: log.CsvLog,
    progress: Reporter,
) -> Run:
    torch.default_generator.manual_seed(config.seed)  # in case the optimizer draws numbers
    records: list[Record] = []
    status = Status.FINISHED
    try:
        model = copy.deepcopy(model)  # the initial weights serve every optimizer
        optimizer = candidate.build(model.parameters())
        for record in train(config, model, optimizer, text, windows):
            rows.write(candidate.label, record)
            records.append(record)
            progress.advance(candidate.label, record)
        if not records[-1].finite:
            status = Status.DIVERGED
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
    return Run(candidate.label, status, tuple(records))


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
