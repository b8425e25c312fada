"""Texts and checkpoints of any allowed size are settled in bounded time and memory.

Each case runs in a process of its own, whose time limit is far above what it takes.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.broad(8)

LIMIT = 240.0
HEAD = "optimizer Mine\nhyper lr = 0.1 in [0, inf)\n"
CLAIM = "recovers SGD(momentum = 0)\n"
UPDATE = "theta' = theta - lr * g * min(1, {})\n"


def chain(operator: str, start: str, length: int) -> str:
    lines = [f"e0 = {start}"]
    lines += [f"e{i} = e{i - 1} {operator} e{i - 1}" for i in range(1, length)]
    return "\n".join(lines) + "\n" + UPDATE.format(f"e{length - 1}")


def functions(count: int) -> str:
    lines = [
        "def f0(x) = x + x",
        *(f"def f{i}(x) = f{i - 1}(x) + f{i - 1}(x)" for i in range(1, count)),
    ]
    return "\n".join(lines) + "\n" + UPDATE.format(f"f{count - 1}(g)")


def states(count: int) -> str:
    lines = [f"state s{i} = {i}" for i in range(count)] + ["s0' = g"]
    lines += [f"s{i}' = s{i - 1} * s{i - 1}" for i in range(1, count)]
    return "\n".join(lines) + "\n" + UPDATE.format(f"s{count - 1}")


TOWER = "((((((1.1^8)^8)^8)^8)^8)^8)^8"
TEXTS = {
    "a tower of powers": UPDATE.format(TOWER),
    "a tower below one": UPDATE.format(TOWER.replace("1.1", "0.9")),
    "squarings of a number": chain("*", "1.1", 23),
    "squarings of a sum": chain("*", "lr + g + t", 300),
    "differences": chain("-", "lr + g + t", 300),
    "quotients": chain("/", "lr + g + t", 300),
    "functions that double": functions(30),
    "states": states(80),
}

READ = """
import sys
from optdsl import SpecError
from optdsl.specifications import library
from optdsl.diagnostics import Source
try:
    library.specification(Source("mine.opt", sys.stdin.read()))
except SpecError as error:
    print({d.code for d in error.diagnostics})
"""

# A checkpoint's rule: a number that is squared, or doubled, again and again.
COMPARE = """
import sys
from optdsl.specifications import library
from optdsl.ir.builder import Builder
from optdsl.ir.program import Program
from optdsl.runtime.core.fingerprint import differences, meaning, read
opcode, count = sys.argv[1], int(sys.argv[2])
builder = Builder()
value = builder.constant(1.1)
for i in range(count):
    value = builder.emit(opcode, value, value, hint=f"e{i}")
product = builder.emit("mul", value, builder.emit("gradient"))
after = builder.emit("sub", builder.emit("parameter"), product)
saved = read(meaning(Program("A", (), (), (), builder.operations, (), after)).entry)
own = meaning(library.read(library.open_source("sgd")))
assert differences(saved, own)
assert not differences(saved, saved)
"""


def finished(program: str, *arguments: str, text: str = "") -> None:
    command = [sys.executable, "-c", program, *arguments]
    subprocess.run(command, input=text, text=True, check=True, timeout=LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_settled(name: str) -> None:
    finished(READ, text=f"{HEAD}{TEXTS[name]}{CLAIM}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opcode", "count"), [("mul", 22), ("mul", 2_000), ("add", 2_000), ("add", 19_000)]
)
@pytest.mark.exhaustive
def test_a_checkpoint_is_compared(opcode: str, count: int) -> None:
    finished(COMPARE, opcode, str(count))
