"""The page on a plan: bytes of state, what a step moves and computes, and the other plans."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from optdsl.artifact import Target
from optdsl.compiler import candidates, derive, parts
from optdsl.costs import BYTES, Cost, bytes_of_state, cost, fastest, frontier, state_bytes
from optdsl.diagnostics import Source
from optdsl.ir.program import Program
from optdsl.ir.storage import added, stored
from optdsl.learn_option import LearnOption
from optdsl.options import compile_options
from optdsl.plan import KINDS, Plan, plans
from optdsl.plan.balance import Balance
from optdsl.report.layout import WIDTH, table, unit_of
from optdsl.runtime.build.machine_balance import balance
from optdsl.runtime.engines.sampled.choice import smallest
from optdsl.schedule import Kernel, Role, cheapest, sampled_mean, schedule

_WAYS = {
    "none": "Nothing is learned, so that a step needs no tangents.",
    "live": "Live: the hyper-gradients of a step are computed from values that are left after it.",
    "replay": "Replay: the stored states lag by one step, which is computed again, with its "
    "tangents, during the next one.",
    "stored": "Stored: the tangents of a step are kept until the next one.",
    "cut": "Cut: values of a step are kept from which its tangents are computed in the next one.",
}
_NAMES = {
    Role.FUSED: "overlapped (default)",
    Role.COMPLETE: "exact: hyper-gradients first",
    Role.STEP_COMPLETED: "exact: then the step",
}
_NORMS = (
    "Norms and other sums over a tensor are known only after a pass over it. What these passes "
    "read comes from a cache where the tensor fits into it."
)
_OPERATIONS = (
    "Operations are of one element, counted as additions: a root or a division is 10 of them, a "
    "power 50. The time is an estimate for large tensors in overlapped order."
)


def describe_plan(source: Source, learn: LearnOption = True, bound: float | None = None) -> str:
    """The page that ``optdsl show NAME --plan`` prints, for parameters in float32.

    Args:
        source: the specification.
        learn: as of `optdsl.load`.
        bound: the most bytes of state for each parameter, as ``state_bytes`` of `optdsl.load`.

    Raises:
        OptionError, SpecError: as `optdsl.load`.
    """
    bound = compile_options("c", state_bytes=bound).state_bytes
    pages = [_page(title, part, bound) for title, part in parts(derive(source, learn))]
    return "\n\n".join("\n".join(block) for blocks in pages for block in blocks) + "\n"


def _page(title: str, program: Program, bound: float | None) -> list[list[str]]:
    """The blocks of the page, for a rule, or for a section or a stage of it."""
    found = plans(program, rounded=False)
    chosen = cheapest(found)
    learns = chosen.kind != "none"
    # Without anything to choose from, the machine need not be measured.
    machine = balance() if learns else Balance(1.0, 1.0)
    if learns or bound is not None:
        everything = candidates(program, Target("c"))
        if bound is not None:
            chosen = fastest(everything, machine, bound, "overlapped", program.name)
        found = tuple(dict.fromkeys((*found, *everything)))
    way = textwrap.wrap(_WAYS[chosen.kind], WIDTH, initial_indent="  ", subsequent_indent="  ")
    state = f"State: {state_bytes(chosen):g} bytes per parameter in float32"
    blocks = [
        [program.name if title == "a step" else f"{program.name}, {title}", *way],
        [state, *table(_states(chosen))],
    ]
    if stored(program):
        blocks.append(["What a step moves is not counted where something is stored by a codec."])
    else:
        rows = _steps(chosen)
        notes = [_NORMS] if any(row[0] == _EARLIER for row in rows) else []
        if any(o.opcode == "matmul" for o in program.operations):
            notes.append("What products of matrices move is not counted.")
        if chosen.sample > 1:
            notes.append(
                f"Tensors of fewer than {smallest(chosen.sample):,} elements are taken whole, as "
                f"the sampled elements are."
            )
        blocks.append(["A step, in bytes per parameter", *table(rows), *map(_wrapped, notes)])
    if learns:
        title = f"Possible plans, at {machine.byte:g} ns a byte and {machine.operation:g} ns an "
        rule = "The one with the least state is chosen"
        if bound is not None:
            rule = f"The fastest with at most {bound:g} bytes of state is chosen"
        needs = "what is left of earlier ones" if chosen.traces else "values that are gone"
        missing = [kind for kind in KINDS if kind not in {plan.kind for plan in found}]
        notes = [f"Not possible: {kind}, since a tangent needs {needs}." for kind in missing]
        notes += [f"{rule}; see `state_bytes` of optdsl.load.", _OPERATIONS]
        rows = _compared(found, chosen, machine)
        blocks.append([f"{title}operation", *table(rows), *map(_wrapped, notes)])
    return blocks


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _states(plan: Plan) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for state in plan.states:
        unit = unit_of(state.type)
        why = "for the pending step" if state.name in plan.kept else ""
        why = "with its horizon" if state.name in plan.traces else why
        if why and plan.sample > 1:
            why += f", of 1 in {plan.sample} elements"
        rows.append((state.name, f"{bytes_of_state(plan, state):g} per {unit}", why or state.codec))
    rows += [(key, f"{BYTES} per parameter", "beside the parameter") for key in added(plan.advance)]
    return rows or [("none",)]


_EARLIER = "  and before, for its sums"


def _steps(plan: Plan) -> list[Sequence[str]]:
    kernels = schedule(plan)
    if plan.kind == "none":
        return _moved("a step", kernels["step"])
    sampled = plan.sample > 1
    rows: list[Sequence[str]] = []
    for key, name in _NAMES.items():
        rows += _moved(f"{name}, sampled elements" if sampled else name, kernels[key])
    fused = _total(kernels[Role.FUSED])
    exact = sum(_total(kernels[key]) for key in (Role.COMPLETE, Role.STEP_COMPLETED))
    if not sampled:
        return [*rows, ("exact, together", "", "", f"{exact}")]
    outside = _total(kernels[Role.STEP_OUTSIDE])
    rows.append(("exact, sampled elements, together", "", "", f"{exact}"))
    rows += _moved("elements outside the sample", kernels[Role.STEP_OUTSIDE])
    for name, total in (("overlapped", fused), ("exact", exact)):
        mean = sampled_mean(total, outside, plan.sample)
        rows.append((f"{name}, mean of all elements", "", "", f"{mean:g}"))
    return rows


def _total(kernel: Kernel) -> int:
    return BYTES * (sum(kernel.traffic) + kernel.earlier)


def _moved(name: str, kernel: Kernel) -> list[Sequence[str]]:
    """What a kernel moves in its last pass, and what its passes before that one read."""
    read, written = (BYTES * count for count in kernel.traffic)
    rows: list[Sequence[str]] = [(name, f"reads {read}", f"writes {written}", str(read + written))]
    if kernel.earlier:
        before = BYTES * kernel.earlier
        rows.append((_EARLIER, f"reads {before}", "writes 0", str(before)))
    return rows


def _compared(found: Sequence[Plan], chosen: Plan, machine: Balance) -> list[Sequence[str]]:
    """The plans with names, and those that no other one beats in both state and time."""
    costs = [cost(plan, machine) for plan in found]
    best = frontier(costs)
    rows: list[Sequence[str]] = [("plan", "state", "moved in a step", "operations", "time", "")]
    for number, (plan, each) in enumerate(zip(found, costs, strict=True)):
        if plan.kind in KINDS or plan == chosen or number in best:
            mark = "chosen" if plan == chosen else ""
            rows.append((plan.kind, *_cost(each), mark))
    return rows


def _cost(each: Cost) -> Sequence[str]:
    return (
        f"{each.state:g} bytes",
        f"{each.moved:g} bytes",
        f"{each.operations:g}",
        f"{each.nanoseconds:.3g} ns",
    )
