"""A step in which the host takes part: kernels run by batches, and coefficients learn here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

from optdsl.runtime.core.hyperparameters import check_shared, check_sums, number
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import check_dense, check_dtype
from optdsl.runtime.distributed import collectives
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.drawing import drawing
from optdsl.runtime.learning.scopes import Pairs, Part, add
from optdsl.runtime.torch_api import observing, totals
from optdsl.runtime.torch_api.batches import batches
from optdsl.runtime.torch_api.repeated import Job, Repeated


def step(optimizer: LearningOptimizer, work: Sequence[Pairs], same: bool = False) -> None:
    """Take one step.

    Args:
        optimizer: the optimizer.
        work: parameters with gradients, by group.
        same: whether they are as `Repeated.work` found them, like those of the step before.

    Raises:
        RuntimeError: for a sparse gradient; nothing has changed.
        ValueError: for a hyperparameter out of bounds, weights that do not sum to one, or a
            parameter of a dtype that no kernel takes; nothing has changed.
    """
    hypers = _checked(optimizer, () if same else work)
    totals.begin(optimizer, hypers)
    scopes = optimizer.compiled.scopes
    parts = scopes.divided(work, hypers, optimizer.param_groups, optimizer.state)
    for part in parts:
        _check_own(optimizer, part)
    taken = scopes.taken(optimizer.param_groups, optimizer.state)
    try:
        scopes.lend(parts, optimizer.state)
        _take(optimizer, parts, taken, hypers, same)
    finally:
        scopes.give_back(parts, optimizer.state)


def _checked(optimizer: LearningOptimizer, work: Sequence[Pairs]) -> list[dict[str, float]]:
    """The hyperparameters that a step uses, by group."""
    name = type(optimizer).__name__
    hypers = []
    if optimizer.process_group is not None:
        optimizer.compiled.scopes.check_group()
    for group in optimizer.param_groups:
        hypers.append(optimizer._hypers(group))
        check_sums(name, optimizer.compiled.program.simplexes, group)
    check_shared(name, (c.name for c in optimizer.compiled.scopes.shared), optimizer.param_groups)
    pairs = list(chain.from_iterable(work))
    if pairs:
        parameters, gradients = zip(*pairs, strict=True)
        check_dense(name, gradients)
        for dtype in set(map(attrgetter("dtype"), parameters)):
            check_dtype(name, dtype)  # frozen parameters may have any
    return hypers


def _check_own(optimizer: LearningOptimizer, part: Part) -> None:
    """Refuse what a tensor has of its own, loaded perhaps, as a group's would be."""
    if not part.own:
        return
    program = optimizer.compiled.program
    own = {h.name: h for h in program.hypers if h.name in part.own}
    for name, hyper in own.items():
        number(type(optimizer).__name__, hyper, part.own[name], optimizer.compiled.bounds)
    check_sums(type(optimizer).__name__, program.simplexes, part.work[0][1])


def _take(
    optimizer: LearningOptimizer,
    parts: list[Part],
    taken: list[int],
    hypers: Sequence[dict[str, float]],
    same: bool,
) -> None:
    """A step of all parts, which get their sums; coefficients learn."""
    repeated = optimizer._known.get(Repeated)
    if same:
        jobs = [repeated.job(optimizer, parts[0])]
    else:
        jobs = _jobs(optimizer, parts)
        repeated.ask(jobs)
    try:
        _run(optimizer, parts, jobs, taken, hypers)
        repeated.keep(optimizer, jobs)
    finally:
        repeated.forget(jobs)


def _jobs(optimizer: LearningOptimizer, parts: Sequence[Part]) -> list[Job]:
    """What there is to do for each part."""
    states, groups = optimizer.state, optimizer.param_groups
    jobs: list[Job] = []
    drawn = drawing(optimizer)
    for part in parts:
        known = optimizer._known if part.key is None else optimizer._known.get(StepCache, part.key)
        jobs.append((part, known, batches(optimizer.compiled, states, part, groups, drawn)))
    return jobs


def _run(
    optimizer: LearningOptimizer,
    parts: list[Part],
    jobs: Sequence[Job],
    taken: list[int],
    hypers: Sequence[dict[str, float]],
) -> None:
    if optimizer.compiled.order == "exact":
        for part, known, found in jobs:
            for engine, batch in found.items():
                add(part.sums, engine.complete(batch.pending, known))
        _learn(optimizer, parts, taken)
        learned = [c.name for c in optimizer.compiled.coefficients]
        for group, values in zip(optimizer.param_groups, hypers, strict=True):
            values.update((key, float(group[key])) for key in learned)
        optimizer.compiled.scopes.refresh(parts, hypers)
        totals.measure(optimizer, parts)
        for _, known, found in jobs:
            for engine, batch in found.items():
                engine.advance_completed(batch.pending, known)
                engine.advance(batch.fresh, known)
    else:
        totals.measure(optimizer, parts)
        for part, known, found in jobs:
            for engine, batch in found.items():
                add(part.sums, engine.fused(batch.pending, known))
                engine.advance(batch.fresh, known)
        _learn(optimizer, parts, taken)
    totals.finish(optimizer, parts)


def _learn(optimizer: LearningOptimizer, parts: list[Part], taken: list[int]) -> None:
    if optimizer._observed is not None:
        observing.replace(parts, optimizer._observed)
    if optimizer.compiled.coefficients:
        taken = _over_ranks(optimizer, parts, taken)
    optimizer.compiled.scopes.learn(
        optimizer.compiled.updates, parts, optimizer.param_groups, taken
    )
    optimizer._observed = None


def _over_ranks(optimizer: LearningOptimizer, parts: list[Part], taken: list[int]) -> list[int]:
    """Make the parts' sums those of all ranks, and the counts the largest."""
    if optimizer.process_group is None and not collectives.is_spread(optimizer.param_groups):
        return taken
    held = [p for group in optimizer.param_groups for p in group["params"]]
    slots = optimizer.compiled.scopes.slots(parts, held)
    sums = [part.sums if part else {} for part in slots]
    names = optimizer.compiled.measured
    sums, taken = collectives.over_ranks(sums, taken, names, held, optimizer.process_group)
    for part, total in zip(slots, sums, strict=True):
        if part:
            part.sums = total
    return taken
