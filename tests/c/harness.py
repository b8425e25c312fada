"""A small C program around an emitted file: it calls every entry point on exactly sized memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optdsl import compiler
from optdsl.backends.base import EntryPoint
from optdsl.ir.types import Extent
from optdsl.learn_option import LearnOption
from optdsl.runtime.build.toolchain import toolchain

from . import rules

SIZES = (0, 1, 255, 256, 257, 8191, 8192, 8193)
ROWS = 3
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")

_MAIN = """
#include <stdio.h>

static uint32_t seed = 1;
static uint32_t drawn(void) { return seed = seed * 1664525u + 1013904223u; }

/* Memory whose last byte is the tensor's; every second block does not begin where it might. */
static void *memory(int64_t size, size_t width, int odd, int bits) {
  const size_t shift = odd ? width : 0, bytes = (size_t)size * width;
  char *found = (char *)malloc(bytes + shift) + shift;
  for (size_t i = 0; i < bytes; i += width) {
    const uint32_t x = drawn();
    const real y = (real)((double)x / 2147483648.0 - 1);
    if (bits) memcpy(found + i, &x, width < sizeof x ? width : sizeof x);
    else memcpy(found + i, &y, width);
  }
  return found;
}

int main(void) {
  static const int64_t sizes[] = {SIZES};
  enum { COUNT = sizeof sizes / sizeof *sizes, ROWS = @ROWS@ };
CALLS
  printf("done\\n");
  return 0;
}
"""
_CALL = """\
  for (int call = 0; call < 4; call++) {
    static const double hypers[ROWS][@WIDTH@] = {@HYPERS@};
    static const int scalar[] = {@SCALARS@};
    enum { SLOTS = sizeof scalar / sizeof *scalar };
    tensor tensors[COUNT];
    double *sums = malloc(@DOTS@ * sizeof *sums);
    for (int i = 0; i < COUNT; i++) {
      tensors[i].size = sizes[i];
      tensors[i].row = i % ROWS;
      for (int k = 0; k < SLOTS; k++) {
        const int64_t size = scalar[k] ? 1 : sizes[i] - (k == @SHORT@ && sizes[i] > 0);
        const size_t width = k < 2 ? sizeof(element) : sizeof(real);
        tensors[i].memory[k] = memory(size, width, i % 2, @BITS@);
      }
    }
    if (@NAME@(COUNT, tensors, ROWS, hypers[0], sums, call % 2 + 1)) return 2;
    for (int i = 0; i < COUNT; i++)
      for (int k = 0; k < SLOTS; k++) {
        const size_t width = k < 2 ? sizeof(element) : sizeof(real);
        free((char *)tensors[i].memory[k] - (i % 2 ? width : 0));
      }
    free(sums);
  }
"""


@dataclass(frozen=True)
class Emitted:
    """A file, its entry points, and which of its states are one number a tensor."""

    rule: str
    text: str
    entries: Mapping[str, EntryPoint]
    scalars: frozenset[str]


def emitted(rule: str, learn: LearnOption, order: str, dtype: str) -> Emitted:
    """A rule's file."""
    source = rules.source(rule)
    module = compiler.emit(source, "c", learn, order, dtype)
    states = compiler.plan(source, "c", learn, dtype).states
    scalars = frozenset(s.name for s in states if s.type.extent is Extent.SCALAR)
    return Emitted(rule, module.text, module.entries, scalars)


def program(emitted: Emitted, short: int = -1) -> str:
    """The file with a `main`; memory `short` of each tensor is an element too short."""
    calls = [_call(emitted, entry, short) for entry in emitted.entries.values()]
    text = _MAIN.replace("SIZES", ", ".join(map(str, SIZES)), 1)
    text = text.replace("@ROWS@", str(ROWS)).replace("CALLS", "".join(calls))
    return emitted.text + text


def _call(emitted: Emitted, entry: EntryPoint, short: int) -> str:
    drawn = rules.hypers(emitted.rule, ROWS)
    rows = []
    for t, (first, _) in enumerate(drawn, start=1):
        values = {**first, "t": float(t)}
        own = ("t", *entry.hypers)
        rows.append([values[name.removeprefix("pending/")] for name in own])
    scalars = [0, 0, *(int(name in emitted.scalars) for name in entry.states)]
    parts = {
        "WIDTH": str(len(rows[0])),
        "HYPERS": ", ".join("{" + ", ".join(map(repr, row)) + "}" for row in rows),
        "SCALARS": ", ".join(map(str, scalars)),
        "DOTS": str(len(entry.dots)),
        "SHORT": str(short),
        "BITS": "k < 2 && sizeof(element) < sizeof(real)",
        "NAME": entry.name,
    }
    text = _CALL
    for key, value in parts.items():
        text = text.replace(f"@{key}@", value)
    return text


def compiled(text: str, directory: Path, flags: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the compiler; the program, if it makes one, is `directory / "program"`."""
    source = directory / "program.c"
    source.write_text(text, encoding="utf-8")
    tools = toolchain()
    openmp = [flag for flag in tools.flags if flag == "-fopenmp"]
    # Clang complains of libraries and products where it does not link.
    links = not {"-c", "-fsyntax-only"} & set(flags)
    target = ["-o", str(directory / "program"), str(source), "-lm"] if links else [str(source)]
    command = [tools.compiler, "-std=c99", *openmp, *flags, *target]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=directory)


def ran(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run the program that was made; what the sanitizers report is on the error output."""
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(
        [str(directory / "program")], capture_output=True, text=True, check=False, env=environment
    )
