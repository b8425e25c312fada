"""How steps and pending hyper-gradients fit together: programs, what is kept, and what is moved."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import compiler, interpret
from optdsl.diagnostics import Source
from optdsl.differentiate import differentiate, moves
from optdsl.ir.domain import Interval
from optdsl.ir.program import Learned, Program
from optdsl.ir.verify import verify
from optdsl.passes.pipeline import run_passes
from optdsl.plan import KINDS, Kind, Plan, completing, cuts, plans
from optdsl.plan.keys import is_pending, pending
from optdsl.plan.text import parse_plan, print_plan
from optdsl.schedule import Role, cheapest, schedule, state_tensors
from optdsl.specifications import library
from tests.oracles import every_operation, problems
from tests.oracles.rules import ELEMENTWISE
from tests.oracles.running import read_spec, read_text
from tests.paper import SIX, six_source

pytestmark = pytest.mark.broad(8)

STEPS = 6
EVERY_OPERATION = "every_operation"
LEARNING = [n for n in ELEMENTWISE if read_spec(n).learned]
CASES = [
    *((name, "as it says") for name in LEARNING),
    *((name, "everything") for name in (*ELEMENTWISE, EVERY_OPERATION)),
]
Doubles = dict[str, Tensor]


@functools.cache
def program(name: str, learned: str) -> Program:
    """A rule with tangents, through all passes."""
    if learned == "as it says":
        return compiler.derive(six_source() if name == "mada" else library.open_source(name))
    read = read_text(every_operation.TEXT) if name == EVERY_OPERATION else read_spec(name)
    hypers = [h for h in problems.continuous(read) if moves(read, h)]
    return run_passes(verify(differentiate(run_passes(read), hypers)))


class Trial:
    """A plan and the plain program side by side, on one tensor."""

    def __init__(self, plain: Program, plan: Plan, rounded: bool) -> None:
        generator = problems.seeded(1)
        self.plain, self.plan, self.rounded = plain, plan, rounded
        self.theta = self.stored(problems.randn(generator, 6))
        self.gradients = [problems.randn(generator, 6) for _ in range(STEPS)]
        self.gradients[1][2] = self.gradients[0][3] = 0.0
        self.hypers = [problems.interior_hypers(plain, generator) for _ in range(STEPS)]

    def stored(self, theta: Tensor) -> Tensor:
        return theta.bfloat16().double() if self.rounded else theta

    def at(self, t: int) -> dict[str, float]:
        """The hyperparameters of step `t`, from 0, and of the pending step before it."""
        before = {pending(k): v for k, v in self.hypers[t - 1].items()}
        return {**self.hypers[t], **before, pending("t"): float(t)}

    def start(self, of: Program) -> Doubles:
        return interpret.initial_state(of, self.theta, self.gradients[0], self.hypers[0])


def the_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """To the rounding of double precision."""
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-11, atol=1e-13, msg=lambda m, k=key: f"{what} {k}: {m}"
        )


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("name", "learned"), CASES)
def test_every_plan_is_the_plain_step(name: str, learned: str, rounded: bool) -> None:
    """Parameters, completed states and tangents, with hyperparameters that change at each step."""
    plain = program(name, learned)
    tried = (*plans(plain, rounded), *cuts(plain, rounded))
    assert "stored" in [plan.kind for plan in tried]
    for plan in tried:
        trial = Trial(plain, plan, rounded)
        assert plan.complete is not None
        assert plan.fused is not None
        theta, state, kept = trial.theta, trial.start(plain), trial.start(plan.advance)
        pending_tangents: Doubles = {}
        for t, g in enumerate(trial.gradients):
            if t == 0:
                done = interpret.step(plan.advance, theta, g, kept, trial.hypers[0], 1)
            else:
                hypers = trial.at(t)
                settled = interpret.step(plan.complete, theta, g, kept, hypers, t + 1)
                after = interpret.step(
                    plan.advance, theta, g, settled.state, trial.hypers[t], t + 1
                )
                done = interpret.step(plan.fused, theta, g, kept, hypers, t + 1)
                where = f"{plan.kind} at step {t + 1}:"
                the_same(settled.tangents, pending_tangents, f"{where} settled tangent of")
                the_same(done.tangents, pending_tangents, f"{where} tangent of")
                the_same(settled.state, state, f"{where} settled")
                assert torch.equal(settled.parameter, theta)
                the_same(done.state, after.state, f"{where} after both")
            expected = interpret.step(plain, theta, g, state, trial.hypers[t], t + 1)
            the_same({"theta": done.parameter}, {"theta": expected.parameter}, f"{plan.kind}: new")
            pending_tangents, state, kept = expected.tangents, expected.state, done.state
            theta = trial.stored(expected.parameter)


@pytest.mark.parametrize(("name", "learned"), CASES)
def test_plans_keep_what_their_kind_says(name: str, learned: str) -> None:
    plain = program(name, learned)
    for rounded in (False, True):
        for plan in (*plans(plain, rounded), *cuts(plain, rounded)):
            own = {s.name for s in plain.states}
            assert {s.name for s in plan.states} == own | set(plan.kept)
            assert own.isdisjoint(plan.kept)
            if plan.kind == "stored":
                assert len(plan.kept) == len(plain.tangents)
            elif plan.kind == "cut":
                assert all(map(is_pending, plan.kept))
                assert len(set(plan.kept) - {pending("theta")}) <= len(plain.tangents)
            else:
                assert set(plan.kept) <= {pending("g"), pending("theta")}
                assert set(plan.hypers) <= {"t", *(h.name for h in plain.hypers)}


@pytest.mark.parametrize("kinds", [("stored",), ("replay", "stored"), KINDS])
def test_only_plans_of_the_kinds_that_are_asked_for(kinds: tuple[Kind, ...]) -> None:
    found = [plan.kind for plan in plans(program("mada", "as it says"), False, kinds)]
    assert found == [kind for kind in kinds if kind in found]
    assert set(found) <= set(kinds)


def test_a_rule_that_learns_nothing_has_one_plan() -> None:
    (plan,) = plans(compiler.derive(library.open_source("adam")), False)
    assert (plan.kind, plan.complete, plan.fused, plan.kept) == ("none", None, None, ())
    assert list(schedule(plan)) == ["initialize", "step"]


@pytest.mark.parametrize(("name", "learned"), CASES)
def test_a_lagging_state_is_completed_without_its_tangents(name: str, learned: str) -> None:
    """Whoever learns nothing any more can still go on from it."""
    plain = program(name, learned)
    for rounded in (False, True):
        for plan in plans(plain, rounded, ("replay",)):
            trial = Trial(plain, plan, rounded)
            ours = completing(run_passes(replace(plain, tangents=())), plan.kept)
            assert ours is not None
            assert ours.complete is not None
            theta, g = trial.theta, trial.gradients[0]
            kept = interpret.step(
                plan.advance, theta, g, trial.start(plan.advance), trial.hypers[0], 1
            )
            expected = interpret.step(plain, theta, g, trial.start(plain), trial.hypers[0], 1)
            parameter = trial.stored(kept.parameter)
            done = interpret.step(
                ours.complete, parameter, trial.gradients[1], kept.state, trial.at(1), 2
            )
            the_same(done.state, expected.state, "completed")


# --- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["overlapped", "exact"])
def test_mada_keeps_28_bytes_a_parameter(order: str) -> None:
    """On a real optimizer: what it keeps between steps, all six coefficients learned."""
    parameter = nn.Parameter(torch.ones(1000))
    optimizer = optdsl.load("mada", learn=SIX, backend="c", order=order)([parameter])
    for _ in range(3):
        parameter.grad = torch.ones(1000)
        optimizer.step()
    kept = [x for x in optimizer.state[parameter].values() if x.numel() == 1000]
    assert [x.dtype for x in kept] == [torch.float32] * 7
    memory = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    assert sum(memory.values()) == 28 * 1000
    rest = [x for x in optimizer.state[parameter].values() if x.numel() != 1000]
    assert sum(x.numel() for x in rest) < 20


def test_a_learned_step_of_mada_reads_nine_tensors_and_writes_seven() -> None:
    plan = compiler.plan(six_source())
    assert (plan.kind, state_tensors(plan)) == ("replay", 7)
    assert schedule(plan)[Role.FUSED].traffic == (9, 7)


def test_a_step_of_adam_reads_four_tensors_and_writes_three() -> None:
    plan = compiler.plan(library.open_source("adam"))
    assert state_tensors(plan) == 2
    assert schedule(plan)["step"].traffic == (4, 3)


@pytest.mark.parametrize(("name", "learned"), CASES)
def test_the_cheapest_plan_keeps_least(name: str, learned: str) -> None:
    found = plans(program(name, learned), False)
    assert state_tensors(cheapest(found)) == min(map(state_tensors, found))


@pytest.mark.parametrize("name", ["mada", "adam", "lion"])
def test_a_plan_for_a_sample_keeps_its_part(name: str) -> None:
    """The same programs, and the plain step for all other elements."""
    plain = program(name, "everything")
    learned = [
        tuple(
            Learned(x.hyper, "sgd", (), None, Interval(0.0, 1.0, False, False), 0, sample=k)
            for x in plain.tangents
        )
        for k in (1, 8)
    ]
    found = [plans(replace(plain, learned=each), False) for each in learned]
    for whole, plan in zip(*found, strict=True):
        assert replace(plan, sample=1, outside=None) == whole
        assert plan.sample == 8
        assert plan.outside is not None
        assert not plan.outside.tangents
        assert {s.name for s in plan.outside.states} == {s.name for s in plain.states}
        own = sum(s.name not in plan.kept for s in plan.states)
        assert state_tensors(plan) == own + len(plan.kept) / 8
        assert parse_plan(print_plan(plan)) == plan
        kernels = schedule(plan)
        assert all(home == state for k in kernels.values() for state, home in k.buffers.items())
        assert [r.name for r in kernels[Role.INITIALIZE].results] == [s.name for s in plain.states]
        trial = Trial(plain, plan, rounded=False)
        state, at = trial.start(plain), (trial.theta, trial.gradients[0])
        expected = interpret.step(plain, *at, state, trial.hypers[0], 1)
        done = interpret.step(plan.outside, *at, state, trial.hypers[0], 1)
        assert torch.equal(done.parameter, expected.parameter)
        assert all(torch.equal(done.state[s], x) for s, x in expected.state.items())


def test_steps_that_are_not_by_element_store_tangents_of_a_sample() -> None:
    text = """\
optimizer Normed
hyper lr = 0.1 in [0, 1]
state m = 0
m' = 0.9 * m + g
theta' = theta - lr * m' / norm(m')
learn lr by SGD sample 1/8
"""
    found = plans(compiler.derive(Source("normed.opt", text)), False)
    assert [plan.kind for plan in found] == ["stored"]
    assert found[0].kept == ("tangent/lr",)
