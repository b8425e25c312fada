"""How many examples a property test looks at."""

from __future__ import annotations

import os

from hypothesis import settings

# Set by conftest.py: `make test` looks at a part of the examples, `make test-full` at all of them.
SHARE = "OPTDSL_TEST_SHARE"


def examples(most: int) -> settings:
    """At most so many examples in `make test-full`, and a third of them in `make test`."""
    return settings(max_examples=max(most // int(os.environ.get(SHARE, "1")), 1))
