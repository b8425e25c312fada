"""The foreach calls compute MADA, and are as many as they say."""

import copy

import torch

import optdsl
from benchmarks.builders import INTERIOR
from benchmarks.foreach_mada import STATES, ForeachMADA


def test_it_takes_the_steps_of_mada():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in ((3, 4), (5,))]
    theirs = copy.deepcopy(ours)
    mada = optdsl.load("mada", learn=False, backend="eager")(ours, **INTERIOR)
    foreach = ForeachMADA(theirs, **INTERIOR)
    for _ in range(8):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        mada.step()
        foreach.step()
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-14)
    for p, q in zip(ours, theirs, strict=True):
        for name in STATES:
            torch.testing.assert_close(foreach.state[q][name], mada.state[p][name])


def test_a_step_is_21_calls():
    theta = torch.nn.Parameter(torch.ones(3))
    theta.grad = torch.ones(3)
    foreach = ForeachMADA([theta], **INTERIOR)
    foreach.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        foreach.step()
    calls = [e.name for e in profile.events() if e.name.startswith("aten::_foreach_")]
    assert len(calls) == 21
