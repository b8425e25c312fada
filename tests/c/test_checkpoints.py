"""A state of one engine goes on in another one, and nothing of the pending step is lost."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import math
import pickle
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from optdsl import Learn

from . import rules

pytestmark = pytest.mark.broad(8)

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

ENGINES = tuple(itertools.product(rules.BACKENDS, rules.ORDERS))
# A replay that finds the parameter again, one that keeps it, live plans, tangents that are stored.
RULES = ("mada", "adaptivity", "adam_avgrad", "lamb", "every_operation", "plain")
BEFORE, AFTER = 30, 30
Learning = Mapping[str, Learn] | bool


@functools.cache
def stream(dtype: torch.dtype) -> list[list[Tensor | None]]:
    """Gradients of all but the largest tensor."""
    return [row[:-1] for row in rules.gradients(dtype, BEFORE + AFTER)]


class Training:
    """An optimizer, its parameters, and what happens."""

    def __init__(self, rule: str, dtype: torch.dtype, engine: tuple[str, str], learn: Learning):
        self.rule = rule
        self.held = rules.tensors(dtype)[:-1]
        self.optimizer = rules.grouped(self._class(engine, learn), self.held)
        for group, own in zip(self.optimizer.param_groups, rules.hypers(rule, 1)[0], strict=True):
            group.update(own)
        self.metrics: list[dict[str, float]] = []

    def _class(self, engine: tuple[str, str], learn: Learning) -> type[CompiledOptimizer]:
        return rules.load(self.rule, backend=engine[0], order=engine[1], learn=learn)

    def train(self, steps: Iterable[int], gradients: list[list[Tensor | None]]) -> Training:
        for t in steps:
            for parameter, gradient in zip(self.held, gradients[t], strict=True):
                parameter.grad = None if gradient is None else gradient.to(parameter.dtype)
            self.optimizer.step()
            self.metrics.append(self.optimizer.metrics())
        return self

    def moved(
        self, engine: tuple[str, str], learn: Learning, dtype: torch.dtype | None = None
    ) -> Training:
        """The same in another engine, by way of a file that is read safely."""
        file = io.BytesIO()
        model = [p.detach() for p in self.held]
        torch.save({"model": model, "optimizer": self.optimizer.state_dict()}, file)
        file.seek(0)
        content: dict[str, Any] = torch.load(file, weights_only=True)
        new = copy.copy(self)
        # A layout is the model's, not the file's.
        new.held = [nn.Parameter(torch.empty_like(p, dtype=dtype).copy_(x)) for p, x in
                    zip(self.held, content["model"], strict=True)]  # fmt: skip
        new.optimizer = rules.grouped(self._class(engine, learn), new.held)
        new.optimizer.load_state_dict(content["optimizer"])
        new.metrics = []
        return new

    def results(self) -> dict[str, Tensor]:
        """Parameters and complete states; one step of zeros completes those that lag."""
        last = self.moved(("eager", "overlapped"), False)
        for parameter in last.held:
            parameter.grad = torch.zeros_like(parameter)
        last.optimizer.step()
        found = {}
        for name, parameter in zip(rules.SHAPES, last.held, strict=False):
            found[name] = parameter.detach()
            for key, value in last.optimizer.state[parameter].items():
                found[f"{name}.{key}"] = value
        return found


def near(found: Mapping[str, Any], expected: Mapping[str, Any], precision: float) -> None:
    """Numbers and tensors by name, each to some part of the largest number in it."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        ours, theirs = (torch.as_tensor(x).double() for x in (found[key], value))
        if not theirs.numel() or bool(theirs.isnan().all()):
            continue  # nothing, or a mean of nothing
        scale = float(theirs.abs().max()) + 1e-3
        torch.testing.assert_close(
            ours, theirs, rtol=0.0, atol=precision * scale, msg=lambda m, k=key: f"{k}: {m}"
        )


# A narrow parameter may be rounded to either of two neighbours, and goes on from there.
PRECISION = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 0.1, torch.float16: 0.1}


@pytest.mark.parametrize("old", ENGINES, ids="-".join)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.exhaustive
def test_another_engine_goes_on_where_one_has_stopped(rule: str, old: tuple[str, str]) -> None:
    """With coefficients that stand still, so that the order of learning makes no difference."""
    dtype, learn = torch.float64, rules.learning(rule)
    gradients = stream(dtype)
    unbroken = Training(rule, dtype, old, learn).train(range(5), gradients)
    halted = {new: unbroken.moved(new, learn) for new in ENGINES if new != old}
    unbroken.train(range(5, 9), gradients)
    expected = unbroken.results()
    for new, training in halted.items():
        training.train(range(5, 9), gradients)
        for ours, theirs in zip(training.metrics, unbroken.metrics[5:], strict=True):
            near(ours, theirs, 1e-9)
        near(training.results(), expected, PRECISION[dtype])
        if rules.learnable(rule):
            assert any(v for k, v in training.metrics[0].items() if k[:6] == "hyperg"), new


