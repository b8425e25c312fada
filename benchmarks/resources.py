"""What the compiler makes of the kernels for GPUs: `python -m benchmarks.resources`.

No GPU is needed. For each kernel: registers, spilled bytes, shared memory, and how many bytes its
widest accesses to memory have.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

import optdsl
from optdsl import compiler, library
from optdsl.backends.base import DTYPES
from optdsl.runtime.build import module
from optdsl.runtime.resident import learning_module

TARGETS = {"cuda:80": 32, "cuda:90": 32, "hip:gfx90a": 64, "hip:gfx942": 64}
ORDERS = ("overlapped", "exact")
# The types of what kernels are given, by the names of arguments; all others are counts.
_POINTERS = {
    **dict.fromkeys(("table", "begins"), "*i64"),
    **dict.fromkeys(("holders", "firsts", "sources"), "*i32"),
    **dict.fromkeys(
        ("uniforms", "scalars", "sums", "rows", "dots", "given", "memory", "later"), "*fp64"
    ),
}
_KERNEL = re.compile(r"_(loop|numbers)\d+$|_(begin|uniforms)$|^learn_all$")


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        rule, dtype, order, target, kernel: which it is.
        registers: for a thread; 0 where the target does not tell.
        spilled: bytes of a thread's stack.
        shared: bytes of shared memory for a program.
        loads, stores: bytes of the widest access to memory of a thread.
    """

    rule: str
    dtype: str
    order: str
    target: str
    kernel: str
    registers: int
    spilled: int
    shared: int
    loads: int
    stores: int


def resources(rule: str, dtype: str, order: str, target: str) -> Iterator[Resources]:
    """Compile all kernels of a rule, and of its coefficients.

    Args:
        rule: a name of the library, or the path of a specification.
        dtype: of the parameters.
        order: when coefficients move.
        target: of `TARGETS`.
    """
    source = compiler.emit(library.open_source(rule), "triton", order=order, dtype=dtype)
    modules = [module(source)]
    cls = optdsl.load(rule, backend="triton", order=order)
    dots = next((e.dots for e in source.entries.values() if e.dots), ())
    learning = learning_module(cls.compiled, dots)
    modules += [] if learning is None else [learning]
    for made in modules:
        for name, kernel in vars(made).items():
            if hasattr(kernel, "arg_names") and _KERNEL.search(name):
                compiled = _compiled(made, kernel, target)
                yield Resources(rule, dtype, order, target, name, *_measured(compiled, target))


def _compiled(made: ModuleType, kernel: Any, target: str) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    maker, arch = target.split(":")
    signature, constants = {}, {}
    for name in kernel.arg_names:
        if name in {"BLOCK", "SPAN"}:
            signature[name], constants[name] = "constexpr", getattr(made, name)
        else:
            signature[name] = _POINTERS.get(name, "i32")
    aligned = [["tt.divisibility", 16]]
    attributes = {(n,): aligned for n, name in enumerate(kernel.arg_names) if name in _POINTERS}
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget(maker, int(arch) if arch.isdigit() else arch, TARGETS[target]),
        options={"num_warps": made.WARPS if constants else 1},
    )


def _measured(compiled: Any, target: str) -> tuple[int, int, int, int, int]:
    """Registers, spilled bytes, shared bytes, widest load, widest store."""
    shared = compiled.metadata.shared
    if target.startswith("cuda"):
        registers, spilled = _usage(compiled.asm["cubin"])
        widths = [_widest(compiled.asm["ptx"], kind) for kind in ("ld", "st")]
        return registers, spilled, shared, *widths
    text = compiled.asm["amdgcn"]
    registers = max(map(int, re.findall(r"\.vgpr_count:\s*(\d+)", text)), default=0)
    spilled = 4 * max(map(int, re.findall(r"\.vgpr_spill_count:\s*(\d+)", text)), default=0)
    sizes = {"": 4, "x2": 8, "x3": 12, "x4": 16}
    loads, stores = (
        max((sizes[w] for w in re.findall(rf"global_{kind}_dword(x\d)?\b", text)), default=0)
        for kind in ("load", "store")
    )
    return registers, spilled, shared, loads, stores


def _usage(binary: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a kernel for NVIDIA's devices."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _widest(text: str, kind: str) -> int:
    found = re.findall(rf"\b{kind}\.global(?:\.\w+)*?(?:\.v(\d))?\.b(\d+)\b", text)
    return max((int(many or 1) * int(bits) // 8 for many, bits in found), default=0)


def table(found: Sequence[Resources]) -> Table:
    """All of it for the terminal."""
    made = Table(box=box.SIMPLE_HEAD)
    for name in ("rule", "dtype", "order", "target", "kernel"):
        made.add_column(name, no_wrap=True)
    for name in ("registers", "spilled", "shared", "loads", "stores"):
        made.add_column(name, justify="right")
    for one in found:
        made.add_row(*map(str, asdict(one).values()))
    return made


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
