"""How coefficients learn on the device: one program sums hyper-gradients up and moves them.

It does what `optdsl.runtime.learning` does on the host, in double precision; each rule of the
library that moves a coefficient becomes a function on single numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optdsl.backends.base import SourceModule
from optdsl.backends.triton.expressions import OPTIONS, full, helpers, literal
from optdsl.backends.triton.layout import function
from optdsl.backends.triton.values import DOUBLE, Values
from optdsl.ir.program import Learned, Program
from optdsl.plan import Plan
from optdsl.schedule import Kernel, schedule

BLOCK, THREADS = 4096, 512
_TAKEN = "taken"

_PROJECTED = '''\
@triton.jit
def nearest(x, k, COUNT: tl.constexpr):
    """The point of the probability simplex nearest to the first COUNT numbers of a block."""
    # With the largest at zero no sum overflows or loses the one to which weights must sum.
    x = x - tl.max(x, 0)
    one, other = tl.expand_dims(x, 1), tl.expand_dims(x, 0)
    i, j = tl.expand_dims(k, 1), tl.expand_dims(k, 0)
    # Which of the others come first in descending order, itself included.
    first = (other > one) | ((other == one) & (j <= i))
    count = tl.sum(first.to(tl.float64), 1)
    total = tl.sum(tl.where(first, other, 0.0), 1)
    threshold = tl.max(tl.where(k < COUNT, (total - 1) / count, -1.0), 0)
    return tl.maximum(x - threshold, 0.0)'''

_FINITE = '''\
@triton.jit
def finite(x):
    """Whether a number is one."""
    return tl.abs(x) < float("inf")'''


@dataclass(frozen=True)
class Moving:
    """A coefficient that learns.

    Attributes:
        learned: how.
        program: the rule that runs on it, scalarized.
        hypers: a value for each of the rule's hyperparameters.
    """

    learned: Learned
    program: Program
    hypers: Mapping[str, float]


@dataclass(frozen=True)
class Together:
    """Coefficients that move as one: a single one, or the weights of a vector."""

    coefficients: tuple[Moving, ...]
    vector: bool


def memory_keys(blocks: Sequence[Together]) -> list[str]:
    """What the memory of all coefficients holds, in order.

    First how many steps were taken, then under the keys of `optdsl.runtime.learning`, for each
    coefficient: its value, its last hyper-gradient, how often it moved, its rule's states.
    """
    keys = [_TAKEN]
    for moving in (m for block in blocks for m in block.coefficients):
        name = moving.learned.hyper
        keys += [name, f"hypergradient/{name}", f"learn/{name}/step"]
        keys += [f"learn/{name}/{state.name}" for state in moving.program.states]
    return keys


def emit_learning(
    name: str, blocks: Sequence[Together], dots: Sequence[str], order: str, floor: float
) -> SourceModule:
    """The module that moves the coefficients of a rule.

    Args:
        name: what the module is called.
        blocks: the coefficients, as they move.
        dots: the coefficient of each row of sums.
        order: "overlapped", where a step has been counted before it is learned from, or "exact".
        floor: the least weight of which a logarithm is taken.
    """
    return _Learning(name, blocks, dots, order, floor).module()


class _Learning:
    def __init__(
        self, name: str, blocks: Sequence[Together], dots: Sequence[str], order: str, floor: float
    ) -> None:
        self._name, self._blocks, self._dots = name, blocks, list(dots)
        self._order, self._floor = order, floor
        self._places = {key: n for n, key in enumerate(memory_keys(blocks))}
        # The functions of rules, by what they are made of.
        self._rules: dict[tuple[Program, tuple[tuple[str, float], ...]], str] = {}
        self._texts: list[str] = []

    def module(self) -> SourceModule:
        """The text."""
        lines = [
            '"""Hyper-gradients are summed up, and coefficients move."""',
            "taken = tl.load(memory)",
            "now = taken",
            "for n in range(0, count):",
            "    now = tl.maximum(now, tl.load(rows + n * width))",
            *(["taken = now"] if self._order == "exact" else []),
            "tl.store(memory, now)",
        ]
        for place, hyper in enumerate(self._dots):
            key = self._places[f"hypergradient/{hyper}"]
            lines.append(f"SLOPE{key} = folded(dots + {place} * total, 0, total, BLOCK)")
        for block in self._blocks:
            if all(m.learned.hyper in self._dots for m in block.coefficients):
                lines += self._block(block)
        head = "learn_all(dots, total, memory, rows, count, width, BLOCK: tl.constexpr)"
        kernel = function(head, lines, ["total", "count", "width"])
        host = "\n".join(
            [
                "def learn(c):",
                '    """Launch it; see `optdsl.runtime.launches`."""',
                "    learn_all[(1,)](",
                "        c.dots, c.total, c.memory, c.rows, c.count, c.width, BLOCK=BLOCK, "
                "num_warps=THREADS // c.lanes, **OPTIONS,",
                "    )",
            ]
        )
        texts = [_FINITE, _PROJECTED, *self._texts, kernel, host]
        header = "\n".join(
            [
                f'"""How the coefficients of {self._name} learn."""',
                "",
                "import triton",
                "import triton.language as tl",
                "",
                f"BLOCK, THREADS = {BLOCK}, {THREADS}",
                OPTIONS,
                "# What the memory holds:",
                *(f"# {place}: {key}" for key, place in self._places.items()),
            ]
        )
        text = "\n\n\n".join([header, *helpers("\n".join(texts)), *texts])
        return SourceModule(f"{self._name}Learning", "python", f"{text}\n", {})

    def _block(self, block: Together) -> list[str]:
        """The lines for coefficients that move as one."""
        names = [m.learned.hyper for m in block.coefficients]
        slopes = [f"SLOPE{self._places[f'hypergradient/{name}']}" for name in names]
        lines = [f"# {', '.join(names)}".encode("ascii", "replace").decode()]
        lines += [f"MOVES = taken >= {float(max(m.learned.after for m in block.coefficients))!r}"]
        lines += [f"MOVES = MOVES & finite({slope})" for slope in slopes]
        olds = [f"OLD{n}" for n in range(len(names))]
        for old, name, slope in zip(olds, names, slopes, strict=True):
            lines.append(f"{old} = tl.load(memory + {self._places[name]})")
            lines.append(f"tl.store(memory + {self._places[f'hypergradient/{name}']}, {slope})")
        exponentiated = all(m.learned.exponentiated for m in block.coefficients)
        if exponentiated:
            lines += [f"FROM{n} = tl.log(tl.maximum({old}, {self._floor!r}))"
                      for n, old in enumerate(olds)]  # fmt: skip
        else:
            lines += [f"FROM{n} = {old}" for n, old in enumerate(olds)]
        lines += [f"H{n} = {slope}" for n, slope in enumerate(slopes)]
        if block.vector:
            # Only differences move a vector.
            lines.append(f"COMMON = ({' + '.join(slopes)}) / {float(len(slopes))!r}")
            lines += [f"H{n} = H{n} - COMMON" for n in range(len(slopes))]
        entries: list[tuple[str, str]] = []
        for number, moving in enumerate(block.coefficients):
            lines += self._stepped(number, moving)
            count = f"COUNT{number} + 1"
            entries.append((f"learn/{moving.learned.hyper}/step", count))
            entries += [
                (f"learn/{moving.learned.hyper}/{state.name}", f"NEW{number}_{place}")
                for place, state in enumerate(moving.program.states)
            ]
            for x in (f"TO{number}", *(x for _, x in entries[-len(moving.program.states) :])):
                lines += [f"MOVES = MOVES & finite({x})"] if " " not in x else []
        lines += self._inward(block, exponentiated)
        entries += [(name, f"TO{number}") for number, name in enumerate(names)]
        for key, word in entries:
            lines.append(f"tl.store(memory + {self._places[key]}, {word}, mask=MOVES)")
        return lines

    def _stepped(self, number: int, moving: Moving) -> list[str]:
        """The lines for a step of a coefficient's rule."""
        learned, h = moving.learned, f"H{number}"
        rule, states = self._rule(moving), moving.program.states
        lines = []
        if learned.signal == "sign":
            lines.append(f"{h} = tl.where({h} > 0, 1.0, tl.where({h} < 0, -1.0, 0.0)).to({DOUBLE})")
        if learned.clip is not None:
            clip = float(learned.clip)
            lines.append(f"{h} = tl.minimum(tl.maximum({h}, {literal(-clip)}), {literal(clip)})")
        prefix = f"learn/{learned.hyper}/"
        lines.append(f"COUNT{number} = tl.load(memory + {self._places[prefix + 'step']})")
        words = [f"NEW{number}_{place}" for place in range(len(states))]
        if words:
            lines.append(f"{', '.join(words)} = {rule}_start(FROM{number}, {h})")
        for word, state in zip(words, states, strict=True):
            kept = f"tl.load(memory + {self._places[prefix + state.name]})"
            lines.append(f"{word} = tl.where(COUNT{number} == 0, {word}, {kept})")
        given = ", ".join([f"FROM{number}", h, f"COUNT{number} + 1", *words])
        lines.append(f"{', '.join([f'TO{number}', *words])} = {rule}_step({given})")
        return lines

    def _inward(self, block: Together, exponentiated: bool) -> list[str]:
        """The lines that bring what moved back within its bounds."""
        words = [f"TO{n}" for n in range(len(block.coefficients))]
        if exponentiated:
            lines = ["TOP = TO0", *(f"TOP = tl.maximum(TOP, {word})" for word in words[1:])]
            lines += [f"{word} = tl.exp({word} - TOP)" for word in words]
            lines.append(f"TOTAL = {' + '.join(words)}")
            return [*lines, *(f"{word} = {word} / TOTAL" for word in words)]
        if block.vector:
            count = len(words)
            inside = " & ".join(f"(({word} >= 0) & ({word} <= 1))" for word in words)
            lines = [
                f"THERE = {inside} & ({' + '.join(words)} == 1)",
                f"k = tl.arange(0, {1 << (count - 1).bit_length()})",
                f'POINT = tl.where(k < 0, 0.0, -float("inf")).to({DOUBLE})',
                *(f"POINT = tl.where(k == {n}, {word}, POINT)" for n, word in enumerate(words)),
                f"POINT = nearest(POINT, k, {count})",
            ]
            found = (f"tl.sum(tl.where(k == {n}, POINT, 0.0), 0)" for n in range(count))
            pairs = zip(words, found, strict=True)
            return [*lines, *(f"{w} = tl.where(THERE, {w}, {x})" for w, x in pairs)]
        lines = []
        for word, moving in zip(words, block.coefficients, strict=True):
            lower, upper = moving.learned.bounds.lower, moving.learned.bounds.upper
            if math.isfinite(lower):
                lines.append(f"{word} = tl.maximum({word}, {literal(lower)})")
            if math.isfinite(upper):
                lines.append(f"{word} = tl.minimum({word}, {literal(upper)})")
        return lines

    # --- rules ----------------------------------------------------------------------------------

    def _rule(self, moving: Moving) -> str:
        """The name of a rule's functions."""
        key = moving.program, tuple(moving.hypers.items())
        if key not in self._rules:
            self._rules[key] = name = f"rule{len(self._rules)}"
            kernels = schedule(Plan("none", moving.program))
            if moving.program.states:
                self._texts.append(_scalar(f"{name}_start", kernels["initialize"], moving, False))
            self._texts.append(_scalar(f"{name}_step", kernels["step"], moving, True))
        return self._rules[key]


def _scalar(name: str, kernel: Kernel, moving: Moving, stepping: bool) -> str:
    """A kernel of uniform values as a function on numbers."""
    values = Values(kernel, DOUBLE, [])
    states = [s.name for s in moving.program.states]
    given = {"parameter": "THETA", "gradient": "GRADIENT", "step": "T"}
    lines = []
    for value in kernel.uniform:
        operation = values.operation(value)
        match operation.opcode:
            case "constant":
                continue
            case "hyper":
                text = full(moving.hypers[str(operation.attribute)], DOUBLE)
            case "state":
                text = f"STATE{states.index(str(operation.attribute))}"
            case opcode if opcode in given:
                text = given[opcode]
            case _:
                lines += values.assigned(value, DOUBLE)
                continue
        lines.append(f"{values.name(value)} = {text}")
    results = {r.name: r.value for r in kernel.results}
    order = (["theta"] if stepping else []) + states
    lines.append(f"return {', '.join(values.word(results[r], DOUBLE) for r in order)}")
    arguments = ["THETA", "GRADIENT"]
    if stepping:
        arguments += ["T", *(f"STATE{n}" for n in range(len(states)))]
    return function(f"{name}({', '.join(arguments)})", [f'"""Of {moving.program.name}."""', *lines])