@pytest.mark.parametrize(("old", "new"), [("c", "eager"), ("eager", "c")])
@pytest.mark.parametrize(
    ("rule", "order", "dtype"),
    [
        pytest.param("mada", "overlapped", torch.float64, marks=pytest.mark.exhaustive),
        ("mada", "overlapped", torch.float32),
        ("mada", "exact", torch.float32),
        pytest.param("mada", "exact", torch.float16, marks=pytest.mark.exhaustive),
        ("adaptivity", "overlapped", torch.bfloat16),
        pytest.param("adaptivity", "exact", torch.float64, marks=pytest.mark.exhaustive),
    ],
    ids=str,
)
def test_learning_goes_on_where_it_has_stopped(
    rule: str, order: str, dtype: torch.dtype, old: str, new: str
) -> None:
    """The coefficients move, the pending hyper-gradient first of all."""
    learn = {
        name: Learn("sgd", lr=1e-4, clip=10, momentum=0.5, bounds=how.bounds, after=5)
        for name, how in rules.learning(rule).items()
    }
    gradients = stream(dtype)
    unbroken = Training(rule, dtype, (old, order), learn).train(range(BEFORE), gradients)
    halted = unbroken.moved((new, order), learn)
    for training in (unbroken, halted):
        training.train(range(BEFORE, BEFORE + AFTER), gradients)
    start = unbroken.metrics[0]
    for name in rules.learnable(rule):
        assert start[name] != unbroken.metrics[BEFORE][name]
    precision = PRECISION[dtype]
    first, later = halted.metrics[0], halted.metrics[-1]
    near(first, unbroken.metrics[BEFORE], min(precision, 1e-3))
    near(later, unbroken.metrics[-1], precision)
    near(halted.results(), unbroken.results(), precision)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", rules.BACKENDS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.exhaustive
def test_whoever_learns_no_more_goes_on(rule: str, backend: str, dtype: torch.dtype) -> None:
    """A state that lags is completed, though nobody wants its tangents; and back again."""
    learn, gradients = rules.learning(rule), stream(dtype)
    old = Training(rule, dtype, ("c", "overlapped"), learn).train(range(4), gradients)
    unbroken = Training(rule, dtype, ("eager", "overlapped"), learn).train(range(4), gradients)
    halted = old.moved((backend, "overlapped"), False)
    for training in (halted, unbroken):
        training.train(range(4, 6), gradients)
    assert halted.metrics[-1] == {}
    again = halted.moved(("c", "overlapped"), learn)
    for training in (again, unbroken):
        training.train(range(6, 8), gradients)
    precision = 1e-5 if dtype is torch.float32 else 0.02
    near(again.results(), unbroken.results(), precision)
    near(again.metrics[-1], unbroken.metrics[-1], 10 * precision)


@pytest.mark.parametrize("backend", rules.BACKENDS)
@pytest.mark.parametrize("rule", ["mada", "adaptivity"])
@pytest.mark.exhaustive
def test_whoever_learns_less_goes_on(rule: str, backend: str) -> None:
    """The hyper-gradient of the step before is that of all."""
    gradients, learn = stream(torch.bfloat16), rules.learning(rule)
    name = "c" if rule == "mada" else "w"
    old = Training(rule, torch.bfloat16, ("c", "overlapped"), learn).train(range(4), gradients)
    halted = old.moved((backend, "overlapped"), {name: learn[name]})
    for training in (halted, old):
        training.train([4], gradients)
    expected = {k: v for k, v in old.metrics[-1].items() if k in halted.metrics[-1]}
    assert any(v for k, v in expected.items() if k[:6] == "hyperg")
    near(halted.metrics[-1], expected, 1e-3)
    near(halted.results(), old.results(), 0.01)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (torch.float32, torch.float64),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", rules.BACKENDS)
@pytest.mark.parametrize("rule", ["mada", "adaptivity", "every_operation"])
@pytest.mark.exhaustive
def test_a_model_goes_on_in_another_precision(
    rule: str, backend: str, old: torch.dtype, new: torch.dtype
) -> None:
    """A step may be pending meanwhile, which keeps more or less where numbers are rounded."""
    learn, gradients = rules.learning(rule), stream(old)
    moved = []
    for first, second in (("c", backend), ("eager", "eager")):
        training = Training(rule, old, (first, "overlapped"), learn).train(range(3), gradients)
        moved.append(training.moved((second, "overlapped"), learn, new))
    for training in moved:
        training.train(range(3, 6), gradients)
    near(moved[0].metrics[0], moved[1].metrics[0], 0.02)
    near(moved[0].results(), moved[1].results(), 0.02)


def test_states_that_change_their_precision_are_those_that_steps_leave() -> None:
    """Of `mada` some take over each other's memory, which is that of the new precision."""
    test_a_model_goes_on_in_another_precision("mada", "c", torch.float32, torch.float64)


def bits(training: Training) -> list[Any]:
    state = [training.optimizer.state[p] for p in training.held]
    named = [{k: [v.hex() for v in x.double().flatten().tolist()] for k, x in s.items()}
             for s in state]  # fmt: skip
    return [[p.double().flatten().tolist() for p in training.held], named, training.metrics[-1]]


@pytest.mark.parametrize("order", rules.ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.exhaustive
def test_copies_go_on_to_the_bit(rule: str, dtype: torch.dtype, order: str) -> None:
    """A deep copy, a pickle, and a checkpoint, each taken while a step is pending."""
    gradients = stream(dtype)
    training = Training(rule, dtype, ("c", order), rules.learning(rule)).train(range(3), gradients)
    pair = (training.held, training.optimizer)
    copies = [training.moved(("c", order), rules.learning(rule))]
    for held, optimizer in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        other = copy.copy(training)
        other.held, other.optimizer, other.metrics = held, optimizer, []
        copies.append(other)
    for each in (training, *copies):
        each.train(range(3, 6), gradients)
    for other in copies:
        assert other.held[0] is not training.held[0]
        assert repr(bits(other)) == repr(bits(training))
    assert all(math.isfinite(v) for v in training.metrics[-1].values())
