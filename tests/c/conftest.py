"""What holds for all tests of C: there is a compiler, and nothing falls back to eager."""

from __future__ import annotations

from pathlib import Path

import pytest

from optdsl.runtime.build.toolchain import NoCompiler, toolchain

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if HERE in item.path.parents]
    for item in own:
        item.add_marker(pytest.mark.filterwarnings("error:.*without compiled kernels"))
    try:
        toolchain()
    except NoCompiler as problem:
        for item in own:
            item.add_marker(pytest.mark.skip(reason=str(problem)))
