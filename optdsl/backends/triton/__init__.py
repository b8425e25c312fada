"""The Triton backend: one Python file, every tensor of a call in one launch over their addresses.

A table holds the size of each tensor, its row of hyperparameters and where it lies; a map says
which block of which tensor a program works on. Uniform values are computed on the device in double
precision, a row of hyperparameters each, so that nothing has to come from the host; elements are
computed in float32, or float64 for parameters in double precision. Where a block is whole and all
addresses are multiples of 16 bytes, memory is accessed 16 bytes at a time, or 8 where elements are
narrow and operations many. Sums are added up block by block and then in the order of the blocks, in
double precision: the same from run to run. Nothing is compiled again when shapes, numbers of
tensors or hyperparameters change.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from optdsl.backends.base import SourceModule, needed_kernels
from optdsl.backends.triton.begin import ADVANCE, KEEP, begin, later
from optdsl.backends.triton.expressions import OPTIONS, helpers, spelled_operations
from optdsl.backends.triton.functions import Functions
from optdsl.backends.triton.matrices import kernels as matrices
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices
from optdsl.plan import KINDS, Kind
from optdsl.plan.keys import pending
from optdsl.schedule import Kernel, Role

SPAN, BLOCK, THREADS = 2048, 512, 128
# So many operations on eight elements fit into the registers of a thread.
_FEW = 48


class TritonBackend:
    """Emits Triton, for GPUs."""

    name = "triton"

    def emit(
        self, kernels: Mapping[str, Kernel], dtype: str = "float32", order: str = "overlapped"
    ) -> SourceModule:
        """The file of a rule; see `optdsl.backends.base.Backend`."""
        program = kernels[Role.STEP].program
        if of_matrices(program.kind):
            return _of_matrices(kernels, dtype)
        kept, names = Role.COMPLETE in kernels, ["t", *(h.name for h in program.hypers)]
        row = [*names, *map(pending, names)] if kept else names
        emitted = [Functions(kernel, dtype, row) for kernel in needed_kernels(kernels, order)]
        others = {Role.INITIALIZE, Role.COMPLETE, Role.STEP_OUTSIDE}
        begun = [f for f in emitted if f.entry.name not in others]
        # A captured graph goes on with the addresses that it was captured with.
        emitted += [_fixed(f, dtype, row) for f in emitted if f.entry.buffers]
        hypers = len(program.hypers)
        complete = next((f for f in emitted if f.entry.name == Role.COMPLETE), None)
        texts = [f.text for f in emitted] + [ADVANCE, *([KEEP] if kept else [])]
        texts += [begin(f, complete, hypers, kept) for f in begun]
        texts += [later(complete)] if complete is not None else []
        widths = [f'    "{f.entry.name}": ({f.uniforms}, {f.scalars}, {f.sums}),' for f in emitted]
        crowded = [f'    "{name}",' for f in emitted for name in f.crowded]
        header = [
            f'"""{_documentation(program.name, program.documentation)}"""',
            "",
            "import triton",
            "import triton.language as tl",
            "",
            *_comment(f"A row of hyperparameters has {', '.join(row)}."),
            "# A program works on a span of a tensor, a block of it at a time.",
            f"SPAN, BLOCK, THREADS = {SPAN}, {BLOCK}, {_threads(emitted, dtype)}",
            OPTIONS,
            "# Where registers are scarce; the options for that are the device's.",
            *(["CROWDED = (", *crowded, ")"] if crowded else ["CROWDED = ()"]),
            "# How many uniform values a row has, numbers a tensor, and sums a block.",
            "WIDTHS = {",
            *widths,
            "}",
        ]
        text = "\n\n\n".join(["\n".join(header), *helpers("\n".join(texts)), *texts])
        entries = {f.entry.name: f.entry for f in emitted}
        return SourceModule(program.name, "python", f"{text}\n", entries)

    @staticmethod
    def plans(program: Program) -> tuple[Kind, ...]:
        """All of them; where tensors are read as matrices, tangents are states."""
        return ("stored",) if of_matrices(program.kind) else KINDS

    spellings = staticmethod(spelled_operations)


def _of_matrices(kernels: Mapping[str, Kernel], dtype: str) -> SourceModule:
    """The file of a rule whose tensors are read as matrices."""
    program = kernels[Role.STEP].program
    emitted = matrices.functions_of(kernels, dtype)
    row = ", ".join(["t", *(h.name for h in program.hypers)])
    header = [
        f'"""{_documentation(program.name, program.documentation)}"""',
        "",
        "import triton",
        "import triton.language as tl",
        "",
        *_comment(f"A row of hyperparameters has {row}."),
        "# A program has so many tiles below each other, of so many elements, usually so wide.",
        f"TALL, ELEMENTS, WIDE = {matrices.TALL}, {matrices.ELEMENTS}, {matrices.WIDE}",
        f"BLOCK, THREADS = {matrices.BLOCK}, {matrices.THREADS}",
        OPTIONS,
        *_comment(
            "How many uniform values there are; numbers, values of rows and values of columns of "
            "a matrix; and reductions for each row, for each column, and of all."
        ),
        "WIDTHS = {",
        *(f'    "{f.entry.name}": {f.widths},' for f in emitted),
        "}",
    ]
    texts = [f.text for f in emitted]
    called = list[str]()
    # Those that functions call are found in turn.
    while called != (found := helpers("\n".join([*texts, *called]), matrices.KNOWN)):
        called = found
    text = "\n\n\n".join(["\n".join(header), *called, *texts])
    entries = {f.entry.name: f.entry for f in emitted}
    return SourceModule(program.name, "python", f"{text}\n", entries)


def _comment(text: str) -> list[str]:
    return textwrap.wrap(f"# {text}", 96, subsequent_indent="# ", break_on_hyphens=False)


def _fixed(functions: Functions, dtype: str, row: Sequence[str]) -> Functions:
    """The same with every state in its own memory."""
    kernel = replace(functions.kernel, name=fixed(functions.kernel.name), rotates=False)
    return Functions(kernel, dtype, row, functions)


def fixed(name: str) -> str:
    """The entry point that does what another does, and leaves every state in its own memory."""
    return f"{name}_fixed"


def _threads(emitted: Sequence[Functions], dtype: str) -> int:
    """How many threads share a block.

    Half of them where elements are narrow, so that a thread's eight are 16 bytes, too; but not
    where so many elements would not fit into registers.
    """
    longest = max(len(loop.body) for f in emitted for loop in f.kernel.loops)
    return THREADS // 2 if dtype in {"bfloat16", "float16"} and longest <= _FEW else THREADS


def _documentation(name: str, lines: tuple[str, ...]) -> str:
    text = "\n".join([f"{name}.", "", *lines]).rstrip() if lines else f"{name}."
    text = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    # A citation may end in a quotation mark.
    return f"{text}\n" if "\n" in text or text.endswith('"') else text
