"""What memory and arithmetic cost on this machine: measured once, and noted in the cache."""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor

from optdsl.plan.balance import BALANCE_VARIABLE, DEVICE, PROCESSOR, Balance, parsed
from optdsl.runtime.build.artifact_cache import noted
from optdsl.runtime.build.library_cache import shared_library
from optdsl.runtime.build.march import chosen
from optdsl.runtime.build.toolchain import BuildError, NoCompiler, processor

# Two arrays of so many floats are far more than caches hold; a block of so many is far less.
_MANY, _BLOCK = 1 << 23, 1 << 11
_REPEATED, _TIMES = 128, 25
# In additions, what `compute` does for an element: see `optdsl.ir.ops.price`.
_STEPS = 8
_PRICE = _STEPS * 4 + 2 * 10
_BYTES = 12

_TEXT = f"""\
#include <math.h>
void move(float *restrict x, const float *restrict y, long n, int threads) {{
  #pragma omp parallel for simd num_threads(threads) schedule(static) if (threads > 1)
  for (long i = 0; i < n; i++) x[i] = 0.5f * x[i] + y[i];
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
void compute(float *restrict x, long n, long repeated, int threads) {{
  #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int t = 0; t < threads; t++)
    for (long r = 0; r < repeated; r++) block(x + t * n, n);
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
    x, y = torch.ones(_MANY), torch.ones(_MANY)
    long, count = ctypes.c_long, ctypes.c_int(threads)
    many, block, repeated = long(_MANY), long(_BLOCK), long(_REPEATED)
    moved = _nanoseconds(lambda: library.move(_at(x), _at(y), many, count))
    own = torch.ones(threads * _BLOCK)
    computed = _nanoseconds(lambda: library.compute(_at(own), block, repeated, count))
    byte = moved / (_BYTES * _MANY)
    operation = computed / (_PRICE * _BLOCK * _REPEATED * threads)
    return [float(f"{number:.2g}") for number in (byte, operation)]


def _at(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _nanoseconds(call: Callable[[], object]) -> float:
    """The shortest of several calls, after one that is not counted.

    Whatever else runs on the machine makes calls longer, and never shorter.
    """
    call()
    found = []
    for _ in range(_TIMES):
        begin = time.perf_counter_ns()
        call()
        found.append(time.perf_counter_ns() - begin)
    return min(found)
