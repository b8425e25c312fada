"""Starts: a grid of good and bad ones, cell by cell against the members and the controls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import model_validator

from optdsl.diagnostics import nearest
from optdsl.pages.claims import Chapter, Claim
from optdsl.studies.catalog.comparison import ControlKind, TrainingStudy
from optdsl.studies.catalog.contestants import DIRECTION, MADA, PAPER, STEERED
from optdsl.studies.catalog.settings import (
    DIFFERENT,
    SOME,
    Beta,
    Listed,
    Positive,
    Task,
    mistake,
    startable,
)
from optdsl.studies.catalog.start_cells import Arms, CellRuns, describe
from optdsl.studies.catalog.start_tables import cell_table, chart, criteria
from optdsl.studies.frame.values import Frozen, Results, Run
from optdsl.studies.runs.optimizers import Contestant
from optdsl.training.tasks import find_task

BETAS = ("beta1", "beta2")  # what learners and most members call them


class Cell(Frozen):
    """A start.

    Attributes:
        rate: The learning rate, as a factor of the task's own.
        beta1: The start of β1.
        beta2: The start of β2.
    """

    rate: Positive
    beta1: Beta
    beta2: Beta

    def __str__(self) -> str:
        """Says it in a cell of a table."""
        return f"{self.rate:g} × lr, β1 {self.beta1:g}, β2 {self.beta2:g}"


class Member(Frozen):
    """A fixed optimizer, started in a cell.

    Attributes:
        contestant: The optimizer.
        betas: Its hyperparameters that start at the β1 and β2 of the cell, as far as it has them.
    """

    contestant: Listed
    betas: tuple[str, ...] = BETAS

    @model_validator(mode="after")
    def _has_the_betas(self) -> Self:
        if self.contestant.foreign:
            return self
        known = self.contestant.elaboration().program.defaults
        for number, name in enumerate(self.betas):
            if name not in known and name not in BETAS:
                hint = nearest(name, known) or f"its hyperparameters are {', '.join(known)}"
                told = f"{self.contestant.label} has no hyperparameter '{name}': {hint}"
                raise mistake(("betas", number), told)
        return self

    @property
    def label(self) -> str:
        """That of the optimizer."""
        return self.contestant.label


def _cells(*starts: tuple[float, float, float]) -> tuple[Cell, ...]:
    return tuple(Cell(rate=rate, beta1=beta1, beta2=beta2) for rate, beta1, beta2 in starts)


def _member(rule: str, *betas: str, **hypers: float) -> Member:
    scale = 0.1 if rule == "lion" else 1.0
    label = "adam" if rule == "adamw" else rule
    found = Contestant(label=label, rule=rule, hypers={"weight_decay": 0.0, **hypers}, scale=scale)
    return Member(contestant=found, betas=betas)


# The members of the blend `mada` with its ε; Adan counts its betas otherwise, and the blend's Lion
# has betas of its own.
MEMBERS = (
    _member("adamw", "beta1", "beta2", eps=1e-6),
    _member("avgrad", "beta1", "beta2", eps=1e-6),
    _member("yogi", "beta1", "beta2", eps=1e-6, m0=0.0, v0=0.0),
    _member("adan", "beta1", "beta3", eps=1e-6),
    _member("lion"),
)

CELLS = _cells(
    (0.3, 0.9, 0.95),
    (0.3, 0.5, 0.6),
    (1.0, 0.9, 0.95),
    (1.0, 0.9, 0.999),
    (1.0, 0.5, 0.6),
    (1.0, 0.98, 0.6),
    (3.0, 0.9, 0.95),
    (3.0, 0.98, 0.6),
)


class StartsStudy(TrainingStudy):
    """Learners from good and bad starts, against their members and controls.

    Attributes:
        cells: The starts.
        contestants: The learners.
        members: The optimizers that a learner blends; the first one shows the noise, too.
        factors: Factors of the learning rates by which coefficients are learned.
        controls: The controls of each learner.
    """

    study: Literal["starts"] = "starts"
    tasks: Annotated[tuple[Task, ...], SOME, DIFFERENT] = (
        "characters",
        "cnn",
        "recurrent",
        "autoencoder",
    )
    cells: Annotated[tuple[Cell, ...], SOME, DIFFERENT] = CELLS
    contestants: Annotated[tuple[Listed, ...], DIFFERENT] = (MADA, STEERED, PAPER, DIRECTION)
    members: Annotated[tuple[Member, ...], SOME, DIFFERENT] = MEMBERS
    factors: Annotated[tuple[Positive, ...], DIFFERENT] = (3.0, 1 / 3)
    controls: tuple[ControlKind, ...] = ("start", "walk")

    title: ClassVar[str] = "Good and bad starts"
    summary: ClassVar[str] = "cell by cell against members, controls and other rates of learning"
    trajectories: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        return cls(
            seeds=1,
            scale=0.1,
            tasks=("mlp",),
            cells=_cells((1.0, 0.9, 0.95), (3.0, 0.98, 0.6)),
            contestants=(MADA, DIRECTION),
        )

    @model_validator(mode="after")
    def _startable(self) -> Self:
        every = [Member(contestant=learner) for learner in self.contestants] + [*self.members]
        for number, cell in enumerate(self.cells):
            startable(
                ("cells", number),
                (self.started(self.tasks[0], cell, m.contestant, m.betas) for m in every),
            )
        return self

    def started(
        self, task: str, cell: Cell, contestant: Contestant, betas: Sequence[str]
    ) -> Contestant:
        """Returns an optimizer with the learning rate of a cell, and with such betas as it has."""
        centre = contestant.centre or contestant.scale * find_task(task).learning_rate
        known = {} if contestant.foreign else contestant.elaboration().program.defaults
        pairs = zip(betas, (cell.beta1, cell.beta2), strict=False)
        starts = {name: beta for name, beta in pairs if name in known}
        return contestant.with_hypers(lr=cell.rate * centre, **starts)

    def cell_runs(self, known: Results, task: str, cell: Cell, learner: Contestant) -> CellRuns:
        """Returns the runs of a cell that can be named so far."""
        ours = self.started(task, cell, learner, BETAS)
        members = [self.started(task, cell, m.contestant, m.betas) for m in self.members]
        others: Arms = self.controlled(known, task, ours, self.controls)
        for factor in self.factors:
            faster = ours.with_rates(factor)
            if faster is not None:
                told = f"{factor:.3g}" if factor >= 1 else f"1/{1 / factor:.3g}"
                others[f"rates × {told}"] = self.repeated(task, faster)
        return CellRuns(
            task,
            str(cell),
            self.repeated(task, ours),
            {member.label: self.repeated(task, member) for member in members},
            others,
            [(self.repeated(task, who), self.noise(task, who)) for who in (ours, members[0])],
        )

    def _of(self, known: Results, learner: Contestant) -> list[CellRuns]:
        return [
            self.cell_runs(known, task, cell, learner)
            for task in self.tasks
            for cell in self.cells
        ]  # fmt: skip

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        cells = [cell for learner in self.contestants for cell in self._of(known, learner)]
        return list({run.key: run for cell in cells for run in cell.runs}.values())

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        members = ", ".join(member.contestant.label for member in self.members)
        introduction = (
            f"{len(self.tasks)} tasks, {len(self.cells)} starts of each, {self.seeds} seeds; final "
            "validation losses, means over seeds. A start is a factor of the task's learning rate, "
            f"β1 and β2. The members ({members}; Lion at a tenth of the learning rate, with its "
            "own betas) start where the learner does; which is the best or the median one is "
            "known only afterwards. A run that diverges is worse than all that do not. The noise "
            "of a cell is what ε changed by a thousandth does to the losses of the learner and of "
            f"{self.members[0].contestant.label}, mean and standard deviation over seeds added, of "
            "the noisier of the two."
        )
        claims = [self._claim(known, learner) for learner in self.contestants]
        return Chapter(self.study, self.title, introduction, claims)

    def _claim(self, known: Results, learner: Contestant) -> Claim:
        cells = [describe(self, known, runs) for runs in self._of(known, learner)]
        number = self.contestants.index(learner)
        return Claim(
            f"{learner.label} is never worse than its best member, and better from bad starts",
            "MADA is at least as good as the best of its members, and robust to its start (Ozkara "
            "et al., 2024); the paper compares training losses, and has no such controls.",
            "Final validation loss, cell by cell. Within noise: higher by no more than the noise.",
            criteria(cells),
            (chart(f"starts-{number}", learner.label, cells),),
            tuple(
                cell_table(
                    f"{learner.label} on {task}, {self.steps(task)} steps, {find_task(task).unit}",
                    learner.label,
                    [cell for cell in cells if cell.task == task],
                )
                for task in self.tasks
            ),
        )
