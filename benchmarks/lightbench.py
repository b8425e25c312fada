"""Rules of the library in LightBench: ``python -m benchmarks.lightbench``.

LightBench (the package ``lightbench``, of the authors of HeavyBall) has tasks of several
difficulties. An optimizer gets up to 1,000 tries at a task, each with other hyperparameters (the
learning rate and two betas) and up to 100,000 steps, and has solved it once a try reaches the
target. The package has a table of what its authors found, with which ours is compared, by task.

It is written for GPUs and names their device everywhere; where there is none, tensors are made on
the CPU. Its own runner is not used: that of version 0.1.1 waits for GPUs, and looks for a line that
its tasks do not print.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode

import optdsl
from benchmarks.worker import Unavailable, call, explain

DIFFICULTIES = ("trivial", "medium")
WARM_UP = 101  # HeavyBall's warm-up of 100 steps reaches the learning rate at the step after them
PUBLISHED = "AdamW"
MISSING = """\
LightBench is not installed. `pip install lightbench` brings it, with HeavyBall and Optuna. If pip
would replace your torch by another one, install them and what they import with `--no-deps`."""


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        solved: whether a try reached the target; None where that was not found out.
        tries: how many there were.
        hypers: those of the try that reached it.
        seconds: that it took.
        reason: why there is nothing more to say.
    """

    solved: bool | None
    tries: int
    hypers: str = ""
    seconds: float = 0.0
    reason: str = ""


