"""What memory and arithmetic cost on this machine: measured once, and noted in the cache."""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from optdsl.plan.balance import BALANCE_VARIABLE, DEVICE, PROCESSOR, Balance, parsed
from optdsl.runtime.build.artifact_cache import noted
from optdsl.runtime.build.library_cache import shared_library
from optdsl.runtime.build.march import chosen
from optdsl.runtime.build.toolchain import BuildError, NoCompiler, processor

T = TypeVar("T")

# A learned step reads and writes about so many tensors at once, which takes longer for each byte
# than a copy of one array: prefetchers follow fewer.
_STREAMS = 12
# So many floats of each, and thread, are more than its part of caches holds; they begin at
# different places of pages, as states do. A block of so many is far less.
_MANY, _BLOCK = (1 << 19) + 11 * 1024 + 128, 1 << 11
_REPEATED, _TIMES = 64, 15
# In additions, what `compute` does for an element: see `optdsl.ir.ops.price`.
_STEPS = 8
_PRICE = _STEPS * 4 + 2 * 10
_BYTES = 8 * _STREAMS

_POINTERS = "".join(f"  float *restrict x{k} = x + {k} * n;\n" for k in range(_STREAMS))
_MOVES = "".join(f"    x{k}[i] = 0.5f * x{k}[i] + 0.5f;\n" for k in range(_STREAMS))
_TEXT = f"""\
#include <math.h>
void move(float *x, long n) {{
{_POINTERS}\
  for (long i = 0; i < n; i++) {{
{_MOVES}\
  }}
}}
static __attribute__((noinline)) void block(float *restrict x, long n) {{
  for (long i = 0; i < n; i++) {{
    float a = x[i], b = a + 1.0f;
    for (int k = 0; k < {_STEPS}; k++) {{
      a = a * 0.5f + 0.25f;
      b = b * 0.25f + 0.5f;
    }}
    x[i] = a / (sqrtf(b) + 1.0f);
  }}
}}
void compute(float *restrict x, long n, long repeated) {{
  for (long r = 0; r < repeated; r++) block(x, n);
}}
"""


def balance(device: str = "cpu") -> Balance:
    """What plans are chosen by, for parameters on a kind of device.

    The environment variable OPTDSL_BALANCE decides if it is set. A processor is measured with as
    many threads as steps take, unless nothing can be compiled. The ranks of a distributed training
    need equal plans, and take the values of a common processor.

    Args:
        device: "cpu", or anything else for a GPU.

    Raises:
        OptionError: the variable is not what it should be.
    """
    if text := os.environ.get(BALANCE_VARIABLE, "").strip():
        return parsed(text)
    if device != "cpu":
        return DEVICE
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return PROCESSOR
    threads = torch.get_num_threads()
    key = [processor(), chosen(), str(threads)]
    try:
        return noted("balance", key, lambda: json.dumps(_measured(threads)), _read)
    except (NoCompiler, BuildError, OSError):
        return PROCESSOR


def _read(text: str) -> Balance:
    return parsed(",".join(map(str, json.loads(text))))


def _measured(threads: int) -> list[float]:
    """Nanoseconds per byte and per operation, to two digits: more is noise."""
    library = ctypes.CDLL(str(shared_library(_TEXT, "balance")))
    moved = [torch.ones(_MANY * _STREAMS) for _ in range(threads)]
    computed = [torch.ones(_BLOCK) for _ in range(threads)]
    many, block, repeated = (ctypes.c_long(n) for n in (_MANY, _BLOCK, _REPEATED))
    with ThreadPoolExecutor(threads) as pool:
        byte = _nanoseconds(pool, moved, lambda x: library.move(_at(x), many))
        each = _nanoseconds(pool, computed, lambda x: library.compute(_at(x), block, repeated))
    found = byte / (_BYTES * _MANY * threads), each / (_PRICE * _BLOCK * _REPEATED * threads)
    return [float(f"{number:.2g}") for number in found]


def _at(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _nanoseconds(
    pool: ThreadPoolExecutor, shares: Sequence[T], call: Callable[[T], object]
) -> float:
    """The time that threads take for their shares at once: the shortest of several means.

    It is the time that each thread runs, not the time that passes: other programs on the machine
    would count otherwise, and what is noted would be wrong for ever.
    """

    def run(share: T) -> int:
        begin = time.thread_time_ns()
        call(share)
        return time.thread_time_ns() - begin

    return min(statistics.mean(pool.map(run, shares)) for _ in range(_TIMES))
