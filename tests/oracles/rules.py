"""The rules of the library, by what their tensors are to them."""

from __future__ import annotations

import optdsl
from optdsl.passes.totals import staged
from optdsl.specifications import library

PROGRAMS = {
    name: library.read(library.open_source(name), verify=False) for name in optdsl.list_specs()
}
# Rules with sections read tensors as matrices; `tests/matrices` is about them.
SECTIONED = tuple(name for name, program in PROGRAMS.items() if program.sections)
# Rules with sums over all tensors; `tests/totals` is about them.
STAGED = tuple(name for name, program in PROGRAMS.items() if staged(program) is not None)
# The rules of the batteries, which try every backend, blend and proof on each of them: together
# they have what rules are made of. Those of all rules would take many minutes; `tests/library`
# compares the others with references, and has a battery of their own.
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
OTHERS = tuple(name for name in PROGRAMS if name not in {*SECTIONED, *STAGED, *ELEMENTWISE})
# Rules with norms of tensors, in which every element depends on the others.
OF_NORMS = ("lamb", "lars")
SEPARATE = tuple(name for name in ELEMENTWISE if name not in OF_NORMS)
