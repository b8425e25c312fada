"""The rules of the library, and those of them on which most batteries run."""

from __future__ import annotations

import optdsl
from optdsl.specifications import library

PROGRAMS = {
    name: library.read(library.open_source(name), verify=False) for name in optdsl.list_specs()
}
# The rules of the batteries, which try every backend, blend and proof on each of them: together
# they have what rules are made of. Those of all rules would take many minutes; `tests/library`
# compares the others with references, and has a battery of all rules.
ELEMENTWISE = (
    "adam",
    "adam_avgrad",
    "adamw",
    "adan",
    "adaptivity",
    "amsgrad",
    "avgrad",
    "hyperadam",
    "lamb",
    "lars",
    "lion",
    "mada",
    "mada_legacy",
    "memory",
    "schedule_free_adamw",
    "sgd",
    "two_speed",
    "yogi",
)
# Rules with norms of tensors, in which every element depends on the others.
OF_NORMS = ("lamb", "lars")
SEPARATE = tuple(name for name in ELEMENTWISE if name not in OF_NORMS)
