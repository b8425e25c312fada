"""Runs that are interrupted, copied and extended at random stay the same to the bit."""

import copy
import pickle
from collections.abc import Callable

import torch
from hypothesis import given, strategies as st
from torch import nn

from tests.sampling import examples

from .helpers import DTYPES, ORDERS, SPECS, fingerprint, held, learner, parameters, resumed

DISTURBANCES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "nothing": lambda optimizer, _: optimizer,
    "resume": lambda optimizer, cls: resumed(cls, optimizer),
    "deepcopy": lambda optimizer, _: copy.deepcopy(optimizer),
    "pickle": lambda optimizer, _: pickle.loads(pickle.dumps(optimizer)),
}

# Which parameters have a gradient in a step, how large it is, and what happens before the step.
STEPS = st.lists(
    st.tuples(
        st.lists(st.booleans(), min_size=3, max_size=3),
        st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
        st.sampled_from([*DISTURBANCES, "new group"]),
    ),
    min_size=1,
    max_size=10,
)


def advance(
    optimizer: torch.optim.Optimizer, number: int, present: list[bool], scale: float
) -> None:
    generator = torch.Generator().manual_seed(number)
    optimizer.zero_grad()
    for p, has_gradient in zip(held(optimizer), [*present, *present], strict=False):
        gradient = scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if has_gradient:
            p.grad = gradient.to(p.dtype)
    optimizer.step()


@examples(60)
@given(st.sampled_from(SPECS), st.sampled_from(ORDERS), st.sampled_from(DTYPES), STEPS)
def test_disturbances_leave_no_trace(
    spec: str,
    order: str,
    dtype: torch.dtype,
    steps: list[tuple[list[bool], float, str]],
) -> None:
    cls = learner(spec, order)
    straight, disturbed = cls(parameters(dtype)), cls(parameters(dtype))
    for number, (present, scale, disturbance) in enumerate(steps):
        if disturbance == "new group":
            if len(held(straight)) < 6:
                for optimizer in (straight, disturbed):
                    new = nn.Parameter(torch.full((2,), 0.5, dtype=dtype))
                    optimizer.add_param_group({"params": [new]})
        else:
            disturbed = DISTURBANCES[disturbance](disturbed, cls)
        advance(straight, number, present, scale)
        advance(disturbed, number, present, scale)
        assert fingerprint(disturbed) == fingerprint(straight)
