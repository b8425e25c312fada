"""The runs of a comparison: every optimizer, with every seed."""

from torch import Tensor, nn

from optdsl.training.candidates import Candidate
from optdsl.training.config import TrainingConfig
from optdsl.training.log import CsvLog
from optdsl.training.loop import train
from optdsl.training.model import build_model
from optdsl.training.progress import Reporter
from optdsl.training.results import Entry, Record, Run, Status
from optdsl.training.text import Corpus, spaced_windows


def run_all(
    config: TrainingConfig,
    corpus: Corpus,
    candidates: list[Candidate],
    rows: CsvLog,
    progress: Reporter,
) -> tuple[Entry, ...]:
    """Trains every candidate with the first seed, then every one with the next seed, and so on.

    After an interrupt, the numbers of runs of any two optimizers differ by one at most.
    """
    windows = spaced_windows(corpus.validation, config.block, config.validation_windows)
    runs: dict[str, list[Run]] = {candidate.label: [] for candidate in candidates}
    interrupted = False
    for seed in config.all_seeds:
        seeded = config.model_copy(update={"seed": seed})
        model = build_model(seeded, len(corpus.vocabulary))
        for candidate in candidates:
            label = candidate.label
            if interrupted:
                runs[label].append(Run(label, Status.NOT_STARTED, seed=seed))
                continue
            run = _run(seeded, corpus.train, windows, model, candidate, rows, progress)
            interrupted = run.status is Status.INTERRUPTED
            progress.finish(run)
            runs[label].append(run)
    return tuple(Entry(c.label, tuple(runs[c.label]), c.setup) for c in candidates)


def _run(
    config: TrainingConfig,
    text: Tensor,
    windows: Tensor,
    model: nn.Module,
    candidate: Candidate,
    rows: CsvLog,
    progress: Reporter,
) -> Run:
    records: list[Record] = []
    status = Status.FINISHED
    try:
        model, optimizer = candidate.start(model, config.seed)
        for record in train(config, model, optimizer, text, windows):
            rows.write(candidate.label, config.seed, record)
            records.append(record)
            progress.advance(candidate.label, config.seed, record)
        if not records[-1].finite:
            status = Status.DIVERGED
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
    return Run(candidate.label, status, tuple(records), config.seed)
