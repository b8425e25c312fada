"""What plans cost, and which one is chosen: bytes of state, bytes moved, arithmetic, time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optdsl.ir.ops import price
from optdsl.ir.program import State
from optdsl.ir.storage import CODECS, added
from optdsl.ir.types import Extent
from optdsl.options import OptionError
from optdsl.plan import Plan
from optdsl.plan.balance import Balance
from optdsl.schedule import Kernel, Role, sampled_mean, schedule

# The size of a number in a state, which is stored in float32 unless the parameter is float64.
BYTES = 4
# One estimated time is below another one if it is below this part of it.
_CLEARLY = 0.95


@dataclass(frozen=True)
class Cost:
    """What a plan takes for each parameter, as a mean over all elements of a large tensor.

    Attributes:
        state: bytes that are kept between steps, for a parameter in float32.
        moved: bytes that a step reads and writes, in all of its passes.
        operations: what a step computes, in additions.
        nanoseconds: the estimated time of a step.
    """

    state: float
    moved: float
    operations: float
    nanoseconds: float


def cost(plan: Plan, balance: Balance, order: str = "overlapped") -> Cost:
    """What a plan takes where coefficients move in an order, as of `optdsl.load`."""
    kernels = schedule(plan)
    steps = (Role.COMPLETE, Role.STEP_COMPLETED) if order == "exact" else (Role.FUSED,)
    own = [kernels[role] for role in steps] if Role.FUSED in kernels else [kernels[Role.STEP]]
    sampled, outside = _taken(own, balance), (0.0, 0.0, 0.0)
    if plan.sample > 1:
        outside = _taken([kernels[Role.STEP_OUTSIDE]], balance)
    mean = (sampled_mean(x, y, plan.sample) for x, y in zip(sampled, outside, strict=True))
    return Cost(state_bytes(plan), *mean)


def _taken(kernels: Sequence[Kernel], balance: Balance) -> tuple[float, float, float]:
    """Bytes moved, operations and nanoseconds of kernels that run one after the other."""
    moved = [float(BYTES * (sum(kernel.traffic) + kernel.earlier)) for kernel in kernels]
    computed = [float(operations(kernel)) for kernel in kernels]
    times = map(balance.nanoseconds, moved, computed)
    return sum(moved), sum(computed), sum(times)


def operations(kernel: Kernel) -> int:
    """What a kernel computes for each element, in additions; values of two loops count twice."""
    found = sum(price(kernel.program.operations[v]) for loop in kernel.loops for v in loop.body)
    # A product with the gradient, and its sum.
    return found + 2 * len(kernel.dots)


def state_bytes(plan: Plan) -> float:
    """The bytes for each parameter that a plan keeps between steps, of parameters in float32.

    Only states with a number for each element count; one with a number for each sampled element
    counts as its part.
    """
    own = sum(bytes_of_state(plan, s) for s in plan.states if s.type.extent is Extent.TENSOR)
    return own + BYTES * len(added(plan.advance))


def bytes_of_state(plan: Plan, state: State) -> float:
    """The size of a number of a state, as a mean over all elements of a large tensor."""
    return bytes_of(state.codec) / (plan.sample if state.name in plan.kept else 1)


def bytes_of(codec: str) -> int:
    """The size of a number that is stored by a codec, of a float32 parameter."""
    return BYTES // 2 if codec and CODECS[codec].buffers[0].dtype == "bfloat16" else BYTES


def fastest(plans: Iterable[Plan], balance: Balance, bound: float, order: str, rule: str) -> Plan:
    """The plan that takes the least time, of those with at most `bound` bytes of state.

    More state has to save more time than an estimate may be wrong by (`_CLEARLY`). Of plans that
    are equal in both, it is the first.

    Args:
        plans: those that are possible.
        balance: of the machine.
        bound: bytes for each parameter, as of `state_bytes`.
        order: as of `cost`.
        rule: its name, for errors.

    Raises:
        OptionError: every plan keeps more; the message says what the least is.
    """
    found = list(plans)
    costs = [cost(plan, balance, order) for plan in found]
    check_bound(bound, min(each.state for each in costs), rule)
    first, *others = (n for n in frontier(costs) if costs[n].state <= bound)
    for number in others:
        if costs[number].nanoseconds < _CLEARLY * costs[first].nanoseconds:
            first = number
    return found[first]


def check_bound(bound: float, least: float, rule: str) -> None:
    """Refuse a bound below the least that a rule needs, both in bytes for each parameter.

    Raises:
        OptionError: with the least.
    """
    if least > bound:
        raise OptionError(
            f"state_bytes={bound:g} is too little for {rule}, which needs at least {least:g} bytes "
            f"of state for each parameter in float32, what it learns included"
        )


def frontier(costs: Sequence[Cost]) -> list[int]:
    """The plans of which no other one has less state and is as fast, or is faster with as little.

    Returns:
        Their places in `costs`, from little state to much.
    """
    found: list[int] = []
    order = sorted(range(len(costs)), key=lambda n: (costs[n].state, costs[n].nanoseconds, n))
    for number in order:
        if not found or costs[number].nanoseconds < costs[found[-1]].nanoseconds:
            found.append(number)
    return found
