"""States that another engine left behind.

A state is complete, or it lags and holds what its last step needs to be done again, or it holds
tangents. Whatever it is, here it becomes complete, and the hyper-gradients of its pending step are
not lost. The pending step is done again by the interpreter: this is for the first step after a
checkpoint of another backend, device or precision was loaded, and need not be fast.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from optdsl import interpret
from optdsl.ir.laws import Stage
from optdsl.ir.ops import stages
from optdsl.ir.program import Program
from optdsl.ir.storage import added
from optdsl.plan import Plan, completing
from optdsl.plan.keys import SAMPLE, TRAINED, is_added, is_pending, pending, tangent
from optdsl.runtime.core.owned_numbers import number_of
from optdsl.runtime.core.tasks import (
    PENDING_HYPERS,
    HyperGradients,
    ParameterTask,
    counted_part,
    dot,
    squares,
    unpacked,
)
from optdsl.runtime.engines.sampled.choice import Sample, sample_of
from optdsl.runtime.engines.sampled.tensors import gathered, kept_part, scattered
from optdsl.runtime.learning.scopes import add

# So many elements are looked at together: what fits the cache of a processor, and, elsewhere, what
# outweighs a launch.
_PIECE, _PIECE_ELSEWHERE = 1 << 16, 1 << 20


def completed(program: Program, work: ParameterTask) -> HyperGradients:
    """Complete a state, whatever plan it is of; the hyper-gradients of its pending step.

    Args:
        program: differentiated by what is learned now.
        work: the parameter; its state loses all that no rule declares.
    """
    state, (part, sample, weight) = work.state, _sampled(program, work)
    tangents, advanced = _completed(program, part)
    for name, value in advanced.items():
        state[name].copy_(value if sample is None else scattered(state[name], value, sample))
    sums: HyperGradients = {h: float(dot(part.gradient, x)) for h, x in tangents.items()}
    sums |= squares(program, part.gradient, tangents)
    sums = {name: weight * value for name, value in sums.items()}
    for name in state.keys() - {s.name for s in program.states} - {"step"} - added(program).keys():
        del state[name]
    return sums


def products(program: Program, work: ParameterTask) -> HyperGradients:
    """The hyper-gradients of the pending step of a state, which stays as it is.

    Args:
        program: differentiated by what is learned now.
        work: the parameter; its state may be of any plan, and have no step pending.
    """
    sums: HyperGradients = {}
    part, _, weight = _sampled(program, work)
    for piece in _pieces(program, part):
        tangents, _ = _completed(program, piece)
        if not tangents:
            continue
        # One wait for the device.
        measured = torch.stack([dot(piece.gradient, x) for x in tangents.values()]).tolist()
        found = dict(zip(tangents, measured, strict=True))
        add(sums, found | squares(program, piece.gradient, tangents))
    return {name: weight * value for name, value in sums.items()}


def _sampled(program: Program, work: ParameterTask) -> tuple[ParameterTask, Sample | None, int]:
    """The elements of a tensor for which something is kept of its pending step.

    Returns:
        What there is to do for them, their sample, and what their sums count; a None in place of
        the sample where they are all elements.
    """
    state = work.state
    size = int(number_of(state[SAMPLE])) if SAMPLE in state else program.sample
    work = work._replace(state={k: v for k, v in state.items() if k != SAMPLE})
    if size == 1 or not any(k != SAMPLE and is_added(k) for k in state):
        return work, None, 1
    sample = sample_of(work.parameter.shape, size, work.place)
    if sample.whole:
        return work, None, sample.weight
    own = {}
    for key, x in work.state.items():
        if key not in {"step", PENDING_HYPERS, TRAINED} and is_added(key):
            own[key] = kept_part(x, sample, key)
        elif PENDING_HYPERS in state and x.shape == work.parameter.shape:
            own[key] = gathered(x, sample)
        else:
            own[key] = x
    theta = gathered(work.parameter, sample) if PENDING_HYPERS in state else work.parameter
    gradient = gathered(work.gradient, sample)
    return work._replace(parameter=theta, gradient=gradient, state=own), sample, sample.weight


def _completed(
    program: Program, work: ParameterTask
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tangents of a pending step, and the states that it completes, where they lag."""
    state = work.state
    stored = {t.hyper: state.get(tangent(t.hyper)) for t in program.tangents}
    found = {hyper: x for hyper, x in stored.items() if x is not None}
    if found:
        return {h: counted_part(work.gradient, x) for h, x in found.items()}, {}
    plan = _plan(program, frozenset(filter(is_pending, state)))
    if plan is None or plan.complete is None or PENDING_HYPERS not in state:
        return {}, {}
    if not (float(state["step"]) and float(state[PENDING_HYPERS][0])):
        # Somebody has set the state back: there is no step to complete.
        return {}, {}
    hypers = {**work.hypers, **unpacked(program, state[PENDING_HYPERS])}
    values = {k: v for k, v in state.items() if k not in {"step", PENDING_HYPERS}}
    done = interpret.step(plan.complete, work.parameter, work.gradient, values, hypers, 1)
    tangents = {h: counted_part(work.gradient, x) for h, x in done.tangents.items()}
    return tangents, {s.name: done.state[s.name] for s in program.states}


def _pieces(program: Program, work: ParameterTask) -> Iterator[ParameterTask]:
    """A large tensor in pieces, where elements have nothing to do with each other.

    The interpreter keeps every value of a step in double precision until the end.
    """
    parameter, state = work.parameter, work.state
    found = stages(program.operations)
    whole = Stage.LENGTH in found or any(stage.mixes for stage in found)
    many = _PIECE if parameter.is_cpu else _PIECE_ELSEWHERE
    if whole or parameter.numel() <= many or not any(map(is_pending, state)):
        yield work
        return
    flat = {k: v.reshape(-1) for k, v in state.items() if v.shape == parameter.shape}
    theta, gradient = parameter.reshape(-1), work.gradient.reshape(-1)
    for begin in range(0, theta.numel(), many):
        part = slice(begin, begin + many)
        own = state | {k: v[part] for k, v in flat.items()}
        yield ParameterTask(theta[part], gradient[part], own, work.hypers)


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
    return completing(program, noted - {PENDING_HYPERS})
