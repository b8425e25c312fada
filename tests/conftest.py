"""Settings for the whole suite."""

import os

from hypothesis import settings

# No deadline: the first example pays for imports and compilers. CI must answer the same twice.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Test processes share the cores. An OpenMP thread that spins while it waits takes one away from
# another process, which makes the suite many times slower; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
