"""The function that runs a comparison."""

from contextlib import ExitStack

import torch
from rich.console import Console

from optdsl import api
from optdsl.training import figure, log, report, tuning
from optdsl.training.candidates import Loader, load_candidates
from optdsl.training.config import FORMATS, TrainingConfig
from optdsl.training.model import build_model
from optdsl.training.page import write_page
from optdsl.training.problem import Problem, Problems, Sources
from optdsl.training.progress import print_plainly, reporter
from optdsl.training.results import Comparison, Trial
from optdsl.training.runs import run_all
from optdsl.training.tasks import find_task
from optdsl.training.tasks.texts import window_problem
from optdsl.training.text import Corpus, load_corpus, spaced_windows

CSV_NAME = "training.csv"
SUMMARY_NAME = "summary.json"
PAGE_NAME = "report.html"
BOARD_NAME = "tensorboard"


def compare(
    config: TrainingConfig, console: Console | None = None, load: Loader = api.load
) -> Comparison:
    """Trains the same model with each optimizer, once per seed, and compares the results.

    Every optimizer starts from the same weights and gets the same batches.  The numbers are
    reproducible on one machine, and the global random state is restored.  A run ends early at a
    loss that is not finite, or at a KeyboardInterrupt, which ends the comparison; its results up to
    then are reported.  Writes `training.csv`, complete after every step, `summary.json`, the
    figure as `training.png` and so on, and a page of all of it, `report.html`, to the output
    directory.

    Args:
        config: The request.
        console: Shows progress and the final table; None for no output.
        load: Returns an optimizer's class by name or path.  The class is called as
            `cls(parameters, **hyperparameters)`, with the hyperparameters of the request.

    Raises:
        TrainingError: The request cannot be carried out, or a file cannot be written.
        KeyboardInterrupt: The user interrupted before training began.
    """

    def tell(text: str) -> None:
        if console is not None:
            print_plainly(console, text)

    with torch.random.fork_rng(devices=[]):
        corpus = None if config.task else load_corpus(config.text, config.block)
        problems = problems_of(config, corpus)
        problem = problems(config.seed)
        size = sum(parameter.numel() for parameter in problem.model.parameters())
        candidates = load_candidates(config, load, problem.model.parameters())
        searches: dict[str, tuple[Trial, ...]] = {}
        if config.tuned:
            tuning.require_rates(candidates)
        log.prepare_directory(config.out)
        metrics = dict.fromkeys(name for candidate in candidates for name in candidate.metrics)
        with ExitStack() as stack:
            csv = stack.enter_context(log.CsvLog(config.out / CSV_NAME, tuple(metrics)))
            rows: log.Rows = csv
            if config.tensorboard:
                board = stack.enter_context(log.BoardLog(config.out / BOARD_NAME))
                rows = log.Both(csv, board)
            # Should the process be killed, older results must not look like those of this one.
            for name in (*(figure_name(suffix) for suffix in FORMATS), SUMMARY_NAME, PAGE_NAME):
                (config.out / name).unlink(missing_ok=True)
            tell(_introduction(config, corpus, size))
            if config.tuned:
                candidates, searches = tuning.tune(config, problems, candidates, tell)
            with reporter(console, config) as progress:
                entries = run_all(config, problems, candidates, rows, progress)

    comparison = Comparison(
        config=config,
        entries=entries,
        characters=None if corpus is None else len(corpus),
        vocabulary=None if corpus is None else len(corpus.vocabulary),
        parameters=size,
        unigram_entropy=None if corpus is None else corpus.unigram_entropy,
        csv=config.out / CSV_NAME,
        figures=tuple(config.out / figure_name(suffix) for suffix in config.formats),
        summary=config.out / SUMMARY_NAME,
        searches=searches,
        unit=find_task(config.task).unit if config.task else "nats per character",
        ceiling=problem.ceiling,
    )
    if console is not None:
        console.print(report.table(comparison))
    log.write_atomically(comparison.summary, lambda path: report.write_summary(comparison, path))
    for file in comparison.figures:
        log.write_atomically(file, lambda path: figure.draw(comparison, path))
    page = config.out / PAGE_NAME
    log.write_atomically(page, lambda path: write_page(comparison, path))
    for file in (comparison.csv, *comparison.figures, comparison.summary, page):
        tell(f"wrote {file}")
    return comparison


def figure_name(suffix: str) -> str:
    """Returns the name of the figure's file in a format."""
    return f"training.{suffix}"


def problems_of(config: TrainingConfig, corpus: Corpus | None) -> Problems:
    """Returns what a comparison trains: a task, or a transformer on the corpus.

    Raises:
        TrainingError: There is no such task, or its data cannot be read.
    """
    if corpus is None:
        task = find_task(config.task or "")
        sources = Sources(text=config.text, images=config.images)
        return lambda seed: task.problem(seed, sources)
    windows = spaced_windows(corpus.validation, config.block, config.validation_windows)
    symbols = len(corpus.vocabulary)

    def transformer(seed: int) -> Problem:
        model = build_model(config.model_copy(update={"seed": seed}), symbols)
        return window_problem(model, corpus.train, windows, config.block, config.batch, symbols)

    return transformer


def _introduction(config: TrainingConfig, corpus: Corpus | None, size: int) -> str:
    """Describes the text and the model, which has `size` parameters."""
    if corpus is None:
        task = find_task(config.task or "")
        return f"task: {task.name}, {task.summary}, with {size:,} parameters"
    source = config.text or "Python's standard library"
    return (
        f"text: {source}, {len(corpus):,} characters, {len(corpus.vocabulary)} symbols, "
        f"unigram entropy {corpus.unigram_entropy:.3f} nats per character\n"
        f"model: transformer with {size:,} parameters, {config.layers} layers of width "
        f"{config.width}, block {config.block}, batch {config.batch}"
    )
