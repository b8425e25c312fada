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
from optdsl.schedule import Kernel, Role, cheapest, sampled_traffic, schedule

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
        blocks.append(["A step, in bytes per parameter", *table(_steps(chosen))])
    if len(found) > 1:
        title = f"Possible plans, at {machine.byte:g} ns a byte and {machine.operation:g} ns an "
        blocks.append([f"{title}operation", *table(_compared(found, chosen, machine))])
    return blocks


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


def _steps(plan: Plan) -> list[Sequence[str]]:
    kernels = schedule(plan)
    if plan.kind == "none":
        return [_moved("a step", kernels["step"])]
    rows: list[Sequence[str]] = [_moved(name, kernels[key]) for key, name in _NAMES.items()]
    exact = sum(sum(kernels[key].traffic) for key in (Role.COMPLETE, Role.STEP_COMPLETED))
    rows.append(("exact, together", "", "", f"{BYTES * exact}"))
    if plan.sample > 1:
        rows.append(_moved("outside the sample", kernels[Role.STEP_OUTSIDE]))
        mean = sampled_traffic(kernels, kernels[Role.FUSED], plan.sample)
        rows.append(("overlapped, all elements", "", "", f"{BYTES * mean:g}"))
        mean = (exact + (plan.sample - 1) * sum(kernels[Role.STEP_OUTSIDE].traffic)) / plan.sample
        rows.append(("exact, all elements", "", "", f"{BYTES * mean:g}"))
    return rows


def _moved(name: str, kernel: Kernel) -> Sequence[str]:
    read, written = (BYTES * count for count in kernel.traffic)
    return name, f"reads {read}", f"writes {written}", str(read + written)


def _compared(found: Sequence[Plan], chosen: Plan, machine: Balance) -> list[Sequence[str]]:
    """The plans with names, and those that no other one beats in both state and time."""
    costs = [cost(plan, machine) for plan in found]
    best = frontier(costs)
    rows: list[Sequence[str]] = []
    for number, (plan, each) in enumerate(zip(found, costs, strict=True)):
        if plan.kind in KINDS or plan == chosen or number in best:
            mark = "chosen" if plan == chosen else ""
            rows.append((plan.kind, *_cost(each), mark))
    names = {plan.kind for plan in found}
    missing = [kind for kind in KINDS if kind not in names]
    needs = "what is left of earlier ones" if chosen.traces else "values that are gone"
    return rows + [(kind, f"not possible: a tangent needs {needs}") for kind in missing]


def _cost(each: Cost) -> Sequence[str]:
    return (
        f"{each.state:g} bytes of state",
        f"{each.moved:g} bytes a step",
        f"{each.operations:g} operations",
        f"{each.nanoseconds:.3g} ns",
    )
