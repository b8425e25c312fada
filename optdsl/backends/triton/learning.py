"""How coefficients learn on the device: one kernel sums hyper-gradients up and moves them.

The programs are those of `optdsl.learning`, in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.base import SourceModule
from optdsl.backends.triton.expressions import OPTIONS, helpers
from optdsl.backends.triton.layout import function
from optdsl.backends.triton.values import DOUBLE, Values
from optdsl.learning import SQUARE, TAKEN, Block, hypergradient_key, measured_key
from optdsl.plan import Plan
from optdsl.schedule import Role, schedule

BLOCK, THREADS = 4096, 512
# What a kernel calls the squared norm of the gradient.
_SQUARE = "SQUARE"

_HOST = '''\
def learn(c):
    """Launch it; see `optdsl.runtime.engines.launch_arguments`."""
    learn_all[(1,)](
        c.dots, c.total, c.memory, c.rows, c.count, c.width, BLOCK=BLOCK,
        num_warps=THREADS // c.lanes, **OPTIONS,
    )'''


def memory_keys(blocks: Sequence[Block]) -> list[str]:
    """What the memory of all coefficients holds, in order.

    First how many steps were taken, then for each coefficient what a group keeps: its value, its
    last hyper-gradient, how often it moved, the states of its rule.
    """
    keys = [TAKEN]
    for coefficient in (c for block in blocks for c in block.coefficients):
        keys += [coefficient.name, *coefficient.defaults()]
    return keys


def emit_learning(
    name: str, blocks: Sequence[Block], dots: Sequence[str], order: str
) -> SourceModule:
    """The module that moves the coefficients of a rule.

    Args:
        name: what the module is called.
        blocks: the coefficients, as they move.
        dots: what each row of sums is of: a coefficient, or `SQUARE`.
        order: "overlapped", where a step has been counted before it is learned from, or "exact".
    """
    places = {key: n for n, key in enumerate(memory_keys(blocks))}
    lines = [
        '"""Hyper-gradients are summed up, and coefficients move."""',
        "TAKEN = tl.load(memory)",
        "NOW = TAKEN",
        "for n in range(0, count):",
        "    NOW = tl.maximum(NOW, tl.load(rows + n * width))",
        *(["TAKEN = NOW"] if order == "exact" else []),
        "tl.store(memory, NOW)",
    ]
    for place, hyper in enumerate(dots):
        name = _SQUARE if hyper == SQUARE else f"MEASURED{places[hypergradient_key(hyper)]}"
        lines.append(f"{name} = folded(dots + {place} * total, 0, total, BLOCK)")
    for block in blocks:
        if all(c.name in dots for c in block.coefficients):
            names = ", ".join(c.name for c in block.coefficients)
            lines += [f"# {names}".encode("ascii", "replace").decode(), *_moves(block, places)]
    head = "learn_all(dots, total, memory, rows, count, width, BLOCK: tl.constexpr)"
    kernel = function(head, lines, ["total", "count", "width"])
    header = "\n".join(
        [
            f'"""How the coefficients of {name} learn."""',
            "",
            "import triton",
            "import triton.language as tl",
            "",
            f"BLOCK, THREADS = {BLOCK}, {THREADS}",
            OPTIONS,
            "# What the memory holds:",
            *(f"# {place}: {key}" for key, place in places.items()),
        ]
    )
    text = "\n\n\n".join([header, *helpers(kernel), kernel, _HOST])
    return SourceModule(f"{name}Learning", "python", f"{text}\n", {})


def _moves(block: Block, places: dict[str, int]) -> list[str]:
    """The lines that move coefficients which move as one."""
    kernel = schedule(Plan("none", block.program))[Role.STEP]
    values = Values(kernel, DOUBLE, [])
    inputs = {measured_key(c.name): f"MEASURED{places[c.hypergradient_key]}"
              for c in block.coefficients}  # fmt: skip
    inputs |= {TAKEN: "TAKEN", SQUARE: _SQUARE}
    lines = []
    for value in kernel.uniform:
        operation = values.operation(value)
        match operation.opcode:
            case "constant" | "parameter":
                continue
            case "hyper":
                text = inputs[str(operation.attribute)]
            case "state":
                text = f"tl.load(memory + {places[str(operation.attribute)]})"
            case _:
                lines += values.assigned(value, DOUBLE)
                continue
        lines.append(f"{values.name(value)} = {text}")
    results = {r.name: r.value for r in kernel.results}
    stored = (s.name for s in block.program.states)
    return lines + [
        f"tl.store(memory + {places[key]}, {values.word(results[key], DOUBLE)})" for key in stored
    ]
