"""Runs on a cluster, by Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optdsl.studies.errors import StudyError
from optdsl.studies.frame.execution import execute, first_line, lost
from optdsl.studies.frame.values import Result, Run


class Cluster:
    """Ray's workers: those of the cluster that RAY_ADDRESS names, else of this machine.

    Results come back to this process, which stores them; the workers need no common directory.
    They need optdsl, and the files that a run names, at the same paths.
    """

    def __init__(self) -> None:
        """Connects to the cluster, or starts Ray on this machine.

        Raises:
            StudyError: Ray is not installed, or cannot be started.
        """
        try:
            import ray
        except ModuleNotFoundError:
            raise StudyError(
                "the executor ray needs Ray, which is not installed: pip install 'optdsl[ray]'"
            ) from None
        self._ray: Any = ray
        try:
            ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
        except (RuntimeError, ConnectionError, OSError) as error:
            raise StudyError(f"Ray cannot be started: {first_line(error)}") from None
        self.slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._remote = ray.remote(num_cpus=1)(execute)
        self._busy: dict[Any, Run] = {}

    def submit(self, run: Run, given: Mapping[str, Result]) -> None:
        """See `Executor`."""
        self._busy[self._remote.remote(run, dict(given))] = run

    def wait(self, seconds: float) -> list[tuple[Run, Result]]:
        """See `Executor`."""
        ready, _ = self._ray.wait(list(self._busy), timeout=seconds)
        ended = []
        for reference in ready:
            run = self._busy.pop(reference)
            try:
                ended.append((run, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                ended.append((run, lost(run, first_line(error))))
        return ended

    def close(self) -> None:
        """See `Executor`."""
        for reference in self._busy:
            self._ray.cancel(reference, force=True)
        self._busy = {}
        self._ray.shutdown()
