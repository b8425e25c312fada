"""How a step begins where rows of hyperparameters stay on the device from step to step.

The host sends what was set only when it has changed; counts go on, and what was learned is taken
over, on the device. So a step waits for nothing, and can be captured in a graph and replayed.
"""

from __future__ import annotations

from optdsl.backends.triton.functions import Functions

ADVANCE = '''\
@triton.jit
def advance(
    rows, given, memory, sources, n, HYPERS: tl.constexpr, WIDTH: tl.constexpr,
    WIDE: tl.constexpr,
):
    """One more step in a row, with the hyperparameters that were set and those learned."""
    k = tl.arange(0, WIDE)
    inside = k < HYPERS
    source = tl.load(sources + k, mask=inside, other=-1)
    learned = tl.load(memory + source, mask=inside & (source >= 0), other=0.0)
    q = rows + n * WIDTH
    own = tl.load(given + n * HYPERS + k, mask=inside, other=0.0)
    tl.store(q + 1 + k, tl.where(source < 0, own, learned), mask=inside)
    tl.store(q, tl.load(q) + 1)'''

KEEP = '''\
@triton.jit
def keep(rows, n, HELD: tl.constexpr, WIDTH: tl.constexpr, WIDE: tl.constexpr):
    """Remember the step of a row as the one that is pending."""
    k = tl.arange(0, WIDE)
    inside = k < HELD
    q = rows + n * WIDTH
    tl.store(q + HELD + k, tl.load(q + k, mask=inside, other=0.0), mask=inside)'''


def begin(functions: Functions, complete: Functions | None, hypers: int, kept: bool) -> str:
    """The function of the device with which a step begins, and the one of the host.

    Args:
        functions: those of the step.
        complete: those that complete it later; None where nothing does, or not by itself.
        hypers: how many hyperparameters there are.
        kept: whether a step is pending afterwards.
    """
    name, held = functions.entry.name, 1 + hypers
    width, wide = held * (1 + kept), 1 << (held - 1).bit_length()
    lines = ["n = tl.program_id(0)"]
    lines += [f"advance(rows, given, memory, sources, n, {hypers}, {width}, {wide})"]
    if functions.uniforms:
        lines += ["tl.debug_barrier()", f"{name}_uniforms(rows, uniforms)"]
    if kept:
        lines += ["tl.debug_barrier()", f"keep(rows, n, {held}, {width}, {wide})"]
    if complete is not None and complete.uniforms:
        lines += ["tl.debug_barrier()", "complete_uniforms(rows, later)"]
    arguments = "rows, given, memory, sources, uniforms, later"
    return "\n".join(
        [
            "@triton.jit",
            f"def {name}_begin({arguments}):",
            '    """A new step in each row, its uniform values, and those to complete it with."""',
            *(f"    {line}" for line in lines),
            "",
            "",
            f"def begin_{name}(c):",
            '    """Launch it; see `optdsl.runtime.device.device_step`."""',
            f"    {name}_begin[(c.count,)](",
            "        c.rows, c.given, c.memory, c.sources, c.uniforms, c.later, "
            "num_warps=1, **OPTIONS,",
            "    )",
        ]
    )


def later(complete: Functions) -> str:
    """The function of the host for the uniform values with which steps will be completed."""
    call = "complete_uniforms[(c.count,)](c.rows, c.later, num_warps=1, **OPTIONS)"
    return "\n".join(
        [
            "def later_complete(c):",
            '    """Launch what tells how the pending steps are completed."""',
            f"    {call if complete.uniforms else 'pass'}",
        ]
    )
