"""``optdsl study``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from optdsl.cli.errors import UsageError
from optdsl.diagnostics import nearest

if TYPE_CHECKING:
    from optdsl.studies.frame.study import Study

DESCRIPTION = """\
Measure the claims about learned optimizers again, with controls, and write a report with a verdict
for each. The studies are counterexample, interpolation, language, vision, robustness, starts,
evolution, cost and workloads; without a name, all of them. A .yaml file is a study with other
settings.

Every run is stored under a hash of what decides its result. A study that was stopped goes on where
it was, and runs that others have done are not done again."""

EPILOG = """\
examples:
  optdsl study --quick
  optdsl study counterexample language --seeds 5 --text shakespeare.txt --out results
  optdsl study results/language.yaml

The exit status is 0, 1 if runs failed, 2 for a mistake in the request, or 130 when interrupted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="a study, or a .yaml file with one")
    add("--quick", action="store_true", help="a small grid of each: all in some minutes")
    add("--seeds", type=int, metavar="N", help="repetitions with different seeds (default: 3)")
    add(
        "--executor",
        default="local",
        metavar="NAME",
        help="local: as many processes as there are processors; ray: a cluster (default: local)",
    )
    add(
        "--out",
        type=Path,
        default=Path("studies"),
        metavar="DIR",
        help="directory for results and report; finished runs in it are kept (default: studies)",
    )
    add("--text", type=Path, metavar="FILE", help="UTF-8 text for tasks that learn a text")
    add("--images", type=Path, metavar="DIR", help="images for tasks that learn images")
    add("--retry", action="store_true", help="try runs again that failed before")


def run(options: argparse.Namespace) -> int:
    """Carry out the studies; the exit status is 1 if runs failed."""
    try:
        from rich.console import Console

        from optdsl.studies.conduct import conduct, executor_of
        from optdsl.studies.errors import StudyError
    except ModuleNotFoundError as error:
        needed = "needs matplotlib, numpy, pyyaml and rich: pip install 'optdsl[study]'"
        raise UsageError(f"{needed} ({error.name} is missing)") from None

    console = Console()
    try:
        studies = _studies(options)
        path = conduct(studies, options.out, executor_of(options.executor), console, options.retry)
    except StudyError as error:
        raise UsageError(str(error)) from None
    console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    return 1 if "id='failed'" in path.read_text(encoding="utf-8") else 0


def _studies(options: argparse.Namespace) -> list[Study]:
    """Return the studies of the request."""
    from optdsl.studies.catalog import STUDIES
    from optdsl.studies.errors import StudyError
    from optdsl.studies.frame.files import read_study

    if options.seeds is not None and options.seeds < 1:
        raise StudyError("--seeds must be 1 or more")
    for name in ("text", "images"):
        path = getattr(options, name)
        if path is not None and not path.exists():
            raise StudyError(f"there is no '{path}', which --{name} names")
    found: dict[str, Study] = {}
    for name in options.names or STUDIES:
        if name.endswith((".yaml", ".yml")):
            if options.quick:
                raise StudyError(f"--quick is for studies by name; {name} says how large it is")
            study = read_study(Path(name), STUDIES)
        elif name in STUDIES:
            cls = STUDIES[name]
            study = cls.quick() if options.quick else cls.model_validate({"study": name})
        else:
            hint = nearest(name, STUDIES) or f"the studies are {', '.join(STUDIES)}"
            raise StudyError(f"there is no study '{name}': {hint}")
        if study.study in found:
            raise StudyError(f"the study '{study.study}' is named twice; name it once")
        known = type(study).model_fields
        given = {n: getattr(options, n) for n in ("seeds", "text", "images") if n in known}
        found[study.study] = study.model_copy(
            update={n: value for n, value in given.items() if value is not None}
        )
    return list(found.values())
