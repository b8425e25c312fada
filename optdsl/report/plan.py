"""The page on a plan: bytes of state, and bytes that a step reads and writes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from optdsl.compiler import derive, parts
from optdsl.diagnostics import Source
from optdsl.ir.program import Program, State
from optdsl.ir.storage import added, stored
from optdsl.ir.types import Extent
from optdsl.learn_option import LearnOption
from optdsl.plan import KINDS, Plan, plans
from optdsl.report.layout import BYTES, WIDTH, bytes_of, table, unit_of
from optdsl.schedule import Kernel, Role, cheapest, sampled_traffic, schedule, state_tensors

_WAYS = {
    "none": "Nothing is learned, so that a step needs no tangents.",
    "live": "Live: the hyper-gradients of a step are computed from values that are left after it.",
    "replay": "Replay: the stored states lag by one step, which is computed again, with its "
    "tangents, during the next one.",
    "stored": "Stored: the tangents of a step are kept until the next one.",
}
_NAMES = {
    Role.FUSED: "overlapped (default)",
    Role.COMPLETE: "exact: hyper-gradients first",
    Role.STEP_COMPLETED: "exact: then the step",
}


def describe_plan(source: Source, learn: LearnOption = True) -> str:
    """The page that ``optdsl show NAME --plan`` prints, for parameters in float32.

    Raises:
        OptionError, SpecError: as `optdsl.load`.
    """
    pages = [_page(title, part) for title, part in parts(derive(source, learn))]
    return "\n\n".join("\n".join(block) for blocks in pages for block in blocks) + "\n"


def _page(title: str, program: Program) -> list[list[str]]:
    """The blocks of the page, for a rule, or for a section or a stage of it."""
    candidates = plans(program, rounded=False)
    chosen = cheapest(candidates)
    way = textwrap.wrap(_WAYS[chosen.kind], WIDTH, initial_indent="  ", subsequent_indent="  ")
    own = (s for s in chosen.states if s.type.extent is Extent.TENSOR)
    beside = BYTES * len(added(chosen.advance))
    many = sum(_bytes(chosen, s) for s in own) + beside
    state = f"State: {many:g} bytes per parameter in float32"
    blocks = [
        [program.name if title == "a step" else f"{program.name}, {title}", *way],
        [state, *table(_states(chosen))],
    ]
    if stored(program):
        blocks.append(["What a step moves is not counted where something is stored by a codec."])
    else:
        blocks.append(["A step, in bytes per parameter", *table(_steps(chosen))])
    if len(candidates) > 1:
        blocks.append(["Possible plans", *table(_compared(candidates, chosen))])
    return blocks


def _states(plan: Plan) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for state in plan.states:
        unit = unit_of(state.type)
        why = "for the pending step" if state.name in plan.kept else ""
        why = "with its horizon" if state.name in plan.traces else why
        if why and plan.sample > 1:
            why += f", of 1 in {plan.sample} elements"
        rows.append((state.name, f"{_bytes(plan, state):g} per {unit}", why or state.codec))
    rows += [(key, f"{BYTES} per parameter", "beside the parameter") for key in added(plan.advance)]
    return rows or [("none",)]


def _bytes(plan: Plan, state: State) -> float:
    """The size of a number of a state, as a mean over all elements of a large tensor."""
    return bytes_of(state.codec) / (plan.sample if state.name in plan.kept else 1)


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


def _compared(candidates: Sequence[Plan], chosen: Plan) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for kind in KINDS:
        plan = next((p for p in candidates if p.kind == kind), None)
        if plan is None:
            needs = "what is left of earlier ones" if chosen.traces else "values that are gone"
            rows.append((kind, f"not possible: a tangent needs {needs}"))
            continue
        kernels = schedule(plan)
        moved = BYTES * sampled_traffic(kernels, kernels[Role.FUSED], plan.sample)
        state = f"{BYTES * state_tensors(plan):g} bytes of state"
        mark = "chosen" if plan == chosen else ""
        rows.append((kind, state, f"{moved:g} bytes a step", mark))
    return rows
