"""The entry point of a kernel in C: what is done for the rows, the tensors and the blocks."""

from __future__ import annotations

from optdsl.backends.c.functions import Functions
from optdsl.backends.c.layout import braced

_HEAD = """\
/* Returns 0, or 1 when there is no memory{or_counters}, and then nothing has changed.
   hypers: for each row, {order}.
   sums: {sums}. */
int {name}(int64_t count, const tensor *tensors, int64_t rows, const double *hypers, double *sums,
           int threads) {{
  int64_t *first = malloc((size_t)(count + 1) * sizeof *first), blocks = 0;
  for (int64_t i = 0; first && i < count; i++) {{
    first[i] = blocks;
    blocks += (tensors[i].size + BLOCK - 1) / BLOCK;
  }}
  double *u = malloc((size_t)(rows * {uniforms} + 1) * sizeof *u);
  double *q = malloc((size_t)(rows * {collected} + 1) * sizeof *q);
  double *s = malloc((size_t)(count * {scalars} + 1) * sizeof *s);
  double *partial = malloc((size_t)(blocks * {width} + 1) * sizeof *partial);
  if (!first || !u || !q || !s || !partial) {{
    free(first), free(u), free(q), free(s), free(partial);
    return 1;
  }}
  first[count] = blocks;
  threads = threads < blocks ? threads : (int)blocks;
  for (int64_t r = 0; r < rows; r++) {name}_uniform(hypers + r * {hypers}, u + r * {uniforms});
"""

_COUNTED = """\
  int counted = 1;
  for (int64_t r = 0; r < rows; r++) counted &= {name}_counted(u + r * {uniforms});
  if (!counted) {{
    free(first), free(u), free(q), free(s), free(partial);
    return 2;
  }}
"""

_FINITE = """\
  for (int64_t r = 0; r < rows; r++) {name}_finite(hypers + r * {hypers}, q + r * {collected});
"""

_SCALARS = """\
  for (int64_t i = 0; i < count; i++)
    {name}_scalars{k}(&tensors[i], u + tensors[i].row * {uniforms}, s + i * {scalars});
"""

_COEFFICIENTS = """\
  for (int64_t i = 0; i < count; i++)
    {name}_coefficients{k}(q + tensors[i].row * {collected}, s + i * {scalars});
"""

_LOOP = """\
  #pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t b = 0; b < blocks; b++) {{
    const int64_t i = holder(first, count, b);
    if (i + 1 < count && b + 1 == first[i + 1]) soon(&tensors[i + 1], {slots});
    {name}_block{k}(&tensors[i], (b - first[i]) * BLOCK, u + tensors[i].row * {uniforms},
        q + tensors[i].row * {collected}, s + i * {scalars}, partial + b * {width});
  }}
"""

_REDUCED = """\
  for (int64_t i = 0; i < count; i++) {{
    double total = 0;
    for (int64_t b = first[i]; b < first[i + 1]; b++) total += partial[b * {width} + {k}];
    s[i * {scalars} + {place}] = (real)(total{divided});
  }}
"""

_DOTS = """\
  for (int k = 0; k < {dots}; k++) {{
    sums[k] = 0;
    for (int64_t b = 0; b < blocks; b++) sums[k] += partial[b * {width} + {before} + k];
  }}
"""

_FOOT = """\
  (void)sums;
  free(first), free(u), free(q), free(s), free(partial);
  return 0;
}
"""


def driver(functions: Functions) -> str:
    """All of a kernel's C: its functions, and the entry point that calls them."""
    kernel, entry = functions.kernel, functions.entry
    bodies = functions.text()
    sizes = {
        "name": kernel.name,
        "uniforms": len(functions.values.places),
        "collected": len(functions.finite.places) if functions.finite else 0,
        "scalars": functions.scalars,
        "width": max(len(loop.reductions) for loop in kernel.loops) + len(kernel.dots),
        "hypers": 1 + len(entry.hypers),
        "slots": 2 + len(entry.states),
    }
    order = ", ".join(("t", *entry.hypers))
    sums = f"the dot products of the gradient by {', '.join(entry.dots)}" if entry.dots else "none"
    counts = bool(functions.counters)
    or_counters = ", or 2 when a counter is no finite number" if counts else ""
    text = [bodies, _HEAD.format(order=order, sums=sums, or_counters=or_counters, **sizes)]
    text += [_COUNTED.format(**sizes)] if counts else []
    text += [_FINITE.format(**sizes)] if functions.finite else []
    for k, loop in enumerate(kernel.loops):
        if loop.scalars:
            text.append(_SCALARS.format(k=k, **sizes))
        if functions.finite and functions.finite.kernel.loops[k].scalars:
            text.append(_COEFFICIENTS.format(k=k, **sizes))
        text.append(_LOOP.format(k=k, **sizes))
        for position, value in enumerate(loop.reductions):
            mean = kernel.program.operations[value].opcode == "mean"
            divided = " / (double)tensors[i].size" if mean else ""
            place = functions.values.position(value)
            text.append(_REDUCED.format(k=position, place=place, divided=divided, **sizes))
    finals = functions.finals()
    if finals:
        text.append(braced("  for (int64_t i = 0; i < count; i++)", finals, "  "))
    if kernel.dots:
        before = len(kernel.loops[-1].reductions)
        text.append(_DOTS.format(dots=len(kernel.dots), before=before, **sizes))
    return "".join([*text, _FOOT])
