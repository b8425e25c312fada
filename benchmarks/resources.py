"""What the compiler makes of the kernels for GPUs: `python -m benchmarks.resources`.

No GPU is needed. For each kernel: registers, spilled bytes, shared memory, instructions, and how
many bytes a thread's accesses to elements have on the way for whole, aligned spans.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import optdsl
from optdsl import compiler
from optdsl.backends.base import DTYPES
from optdsl.runtime.build.python_modules import module
from optdsl.runtime.device.device_step import learning_module
from optdsl.runtime.engines.launch_arguments import REGISTERS
from optdsl.specifications import library

TARGETS = {"cuda:80": 32, "cuda:90": 32, "hip:gfx90a": 64, "hip:gfx942": 64}
ORDERS = ("overlapped", "exact")
# The types of what kernels are given, by the names of arguments; all others are counts.
_POINTERS = {
    **dict.fromkeys(("table", "begins"), "*i64"),
    **dict.fromkeys(("holders", "firsts", "sources"), "*i32"),
    **dict.fromkeys(
        ("uniforms", "scalars", "sums", "rows", "dots", "given", "memory", "later"), "*fp64"
    ),
    **dict.fromkeys(("of_rows", "of_cols", "of_all"), "*fp64"),
}
# The accesses of `fetch` and `put` without a mask.
_FAST_LOAD, _FAST_STORE = "        return tl.load(p + i)", "        tl.store(p + i, x)"
_PLACE = re.compile(r"\s*\.loc\s+\d+\s+(\d+)")
_ACCESS = re.compile(
    r"\b(?:ld|st)\.global(?:\.(?!v\d|b\d)[\w:]+)*(?:\.v(\d))?\.b(\d+)\b"
    r"|\b(?:global|flat|buffer)_(?:load|store)_([us]?byte|[us]?short|dword(?:x\d)?)(?:_d16\w*)?\b"
)
_SIZES = {
    **dict.fromkeys(("byte", "ubyte", "sbyte"), 1),
    **dict.fromkeys(("short", "ushort", "sshort"), 2),
    **{"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16},
}
_KERNEL = re.compile(
    r"_(loop|numbers|pass|fold)\d+$|_between\d+_\d+$|_(begin|uniforms)$|^learn_all$"
)
# What kernels of matrices are compiled for, of rows that can be read by wide accesses; and the
# working space whose type is that of calculations.
_TILE = {"UNIT": 16, "HIGH": 16, "WIDE": 128}
_TYPES = {"float64": "fp64", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_REAL = ("row_values", "col_values")


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        rule, dtype, order, target, kernel: which it is.
        registers: for a thread; 0 where the target does not tell.
        spilled: bytes of a thread's stack.
        shared: bytes of shared memory for a program.
        instructions: of the machine, both ways and what fills up the end included.
        loads, stores: bytes of each access of a thread to elements on the fast way; none where a
            kernel has no such way.
    """

    rule: str
    dtype: str
    order: str
    target: str
    kernel: str
    registers: int
    spilled: int
    shared: int
    instructions: int
    loads: list[int]
    stores: list[int]


def resources(rule: str, dtype: str, order: str, target: str) -> Iterator[Resources]:
    """Compile all kernels of a rule, and of its coefficients.

    Args:
        rule: a name of the library, or the path of a specification.
        dtype: of the parameters.
        order: when coefficients move.
        target: of `TARGETS`.
    """
    source = compiler.emit(library.open_source(rule), "triton", order=order, dtype=dtype)
    modules = [(module(source), source.text)]
    cls = optdsl.load(rule, backend="triton", order=order)
    dots = next((e.dots for e in source.entries.values() if e.dots), ())
    learning = learning_module(cls.compiled, dots)
    modules += [] if learning is None else [(learning, "")]
    for made, text in modules:
        fast = [_line(text, _FAST_LOAD), _line(text, _FAST_STORE)]
        for name, kernel in vars(made).items():
            if hasattr(kernel, "arg_names") and _KERNEL.search(name):
                binary = compiled(made, kernel, target, dtype)
                measured = _measured(binary, target)
                assembly = binary.asm["ptx" if target.startswith("cuda") else "amdgcn"]
                loads, stores = (accesses(assembly, line) for line in fast)
                yield Resources(rule, dtype, order, target, name, *measured, loads, stores)


