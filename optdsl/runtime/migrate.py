"""States that another engine left behind.

A state is complete, or it lags and holds what its last step needs to be done again, or it holds
tangents. Whatever it is, here it becomes complete, and the hyper-gradients of its pending step are
not lost. The pending step is done again by the interpreter: this is for the first step after a
checkpoint of another backend, device or precision was loaded, and need not be fast.
"""

from __future__ import annotations

import functools

from optdsl.ir import interpret
from optdsl.ir.program import Program
from optdsl.plan import Plan, completing, pending, plans
from optdsl.runtime.engines import PENDING_HYPERS, Sums, Work, dot, squares, unpacked


def completed(program: Program, work: Work) -> Sums:
    """Complete a state, whatever plan it is of; the hyper-gradients of its pending step.

    Args:
        program: differentiated by what is learned now.
        work: the parameter; its state loses all that no rule declares.
    """
    state = work.state
    sums: Sums = {}
    stored = {t.hyper: state.get(f"tangent/{t.hyper}") for t in program.tangents}
    found = {hyper: x for hyper, x in stored.items() if x is not None}
    plan = _plan(program, frozenset(k for k in state if k.startswith("pending/")))
    if found:
        sums = {hyper: float(dot(work.gradient, x)) for hyper, x in found.items()}
        sums |= squares(program, work.gradient, found)
    elif plan is not None and plan.settle is not None and PENDING_HYPERS in state:
        hypers = {**work.hypers, **unpacked(program, state[PENDING_HYPERS])}
        values = {k: v for k, v in state.items() if k not in {"step", PENDING_HYPERS}}
        done = interpret.step(plan.settle, work.parameter, work.gradient, values, hypers, 1)
        for declared in program.states:
            state[declared.name].copy_(done.state[declared.name])
        sums = {h: float(dot(work.gradient, x)) for h, x in done.tangents.items()}
        sums |= squares(program, work.gradient, done.tangents)
    declared_names = {s.name for s in program.states} | {"step"}
    for name in list(state):
        if name not in declared_names:
            del state[name]
    return sums


def is_whole(program: Program, noted: frozenset[str]) -> bool:
    """Whether a state with these keys for a pending step has all that completes it."""
    if not noted:
        return True
    if PENDING_HYPERS not in noted:
        return False
    # Without tangents, a state that does not lag is as good as complete.
    return _plan(program, noted) is not None or not (program.tangents or pending("g") in noted)


@functools.lru_cache(maxsize=32)
def _plan(program: Program, noted: frozenset[str]) -> Plan | None:
    """The plan of a state with these keys for a pending step."""
    kept = noted - {PENDING_HYPERS}
    if pending("g") in kept:
        return completing(program, kept)
    live = (p for rounded in (True, False) for p in plans(program, rounded, ("live",)))
    return next((p for p in live if p.kind == "live" and set(p.kept) <= kept), None)
