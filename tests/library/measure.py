"""Records how far specifications are from their references: `python -m tests.library.measure`.

It runs the tests that `specs/references.toml` names, or those of the specifications that are given
as arguments, and writes `specs/measured.json`. Run `make stubs` then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from optdsl import resources
from tests import differences


class Recorder:
    """A plugin that measures the tests which compare specifications."""

    # Known by this name, it stands in for the comparison with what is recorded; see conftest.py.
    __name__ = "recorder"

    def __init__(self, tests: dict[str, list[str]], names: list[str]) -> None:
        """Begin with nothing measured, of the specifications with these names, or of all."""
        self._tests = tests
        self._names = set(names)
        self.found: dict[str, dict[str, float]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the cases that are about others."""
        if self._names:
            items[:] = [item for item in items if self._names & set(self._meant(item))]

    def _meant(self, item: pytest.Item) -> list[str]:
        return differences.meant(item, self._tests.get(item.nodeid.partition("[")[0], []))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Measure a test that passes."""
        test = item.nodeid.partition("[")[0]
        with differences.measuring() as measured:
            yield
        for name in self._meant(item):
            own = self.found.setdefault(name, {})
            own[test] = max([own.get(test, 0.0), *measured])


def main(names: list[str]) -> int:
    """Measure some specifications, or all of them, and write the file."""
    tests = {
        test: own
        for test, own in differences.compared().items()
        if not names or not set(names).isdisjoint(own)
    }
    recorder = Recorder(tests, names)
    status = pytest.main(["-q", "--disable-warnings", *tests], plugins=[recorder])
    if status:
        return int(status)
    found = differences.recorded() if names else {}
    for name, own in recorder.found.items():
        if not names or name in names:
            # Two digits say all that another processor repeats.
            found[name] = {test: float(f"{x:.1e}") for test, x in sorted(own.items())}
    text = json.dumps(dict(sorted(found.items())), indent=1)
    resources.measured_path().write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
