"""The runs of a comparison: every optimizer, with every seed."""

from optdsl.training.candidates import Candidate
from optdsl.training.config import TrainingConfig
from optdsl.training.log import Rows
from optdsl.training.loop import Course, train
from optdsl.training.problem import Problems
from optdsl.training.progress import Reporter
from optdsl.training.results import Entry, Record, Run, Status


def run_all(
    config: TrainingConfig,
    problems: Problems,
    candidates: list[Candidate],
    rows: Rows,
    progress: Reporter,
) -> tuple[Entry, ...]:
    """Trains every candidate with the first seed, then every one with the next seed, and so on.

    After an interrupt, the numbers of runs of any two optimizers differ by one at most.
    """
    runs: dict[str, list[Run]] = {candidate.label: [] for candidate in candidates}
    interrupted = False
    for seed in config.all_seeds:
        seeded = config.model_copy(update={"seed": seed})
        for candidate in candidates:
            label = candidate.label
            if interrupted:
                runs[label].append(Run(label, Status.NOT_STARTED, seed=seed))
                continue
            run = _run(seeded, problems, candidate, rows, progress)
            interrupted = run.status is Status.INTERRUPTED
            progress.finish(run)
            runs[label].append(run)
    return tuple(Entry(c.label, tuple(runs[c.label]), c.setup) for c in candidates)


def _run(
    config: TrainingConfig,
    problems: Problems,
    candidate: Candidate,
    rows: Rows,
    progress: Reporter,
) -> Run:
    records: list[Record] = []
    status = Status.FINISHED
    try:
        problem = problems(config.seed)
        optimizer = candidate.start(problem.model, config.seed)
        for record in train(problem, optimizer, Course.of(config)):
            rows.write(candidate.label, config.seed, record)
            records.append(record)
            progress.advance(candidate.label, config.seed, record)
        if not records[-1].finite:
            status = Status.DIVERGED
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
    return Run(candidate.label, status, tuple(records), config.seed)
