"""What the report says about the grid of starts: criteria, tables and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from matplotlib.figure import Figure

from optdsl.pages.charts import COLOURS
from optdsl.pages.claims import Chart, Criterion, Judged, Table
from optdsl.pages.statistics import sign_test
from optdsl.studies.catalog.comparison import NAMES
from optdsl.studies.catalog.start_cells import CellLosses
from optdsl.training.tasks import find_task

SHARE = 0.8  # of the cells in which the learner is to be better than the median member
LEVEL = 0.05  # of the sign tests
MARKERS = "sD^v<>pX"  # of the controls and of other rates, in turn


def criteria(cells: Sequence[CellLosses]) -> tuple[Criterion, ...]:
    """Returns what decides whether a learner holds up."""
    complete = all(cell.complete for cell in cells)

    def counted(text: str, holds: Sequence[bool], share: float = 1.0) -> Criterion:
        met = sum(holds)
        decided = met >= share * len(cells) if complete else None
        return Criterion(text, f"in {met} of {len(cells)}", decided)

    def signs(label: str) -> list[int]:
        return [cell.compare(cell.learner, cell.others[label]) for cell in cells]

    found = [
        counted(
            "within noise of the best member, or lower, in every cell",
            [cell.compare(cell.learner, cell.members[cell.best]) <= 0 for cell in cells],
        ),
        counted(
            f"lower loss than the median member in at least {100 * SHARE:.0f} % of the cells",
            [cell.learner < cell.median for cell in cells],
            SHARE,
        ),
    ]
    for label in cells[0].others:
        if label in NAMES:
            found.append(_control(label, signs(label), complete))
        else:
            text = f"no worse than noise with its {label}, in every cell"
            found.append(counted(text, [sign >= 0 for sign in signs(label)]))
    return tuple(found)


def _control(label: str, signs: Sequence[int], complete: bool) -> Criterion:
    lower, higher = signs.count(-1), signs.count(1)
    p = sign_test(lower, higher)
    return Criterion(
        f"better than itself with coefficients: {NAMES[label]}, with p < {LEVEL} by a sign test of "
        "the cells that differ by more than noise",
        f"lower in {lower} cells, higher in {higher}, p = {p:.2g}",
        lower > higher and p < LEVEL if complete else None,
    )


def cell_table(caption: str, learner: str, cells: Sequence[CellLosses]) -> Table:
    """Returns a table with a row for each cell."""
    others = list(cells[0].others)
    columns = (
        "start", "against best", "against median", learner, "best member", "median",
        *(NAMES.get(label, label) for label in others), "noise",
    )  # fmt: skip
    rows = tuple(
        (
            cell.start,
            _against_best(cell),
            _against_median(cell),
            _told(cell.learner),
            f"{_told(cell.members[cell.best])} ({cell.best})",
            _told(cell.median),
            *(_told(cell.others[label]) for label in others),
            _told(cell.noise, 2),
        )
        for cell in cells
    )
    return Table(caption, columns, rows)


def _against_best(cell: CellLosses) -> str | Judged:
    if not cell.complete:
        return "–"
    sign = cell.compare(cell.learner, cell.members[cell.best])
    return Judged({-1: "lower", 0: "within noise", 1: "higher"}[sign], sign <= 0)


def _against_median(cell: CellLosses) -> str | Judged:
    if not cell.complete:
        return "–"
    lower = cell.learner < cell.median
    return Judged("lower" if lower else "not lower", lower)


def _told(loss: float, digits: int = 4) -> str:
    if math.isnan(loss):
        return "–"
    return f"{loss:.{digits}g}" if math.isfinite(loss) else "diverged"


def chart(name: str, learner: str, cells: Sequence[CellLosses]) -> Chart:
    """Returns a figure of differences from the best member, a panel for each task."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    rows = max((sum(cell.task == task for cell in cells) for task in tasks), default=1)

    def draw(figure: Figure) -> None:
        columns = min(2, len(tasks))
        panels = figure.subplots(math.ceil(len(tasks) / 2), columns, squeeze=False).flatten()
        for axes in panels[len(tasks) :]:
            axes.set_visible(False)
        for index, (axes, task) in enumerate(zip(panels, tasks, strict=False)):
            ours = [cell for cell in cells if cell.task == task]
            places = range(len(ours))
            noise = [cell.noise for cell in ours if math.isfinite(cell.noise)]
            for place, cell in zip(places, ours, strict=True):
                if math.isfinite(cell.noise):
                    axes.plot([-cell.noise, cell.noise], [place, place], color="#999999",
                              alpha=0.4, linewidth=6, solid_capstyle="butt")  # fmt: skip
            for label, (marker, colour) in reversed(_marks(learner, ours).items()):
                xs = [_difference(cell, label, learner) for cell in ours]
                filled = colour if label == learner else "none"
                axes.plot(xs, places, marker, color=colour, label=label, markersize=5,
                          markerfacecolor=filled, clip_on=False)  # fmt: skip
            axes.axvline(0, color="#999999", linewidth=0.8)
            axes.set_xscale("symlog", linthresh=max(1e-3, 3 * median(noise) if noise else 1e-2))
            axes.set_yticks(places, [cell.start for cell in ours] if index % 2 == 0 else [])
            axes.invert_yaxis()
            axes.margins(x=0.06)
            axes.set_title(f"{task}, {find_task(task).unit}")
            axes.tick_params(axis="x", labelsize=7)
        handles, labels = panels[0].get_legend_handles_labels()
        names = [NAMES.get(label, label) for label in labels]
        figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=3)

    caption = (
        f"{learner} and its controls: validation loss minus that of the best member of the cell, "
        "linear around zero and logarithmic beyond. Left of zero is better than every member; grey "
        "bars are the noise. What diverged is not drawn."
    )
    height = 0.8 + math.ceil(len(tasks) / 2) * (0.7 + 0.26 * rows)
    return Chart(name, caption, draw, (8.0, max(2.6, height)))


def _marks(learner: str, cells: Sequence[CellLosses]) -> dict[str, tuple[str, str]]:
    """Returns marker and colour of what is drawn, by label."""
    found = {learner: ("o", COLOURS[0]), "median member": ("|", COLOURS[-1])}
    for index, label in enumerate(cells[0].others):
        marker = MARKERS[index % len(MARKERS)]
        found[label] = marker, COLOURS[1 + index % (len(COLOURS) - 2)]
    return found


def _difference(cell: CellLosses, label: str, learner: str) -> float:
    own = {learner: cell.learner, "median member": cell.median}
    loss = own[label] if label in own else cell.others[label]
    difference = loss - cell.members[cell.best]
    return difference if math.isfinite(difference) else math.nan
