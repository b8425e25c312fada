"""A small search for the learning rate of each optimizer, with the same budget for all.

Each optimizer is trained with `MULTIPLIERS` times its default learning rate (or the one that was
set for it) for a part of the comparison's steps, with the schedule of a run of that length and with
a seed that the comparison does not use.  The rate with the lowest validation loss is taken.
"""

import math
from collections.abc import Callable, Iterable

from optdsl.training.candidates import Candidate
from optdsl.training.config import TrainingConfig, TrainingError
from optdsl.training.loop import Course, train
from optdsl.training.problem import Problems
from optdsl.training.results import Trial
from optdsl.words import counted

MULTIPLIERS = (0.1, 0.3, 1.0, 3.0, 10.0)


def search_steps(config: TrainingConfig) -> int:
    """Returns the steps of one trial; all trials of an optimizer take as many as one run."""
    return max(1, config.steps // len(MULTIPLIERS))


def budget_in_words(config: TrainingConfig) -> str:
    """Describes the search for readers of tables and figures."""
    factors = ", ".join(f"{multiplier:g}" for multiplier in MULTIPLIERS)
    return (
        f"the best of {factors} times the default after {counted(search_steps(config), 'step')} "
        "each, by validation loss"
    )


def require_rates(candidates: Iterable[Candidate]) -> None:
    """Checks that the learning rates can be searched for by multiplication.

    Raises:
        TrainingError: A learning rate is zero, which stays zero whatever it is multiplied by.
    """
    for candidate in candidates:
        if candidate.setup.learning_rate == 0:
            raise TrainingError(
                f"the learning rate of optimizer '{candidate.label}' is 0, and a search around 0 "
                f"finds nothing; set another one, as in --set {candidate.label}.lr=1e-3"
            )


def tune(
    config: TrainingConfig,
    problems: Problems,
    candidates: list[Candidate],
    tell: Callable[[str], None],
) -> tuple[list[Candidate], dict[str, tuple[Trial, ...]]]:
    """Searches for the learning rate of every candidate.

    Args:
        config: The comparison.
        problems: What is trained.
        candidates: Its optimizers.
        tell: Receives a line on the results for each optimizer.

    Returns:
        The candidates with the rates that were found, and the trials by label.  An optimizer
        keeps its rate if all of its trials failed.
    """
    steps = search_steps(config)
    short = config.model_copy(
        update={"steps": steps, "evaluate_every": steps, "seed": config.all_seeds.stop}
    )
    tell(f"searching for learning rates: {budget_in_words(config)}")
    tuned = []
    searches = {}
    for candidate in candidates:
        centre = candidate.setup.learning_rate
        trials = tuple(
            _try(short, problems, candidate, multiplier * centre) for multiplier in MULTIPLIERS
        )
        best = min(trials, key=_loss)
        found = math.isfinite(_loss(best))
        tuned.append(candidate.tuned(best.learning_rate) if found else candidate)
        searches[candidate.label] = trials
        tell(_line(candidate.label, trials, best if found else None))
    return tuned, searches


def _try(
    config: TrainingConfig,
    problems: Problems,
    candidate: Candidate,
    learning_rate: float,
) -> Trial:
    problem = problems(config.seed)
    try:
        optimizer = candidate.tuned(learning_rate).start(problem.model, config.seed)
    except ValueError:  # out of the bounds of the hyperparameter
        return Trial(learning_rate, None)
    *_, last = train(problem, optimizer, Course.of(config))
    return Trial(learning_rate, last.validation_loss if last.finite else None)


def _loss(trial: Trial) -> float:
    return math.inf if trial.validation_loss is None else trial.validation_loss


def _line(label: str, trials: tuple[Trial, ...], best: Trial | None) -> str:
    told = []
    for trial in trials:
        loss = "failed" if trial.validation_loss is None else f"{trial.validation_loss:.3f}"
        told.append(f"{trial.learning_rate:.4g}: {loss}" + (" *" if trial is best else ""))
    end = ""
    if best is None:
        end = "; none works, and it keeps its rate"
    elif best in (trials[0], trials[-1]):
        end = "; the best is at the edge of what was tried"
    return f"  {label}  {', '.join(told)}{end}"
