"""Tasks to train on: small ones of many kinds, each of a size that one processor carries.

`TASKS` has them by name.  A task with a seed is a `Problem`: a model with initial weights, a loss
of batches and a loss of validation, all of which the seed decides.
"""

from optdsl.diagnostics import nearest
from optdsl.training.config import TrainingError
from optdsl.training.problem import Problem, Sources
from optdsl.training.tasks.base import Task
from optdsl.training.tasks.images import (
    AutoencoderTask,
    CNNTask,
    DiffusionTask,
    LogisticTask,
    MLPTask,
    ResNetTask,
)
from optdsl.training.tasks.surfaces import LeastSquaresTask, RosenbrockTask, SaddleTask
from optdsl.training.tasks.texts import ByteTask, CharacterTask, RecurrentTask

__all__ = ["TASKS", "Problem", "Sources", "Task", "find_task"]

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        CharacterTask(),
        ByteTask(),
        RecurrentTask(),
        MLPTask(),
        CNNTask(),
        ResNetTask(),
        AutoencoderTask(),
        DiffusionTask(),
        LogisticTask(),
        LeastSquaresTask(),
        RosenbrockTask(),
        SaddleTask(),
    )
}


def find_task(name: str) -> Task:
    """Returns a task by its name.

    Raises:
        TrainingError: There is none.
    """
    if name not in TASKS:
        hint = nearest(name, TASKS) or f"the tasks are {', '.join(TASKS)}"
        raise TrainingError(f"there is no task '{name}': {hint}")
    return TASKS[name]