class OnTheProcessor(TorchFunctionMode):
    """Makes and leaves tensors on the CPU where a call names a GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") == "cuda":
            return args[0]
        given = {name: _moved(value) for name, value in (kwargs or {}).items()}
        return func(*map(_moved, args), **given)


def _moved(value: Any) -> Any:
    named = isinstance(value, str | torch.device) and str(value).startswith("cuda")
    return torch.device("cpu") if named else value


@contextmanager
def device() -> Iterator[None]:
    """Where tasks run: on the GPU if there is one."""
    if torch.cuda.is_available():
        yield
        return
    with ExitStack() as stack:
        for name in ("empty_cache", "synchronize", "device"):
            stack.enter_context(mock.patch.object(torch.cuda, name, return_value=nullcontext()))
        stack.enter_context(mock.patch.object(torch.nn.Module, "cuda", lambda module, *_: module))
        stack.enter_context(OnTheProcessor())
        yield


def optimizer(rule: str, made: list[dict[str, Any]]) -> Callable[..., torch.optim.Optimizer]:
    """What LightBench calls for an optimizer.

    Args:
        rule: of the library; its learning rate is warmed up as those of the published table are.
        made: the hyperparameters of each try are appended to it.
    """
    kind = optdsl.load(f"{rule} with warmup")
    known = kind([torch.nn.Parameter(torch.zeros(1))]).defaults

    def make(
        params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        momentum = dict.fromkeys(("beta", "beta1", "momentum"), betas[0])
        given = {"lr": lr, **momentum, "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}
        made.append({"lr": lr, "betas": betas})
        hypers = {name: value for name, value in given.items() if name in known}
        return kind(params, **hypers, warmup_steps=WARM_UP)

    make.__name__ = rule
    return make


def run(
    task: str, difficulty: str, rule: str, steps: int, trials: int, seconds: int
) -> dict[str, Any]:
    """Tries a task, in this process.

    Args:
        task: a module of LightBench.
        difficulty: of the task.
        rule: of the library.
        steps: of a try at most.
        trials: how many tries at most.
        seconds: after which there is no further try.

    Returns:
        the attributes of `Outcome`; "solved" is None where the task does not have the difficulty,
        or an error ended it.
    """
    os.environ["HEAVYBALL_BENCHMARK_TIMEOUT"] = str(seconds)
    made: list[dict[str, Any]] = []
    won: list[bool] = []
    reason = ""
    begun = perf_counter()
    with device(), tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # tasks remove and write pictures
        suite = importlib.import_module("lightbench.utils")
        module = importlib.import_module(f"lightbench.{task}")
        signature = inspect.signature(suite.trial)

        def trial(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            reached = given.arguments["win_condition"]

            def observed(*state: Any) -> Any:
                found = reached(*state)
                if found[0]:
                    won.append(True)
                return found

            given.arguments["win_condition"] = observed
            return suite.trial(*given.args, **given.kwargs)

        main = module.main
        listed = isinstance(inspect.signature(main).parameters["dtype"].default.default, list)
        try:
            with mock.patch.object(module, "trial", trial):
                main(
                    dtype=["float32"] if listed else "float32",
                    steps=steps,
                    weight_decay=0,
                    opt=[optimizer(rule, made)],
                    trials=trials,
                    win_condition_multiplier=1.0,
                    config=difficulty,
                )
        except suite.Stop:
            pass
        except Exception as error:  # the tasks raise many kinds
            reason = explain(error)
        finally:
            os.chdir("/")
    hypers = made[-1] if won and made else None
    return {
        "solved": True if won else None if reason else False,
        "tries": len(made),
        "hypers": _hypers(hypers) if hypers else "",
        "seconds": perf_counter() - begun,
        "reason": reason,
    }


def _hypers(made: dict[str, Any]) -> str:
    first, second = made["betas"]
    return f"lr={made['lr']:.5f}, betas=({first:.3f}, {second:.4f})"


def published(text: str, name: str = PUBLISHED) -> dict[str, Outcome]:
    """What the table of LightBench says of an optimizer, by task and difficulty ("beale-trivial").

    Args:
        text: of the file ``benchmark_results.md`` of the package.
        name: of an optimizer; its rows without caution and MARS are taken.
    """
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) >= 9 and cells[1:4] == [name, "No", "No"]:
            task, mark, seconds, tries = cells[0], cells[4], cells[5], cells[7]
            hypers = re.search(r"lr=.*\)", cells[9]) if len(cells) > 9 else None
            words = hypers[0].split(", shampoo")[0] if hypers else ""
            took = float(seconds.removesuffix("s"))
            found[task] = Outcome(mark == "✓", int(float(tries)), words, took)
    return found


def table(tasks: Sequence[str], theirs: Mapping[str, Outcome], ours: Mapping[str, Any]) -> str:
    """The outcomes of rules beside the published ones, in Markdown.

    Args:
        tasks: with their difficulties.
        theirs: the published outcomes.
        ours: for each rule, the outcomes by task.
    """
    lines = [
        f"| task | {PUBLISHED}, published | {' | '.join(ours)} |",
        "|---" * (2 + len(ours)) + "|",
    ]
    for task in tasks:
        cells = [_cell(theirs[task]), *(_cell(found[task]) for found in ours.values())]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    lines.append("")
    for rule, found in ours.items():
        known = [task for task in tasks if found[task].solved is not None]
        solved = sum(bool(found[task].solved) for task in known)
        expected = sum(bool(theirs[task].solved) for task in known)
        same = sum(found[task].solved == theirs[task].solved for task in known)
        lines.append(
            f"{rule}: {solved} of {len(known)} solved; {PUBLISHED}, published: {expected} of the "
            f"same; alike in {same}."
        )
    return "\n".join(lines) + "\n"


def _cell(outcome: Outcome) -> str:
    if outcome.solved is None:
        return f"not found out: {outcome.reason}"
    words = "solved" if outcome.solved else "not solved"
    tries = f"{words}, {outcome.tries} {'try' if outcome.tries == 1 else 'tries'}"
    return ", ".join(filter(None, (tries, outcome.hypers)))


def attempt(task: str, rule: str, options: argparse.Namespace) -> Outcome:
    """Tries a task in a process of its own, which is ended if a try takes too long."""
    name, _, difficulty = task.rpartition("-")
    try:
        found = call(
            "lightbench",
            options.seconds + options.grace,
            task=name,
            difficulty=difficulty,
            rule=rule,
            steps=options.steps,
            trials=options.trials,
            seconds=options.seconds,
        )
    except Unavailable as unavailable:
        return Outcome(None, 0, reason=str(unavailable))
    found.pop("warnings")
    return Outcome(**found)


def main() -> None:
    """Tries the tasks, and prints and writes the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lightbench", description=__doc__)
    parser.add_argument("--rules", default="adamw", help="of the library, with commas")
    parser.add_argument("--difficulties", default=",".join(DIFFICULTIES), help="with commas")
    parser.add_argument("--tasks", default="", help="with commas; all with published outcomes")
    parser.add_argument("--steps", type=int, default=100_000, help="of a try (as published)")
    parser.add_argument("--trials", type=int, default=1000, help="tries at a task (as published)")
    parser.add_argument("--seconds", type=int, default=3600, help="of a task, as published")
    parser.add_argument("--grace", type=int, default=600, help="seconds for the last try of a task")
    parser.add_argument("--out", type=Path, default=Path("bench/lightbench.md"))
    options = parser.parse_args()
    package = find_spec("lightbench")
    if package is None or package.origin is None:
        sys.exit(MISSING)
    folder = Path(package.origin).parent
    theirs = published((folder / "benchmark_results.md").read_text(encoding="utf-8"))
    wanted = [name for name in options.tasks.split(",") if name]
    tasks = [
        task
        for task in theirs
        if task.rpartition("-")[2] in options.difficulties.split(",")
        and (folder / f"{task.rpartition('-')[0]}.py").is_file()
        and (not wanted or task in wanted or task.rpartition("-")[0] in wanted)
    ]
    if not tasks:
        sys.exit(f"LightBench has no published outcome for {options.tasks!r}.")
    ours: dict[str, dict[str, Outcome]] = {}
    for rule in options.rules.split(","):
        ours[rule] = {}
        for task in tasks:
            ours[rule][task] = attempt(task, rule, options)
            outcome = ours[rule][task]
            print(f"{rule}, {task}: {_cell(outcome)} ({outcome.seconds:.0f} s)", flush=True)
    versions = (f"{name} {metadata.version(name)}" for name in ("lightbench", "heavyball", "torch"))
    setting = f"{options.steps} steps, {options.trials} tries, {options.seconds} s a task"
    text = f"{', '.join(versions)}; {setting}\n\n{table(tasks, theirs, ours)}"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"\n{text}\nWritten to {options.out}")


if __name__ == "__main__":
    main()
