"""Carrying out all runs of some studies."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from optdsl.studies.frame.execution import Executor, lost
from optdsl.studies.frame.progress import Reporter
from optdsl.studies.frame.store import Store
from optdsl.studies.frame.values import Result, Results, Run

Planner = Callable[[Results], Sequence[Run]]
"""Returns all runs of a study that can be named from the results so far."""

PAUSE = 0.5  # seconds between two looks at runs that another process carries out


class Driver:
    """Carries out what studies ask for, until they ask for no more.

    A study may ask for more once it knows some results: a run at the learning rate that others
    found, or with the coefficients at which another one ended.  Runs of all studies are in
    progress side by side, and one that several studies ask for is carried out once.
    """

    def __init__(
        self,
        planners: Sequence[Planner],
        store: Store,
        executor: Executor,
        reporter: Reporter,
        retry: bool = False,
    ) -> None:
        """Prepares, and carries out nothing yet.

        Args:
            planners: The studies.
            store: Has the results of earlier calls, and gets the new ones.
            executor: Carries out runs.
            reporter: Is told of every end.
            retry: Whether stored failures are tried again.
        """
        self._planners, self._store, self._executor = planners, store, executor
        self._reporter, self._retry = reporter, retry
        self._results = Results()
        self._queue: list[Run] = []
        self._planned: set[str] = set()
        self._flying: dict[str, Run] = {}

    def carry_out(self) -> Results:
        """Returns the results of all runs; those that failed have results that say so."""
        while True:
            self._plan()
            if not self._queue and not self._flying:
                return self._results
            started = self._start()
            if self._flying:
                for run, result in self._executor.wait(PAUSE):
                    self._end(run, result)
            elif not started and self._queue:
                self._look_elsewhere()

    def _plan(self) -> None:
        """Asks the studies for runs, unless there are enough to go on with."""
        if self._queue:
            return
        found: dict[str, Run] = {}
        known = 0
        for planner in self._planners:
            for run in planner(self._results):
                if run.key in self._planned or run.key in found:
                    continue
                stored = self._store.read(run.key)
                if stored is not None and (stored.finished or not self._retry):
                    self._results.add(stored)
                    self._planned.add(run.key)
                    known += 1
                else:
                    found[run.key] = run
        self._planned.update(found)
        self._queue.extend(found.values())
        if found or known:
            self._reporter.plan(list(found.values()), known)
        if known and not found:  # what was found may call for more
            self._plan()

    def _start(self) -> bool:
        """Starts as many runs as there is room for; whether it has changed anything."""
        changed = False
        waiting: list[Run] = []
        for place, run in enumerate(self._queue):
            alone = any(other.alone for other in self._flying.values())
            if len(self._flying) >= self._executor.slots or alone:
                waiting.extend(self._queue[place:])
                break
            if run.alone and self._flying:
                waiting.append(run)
                continue
            given = {key: self._results.by_key(key) for key in run.needs}
            absent = next((k for k, r in given.items() if r is None or not r.finished), None)
            if absent is not None:
                self._finish(run, lost(run, f"the run {absent}, from which it starts, failed"))
            elif not self._store.acquire(run.key):
                waiting.append(run)
                continue
            elif (stored := self._store.read(run.key)) is not None and (
                stored.finished or not self._retry
            ):
                self._store.release(run.key)  # another process was faster
                self._finish(run, stored)
            else:
                self._flying[run.key] = run
                self._executor.submit(run, {k: r for k, r in given.items() if r is not None})
            changed = True
        self._queue = waiting
        return changed

    def _end(self, run: Run, result: Result) -> None:
        """Stores a result; its lock ends after it is there."""
        del self._flying[run.key]
        self._store.write(result)
        self._store.release(run.key)
        self._finish(run, result)

    def _finish(self, run: Run, result: Result) -> None:
        self._results.add(result)
        self._reporter.end(run, result)

    def _look_elsewhere(self) -> None:
        """Waits for runs that other processes carry out, and takes their results."""
        time.sleep(PAUSE)
        waiting = []
        for run in self._queue:
            stored = self._store.read(run.key)
            if stored is not None and (stored.finished or not self._retry):
                self._finish(run, stored)
            else:
                waiting.append(run)
        self._queue = waiting
