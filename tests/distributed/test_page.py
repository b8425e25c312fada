"""The page about many ranks: its Python runs."""

import re
from pathlib import Path

from .ranks import on_ranks

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"


def run() -> int:
    names: dict[str, object] = {}
    found = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    for block in found:
        exec(block, names)
    return len(found)


def test_the_python_of_the_page_runs() -> None:
    assert on_ranks(1, run) == [3]
