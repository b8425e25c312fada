"""Runs are carried out once, whatever happens in between."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from optdsl.studies.errors import StudyError
from optdsl.studies.frame import keys
from optdsl.studies.frame.cluster import Cluster
from optdsl.studies.frame.driver import Driver
from optdsl.studies.frame.execution import Executor, execute
from optdsl.studies.frame.files import read_study, write_study
from optdsl.studies.frame.local import Local
from optdsl.studies.frame.progress import Reporter
from optdsl.studies.frame.store import Store
from optdsl.studies.frame.values import Result, Results, Status

from .toys import ToyRun, ToyStudy


class Here:
    """Carries runs out in this process."""

    slots = 2

    def __init__(self) -> None:
        self.ended: list[tuple[ToyRun, Result]] = []

    def submit(self, run: ToyRun, given: dict[str, Result]) -> None:
        self.ended.append((run, execute(run, given)))

    def wait(self, seconds: float) -> list[tuple[ToyRun, Result]]:
        ended, self.ended = self.ended, []
        return ended

    def close(self) -> None:
        pass


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    (tmp_path / "trace").mkdir()
    return tmp_path / "trace"


def carry_out(
    study: ToyStudy, out: Path, executor: Executor | None = None, retry: bool = False
) -> Results:
    executor = executor or Here()  # type: ignore[assignment]
    assert executor is not None
    with Reporter(None, executor.slots) as reporter:
        driver = Driver([study.runs], Store(out / "runs"), executor, reporter, retry)
        return driver.carry_out()


def executions(trace: Path) -> Counter[int]:
    return Counter(int(path.name.split(".")[0]) for path in trace.iterdir())


def test_nothing_finished_is_done_again(tmp_path: Path, trace: Path) -> None:
    study = ToyStudy(trace=trace, sequel=True)
    found = [sorted(r.outcome.numbers["square"] for r in carry_out(study, tmp_path))]
    found.append(sorted(r.outcome.numbers["square"] for r in carry_out(study, tmp_path)))
    assert found == [[1, 4, 9, 10001]] * 2
    more = study.model_copy(update={"numbers": (1, 2, 3, 4)})
    carry_out(more, tmp_path)
    assert executions(trace) == {1: 1, 2: 1, 3: 1, 4: 1, 100: 1}
    assert not list((tmp_path / "runs").glob("*.lock"))
    (stored,) = (r for r in carry_out(study, tmp_path) if r.run["number"] == 2)
    assert math.isnan(stored.outcome.series["all"][1])
    assert stored.notes["torch"]


def test_a_failed_run_is_recorded_and_the_others_go_on(tmp_path: Path, trace: Path) -> None:
    study = ToyStudy(trace=trace, does="fail", sequel=True)
    results = carry_out(study, tmp_path)
    failed = [r for r in results if not r.finished]
    assert [r.message for r in failed] == [
        "ValueError: the toy is broken",
        f"the run {failed[0].key}, from which it starts, failed",
    ]
    assert "raise ValueError" in failed[0].details
    assert sum(r.finished for r in results) == 2
    carry_out(study, tmp_path)
    assert executions(trace)[1] == 1
    carry_out(study, tmp_path, retry=True)
    assert executions(trace) == {1: 2, 2: 1, 3: 1}


def test_a_process_that_dies_fails_its_run_alone(tmp_path: Path, trace: Path) -> None:
    local = Local(1)
    try:
        results = carry_out(ToyStudy(trace=trace, does="die"), tmp_path, local)
    finally:
        local.close()
    assert sorted((r.run["number"], r.finished) for r in results) == [
        (1, False),
        (2, True),
        (3, True),
    ]
    assert any("SIGKILL" in r.message for r in results)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_runs_end_with_the_process_that_started_them(
    tmp_path: Path, trace: Path, how: signal.Signals
) -> None:
    script = (
        "from pathlib import Path\n"
        "from optdsl.studies.frame.local import Local\n"
        "from tests.studies.test_frame import carry_out\n"
        "from tests.studies.toys import ToyStudy\n"
        "if __name__ == '__main__':\n"
        f"    study = ToyStudy(trace=Path({str(trace)!r}), numbers=(1,), does='hang')\n"
        f"    carry_out(study, Path({str(tmp_path)!r}), Local())\n"
    )
    root = Path(__file__).parents[2]
    first = subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE)
    while not list(trace.iterdir()):
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(how)
    # The process of the run has this pipe, too: it is at its end when both are.
    first.communicate(timeout=60)


def test_a_study_that_was_killed_goes_on_and_two_at_once_share_the_work(
    tmp_path: Path, trace: Path
) -> None:
    numbers = ", ".join(map(str, range(8)))
    script = (
        "from pathlib import Path\n"
        "from tests.studies.test_frame import carry_out\n"
        "from tests.studies.toys import ToyStudy\n"
        f"study = ToyStudy(trace=Path({str(trace)!r}), numbers=({numbers}), does='sleep')\n"
        f"carry_out(study, Path({str(tmp_path)!r}))\n"
    )
    start = [sys.executable, "-c", script]
    root = Path(__file__).parents[2]
    first = subprocess.Popen(start, cwd=root)
    while len(list((tmp_path / "runs").glob("*.json"))) < 2:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = [path.stem for path in (tmp_path / "runs").glob("*.json")]
    assert 2 <= len(done) < 8

    others = [subprocess.Popen(start, cwd=root) for _ in range(2)]
    assert [process.wait(120) for process in others] == [0, 0]
    store = Store(tmp_path / "runs")
    stored = [store.read(path.stem) for path in (tmp_path / "runs").glob("*.json")]
    assert sorted(r.run["number"] for r in stored if r is not None) == list(range(8))
    # Of all runs, the two that were in progress when the first was killed may be done twice.
    counts = executions(trace)
    assert [run for run in counts if counts[run] > 2] == []
    assert sum(counts.values()) <= 8 + 2


def test_a_damaged_result_is_measured_again(tmp_path: Path, trace: Path) -> None:
    study = ToyStudy(trace=trace, numbers=(5,))
    carry_out(study, tmp_path)
    (path,) = (tmp_path / "runs").glob("*.json")
    path.write_text(path.read_text()[:20])
    (result,) = carry_out(study, tmp_path)
    assert result.status is Status.FINISHED
    assert executions(trace) == {5: 2}


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    store, other = Store(tmp_path), Store(tmp_path)
    assert store.acquire("a")
    assert not other.acquire("a")
    store.close()
    assert other.acquire("a")
    other.release("a")
    child = os.fork()
    if child == 0:
        store.acquire("b")
        os._exit(0)
    os.waitpid(child, 0)
    assert store.acquire("b")
    store.close()


def test_a_key_changes_with_content_and_code_but_not_with_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trace: Path
) -> None:
    assert ToyRun(number=1, trace=trace).key != ToyRun(number=2, trace=trace).key
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "studied_module.py"
    digests = []
    plain, other = "def f():\n    return 1\n", "def f():\n    return 2\n"
    documented = '"""Doc."""\ndef f():  # why\n    "Doc."\n    return 1\n'
    for text in (plain, documented, other):
        module.write_text(text)
        keys.code_digest.cache_clear()
        digests.append(keys.code_digest("studied_module"))
    keys.code_digest.cache_clear()
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("study: toy\nnumbers: [1, x]\ntrace: .\n", "line 2, numbers.1: should be a valid integer"),
        ("study: toy\ntrace: .\nsede: 3\n", "line 3, sede: there is no such setting: did you mean"),
        ("study: toy\ntrace: .\nseeds: 0\n", "line 3, seeds: should be greater than 0"),
        ("# none\nstudy: toys\n", "line 2: there is no study 'toys': did you mean `toy`?"),
        ("seeds: 1\n", "line 1: the key 'study' is missing"),
        ("study: [\n", "this is not YAML"),
        ("- 1\n", "a study is a mapping"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        read_study(path, {"toy": ToyStudy})
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_study_can_be_written_and_read(tmp_path: Path, trace: Path) -> None:
    study = ToyStudy(trace=trace, numbers=(4, 5))
    path = tmp_path / "toy.yaml"
    path.write_text(write_study(study))
    assert read_study(path, {"toy": ToyStudy}) == study


def test_ray_carries_runs_out(tmp_path: Path, trace: Path) -> None:
    pytest.importorskip("ray")
    cluster = Cluster()
    try:
        results = carry_out(ToyStudy(trace=trace), tmp_path, cluster)
    finally:
        cluster.close()
    assert sum(r.finished for r in results) == 3


def test_without_ray_the_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"pip install 'optdsl\[ray\]'"):
        Cluster()