def compiled(made: ModuleType, kernel: Any, target: str, dtype: str = "float32") -> Any:
    """A kernel of an emitted module, for parameters of a dtype, as Triton compiles it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    maker, arch = target.split(":")
    signature, constants = {}, {}
    pointers = _POINTERS | _of_matrices(kernel.arg_names, dtype)
    for name in kernel.arg_names:
        if name in {"BLOCK", "SPAN", "TALL", *_TILE}:
            signature[name] = "constexpr"
            constants[name] = _TILE[name] if name in _TILE else getattr(made, name)
        else:
            signature[name] = pointers.get(name, "i32")
    aligned = [["tt.divisibility", 16]]
    attributes = {
        (n,): aligned for n, name in enumerate(kernel.arg_names) if "*" in pointers.get(name, "")
    }
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget(maker, int(arch) if arch.isdigit() else arch, TARGETS[target]),
        options={
            "num_warps": made.THREADS // TARGETS[target] if constants else 1,
            **made.OPTIONS,
            **(
                {"maxnreg": REGISTERS}
                if maker == "cuda" and kernel.__name__ in getattr(made, "CROWDED", ())
                else {}
            ),
        },
    )


def _of_matrices(names: Sequence[str], dtype: str) -> dict[str, str]:
    """The types of what only kernels of matrices are given: tensors, and values of one axis."""
    if "stack" not in names:
        return {}
    element, real = f"*{_TYPES[dtype]}", "*fp64" if dtype == "float64" else "*fp32"
    tensors = names[: names.index("stack")]
    found = {name: element if name in {"theta_", "g_"} else real for name in tensors}
    return {"rows": "i32", **found, **dict.fromkeys(_REAL, real)}


def _measured(binary: Any, target: str) -> tuple[int, int, int, int]:
    """Registers, spilled bytes, shared bytes, instructions."""
    shared = binary.metadata.shared
    if target.startswith("cuda"):
        registers, spilled, instructions = _usage(binary.asm["cubin"])
        return registers, spilled, shared, instructions
    text = binary.asm["amdgcn"]
    registers = max(map(int, re.findall(r"\.vgpr_count:\s*(\d+)", text)), default=0)
    spilled = 4 * max(map(int, re.findall(r"\.vgpr_spill_count:\s*(\d+)", text)), default=0)
    return registers, spilled, shared, len(re.findall(r"^\t[a-z]\w*", text, re.MULTILINE))


def _usage(binary: bytes) -> tuple[int, int, int]:
    """Registers, bytes of stack and instructions of a kernel for NVIDIA's devices."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise RuntimeError(f"{tool.name} says nothing of registers")
    return int(found[1]), int(found[2]), _code(binary) // 16


def _code(binary: bytes) -> int:
    """The bytes of all sections with instructions of an ELF file of 64 bits (ELF-64, version 1.5).

    On NVIDIA's devices since compute capability 7.0 an instruction has 16.
    """
    (start,) = struct.unpack_from("<Q", binary, 0x28)
    size, count = struct.unpack_from("<HH", binary, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", binary, start + n * size) for n in range(count)]
    executable = 4
    return sum(header[5] for header in headers if header[2] & executable)


def accesses(text: str, line: int | None) -> list[int]:
    """The bytes of each access to global memory that an assembly text has for a line of a source.

    A kernel also reads the numbers of a row, which the compiler may join to accesses as wide as
    those to elements; where they come from tells them apart. For AMD's devices a load that is
    joined with a conversion has the place of the call, and is missing here.

    Args:
        text: PTX or GCN assembly, with the lines of the source (`.loc`).
        line: the line, from 1; of none there are no accesses.
    """
    found, current, inline = [], None, False
    for row in text.splitlines():
        # Within inline assembly the line counts up with the lines of the assembly.
        if "inline asm" in row:
            inline = "begin" in row
        elif (place := _PLACE.match(row)) and not inline:
            current = int(place[1])
        elif line is not None and current == line and (access := _ACCESS.search(row)):
            many, bits, kind = access.groups()
            found.append(int(many or 1) * int(bits) // 8 if bits else _SIZES[kind])
    return found


def _line(text: str, wanted: str) -> int | None:
    """The first line that is that one, from 1."""
    lines = text.splitlines()
    return lines.index(wanted) + 1 if wanted in lines else None


def table(found: Sequence[Resources]) -> Table:
    """All of it for the terminal."""
    made = Table(box=box.SIMPLE_HEAD, caption="Loads and stores: so many of so many bytes.")
    for name in ("rule", "dtype", "order", "target", "kernel"):
        made.add_column(name, no_wrap=True)
    for name in ("registers", "spilled", "shared", "instructions", "loads", "stores"):
        made.add_column(name, justify="right")
    for one in found:
        *plain, loads, stores = asdict(one).values()
        made.add_row(*map(str, plain), _widths(loads), _widths(stores))
    return made


def _widths(sizes: Sequence[int]) -> str:
    """Widest first, as "4 of 16, 2 of 8"."""
    counts = sorted(Counter(sizes).items(), reverse=True)
    return ", ".join(f"{count} of {size}" for size, count in counts) or "-"


def _chosen(text: str, known: Sequence[str] | None, what: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if known is not None and name not in known:
            raise SystemExit(f"there is no {what} {name!r}; there are {', '.join(known)}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    parser.add_argument("--rules", default="adam,mada", help="between commas")
    parser.add_argument("--dtypes", default="float32,bfloat16", help=", ".join(DTYPES))
    parser.add_argument("--orders", default="overlapped,exact", help=", ".join(ORDERS))
    parser.add_argument("--targets", default="cuda:90", help=", ".join(TARGETS))
    parser.add_argument("--out", type=Path, help="a JSON file")
    given = parser.parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise SystemExit("TRITON_INTERPRET=1 is set, with which nothing is compiled: unset it")
    if importlib.util.find_spec("triton") is None:
        raise SystemExit("there is no triton; install triton")
    found: list[Resources] = []
    for target in _chosen(given.targets, list(TARGETS), "target"):
        for rule in _chosen(given.rules, None, "rule"):
            for dtype in _chosen(given.dtypes, DTYPES, "dtype"):
                for order in _chosen(given.orders, ORDERS, "order"):
                    try:
                        found += resources(rule, dtype, order, target)
                    except (LookupError, OSError, ValueError) as trouble:
                        raise SystemExit(str(trouble)) from None
    # The same kernel is in both orders.
    unique = {(*list(asdict(r).values())[:2], r.target, r.kernel): r for r in reversed(found)}
    shown = list(unique.values())[::-1]
    console = Console()
    console.width = max(console.width, 120)
    console.print(table(shown))
    if given.out is not None:
        given.out.write_text(json.dumps([asdict(r) for r in shown], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
