"""Carrying out studies, and writing their report."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from optdsl.pages.claims import Chapter
from optdsl.pages.html import Page, render
from optdsl.studies.errors import StudyError
from optdsl.studies.frame.cluster import Cluster
from optdsl.studies.frame.driver import Driver
from optdsl.studies.frame.execution import Executor
from optdsl.studies.frame.files import write_study
from optdsl.studies.frame.keys import circumstances
from optdsl.studies.frame.local import Local
from optdsl.studies.frame.progress import Reporter
from optdsl.studies.frame.store import Store
from optdsl.studies.frame.study import Study
from optdsl.studies.frame.values import Result, Results
from optdsl.studies.runs.controls import PREFIX
from optdsl.words import counted

REPORT = "report.html"


def executor_of(name: str) -> Executor:
    """Returns an executor by its name.

    Raises:
        StudyError: There is none of that name, or it cannot be started.
    """
    if name == "local":
        return Local()
    if name == "ray":
        return Cluster()
    raise StudyError(f"there is no executor '{name}'; the executors are local and ray")


def conduct(
    studies: Sequence[Study],
    out: Path,
    executor: Executor,
    console: Console | None = None,
    retry: bool = False,
) -> Path:
    """Carries out studies, and writes their report.

    Writes to the directory: `runs/KEY.json`, the result of each run; `NAME.yaml`, each study;
    `NAME.csv`, its numbers, one per row; `NAME-series.csv`, its series; `figures/`, `tables/` and
    `report.html`.

    Args:
        studies: The studies, one of each name.
        out: The directory.
        executor: Carries out the runs; it is closed at the end.
        console: Shows progress; None for no output.
        retry: Whether runs that failed before are tried again.

    Returns:
        The path of the report.

    Raises:
        StudyError: The directory cannot be written to.
        KeyboardInterrupt: The user stopped it; finished runs are kept.
    """
    store = Store(out / "runs")
    for study in studies:
        (out / f"{study.study}.yaml").write_text(write_study(study), encoding="utf-8")
    try:
        with Reporter(console, executor.slots) as reporter:
            planners = [study.runs for study in studies]
            results = Driver(planners, store, executor, reporter, retry).carry_out()
    finally:
        executor.close()
        store.close()
    return write_report(studies, results, out)


def write_report(studies: Sequence[Study], results: Results, out: Path) -> Path:
    """Writes report, figures and tables from results, and returns the path of the report."""
    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    ours = {study.study: _results_of(study, results) for study in studies}
    for study in studies:
        found = ours[study.study]
        _write_numbers(found, out / f"{study.study}.csv")
        _write_series(found, out / f"{study.study}-series.csv", study.trajectories)
    chapters = [study.chapter(results) for study in studies]
    _write_tables(chapters, out / "tables")
    every = {result.key: result for found in ours.values() for result in found}
    failed = [result for result in every.values() if not result.finished]
    seconds = sum(result.seconds for result in every.values())
    page = Page(
        "Learned optimizers, measured",
        (
            f"{counted(len(every), 'run')} of {counted(len(studies), 'study').replace('ys', 'ies')}"
            f" in {seconds / 60:.1f} minutes, summed over the runs; {len(failed)} failed. Each "
            "verdict follows from criteria that were declared before the measurement, and nothing "
            "on this page is written by hand. ± is a standard deviation over seeds.",
        ),
        chapters,
        {study.study: _command(study, out) for study in studies},
        [f"{_told(result)}: {result.message}" for result in failed],
        circumstances(),
    )
    path = out / REPORT
    path.write_text(render(page, figures), encoding="utf-8")
    return path


def _results_of(study: Study, results: Results) -> list[Result]:
    found = (results.by_key(run.key) for run in study.runs(results))
    return [result for result in found if result is not None]


def _command(study: Study, out: Path) -> str:
    """Returns the command that carries a study out again, from the directory around `out`."""
    directory = shlex.quote(out.name or ".")
    return f"optdsl study {directory}/{study.study}.yaml --out {directory}"


def _told(result: Result) -> str:
    fields = (f"{k} {v}" for k, v in result.run.items() if isinstance(v, str | int | float))
    return ", ".join(fields)


def _write_numbers(results: Sequence[Result], path: Path) -> None:
    """Writes one row per number; the run's plain fields go before."""
    flat = [dict(_flat(result.run)) for result in results]
    fields = list(dict.fromkeys(name for run in flat for name in run))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "status", *fields, "quantity", "value"])
        for result, run in zip(results, flat, strict=True):
            start = [result.key, result.status.value, *(run.get(name, "") for name in fields)]
            for name, value in result.outcome.numbers.items():
                writer.writerow([*start, name, value])


def _write_series(results: Sequence[Result], path: Path, trajectories: bool) -> None:
    """Writes one row per element of a series; the key of its run names its fields."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "quantity", "index", "value"])
        for result in results:
            for name, values in result.outcome.series.items():
                if trajectories or not name.startswith(PREFIX):
                    writer.writerows(
                        (result.key, name, index, value) for index, value in enumerate(values)
                    )


def _write_tables(chapters: Sequence[Chapter], directory: Path) -> None:
    """Writes the tables of the report: STUDY-CLAIM-TABLE.csv, counted from 1."""
    directory.mkdir(exist_ok=True)
    for chapter in chapters:
        for place, claim in enumerate(chapter.claims, 1):
            for number, table in enumerate(claim.tables, 1):
                path = directory / f"{chapter.name}-{place}-{number}.csv"
                with path.open("w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows([table.columns, *table.rows])


def _flat(data: object, prefix: str = "") -> list[tuple[str, object]]:
    """Returns the leaves of nested data with dotted names; sequences are one leaf."""
    if not isinstance(data, dict):
        return [] if data is None else [(prefix, data)]
    pairs = ((f"{prefix}.{k}" if prefix else str(k), v) for k, v in data.items())
    return [leaf for name, value in pairs for leaf in _flat(value, name)]
