"""Steps that stay on the device: what users do meanwhile, and what the host must not do."""

from __future__ import annotations

import ast
import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import optdsl
from optdsl import Learn
from optdsl.classes import artifact
from optdsl.compiler import emit
from optdsl.runtime.build.python_modules import module
from optdsl.runtime.device.device_step import DeviceStep
from optdsl.runtime.engines import triton as triton_engine
from optdsl.runtime.engines.triton import TritonEngine
from optdsl.specifications import library

pytestmark = pytest.mark.broad(8)

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((3,), (4, 5), (2100,))
ORDERS = ("overlapped", "exact")
# The order of which a test that takes seconds is run every day; the other one in test-full.
EVERYDAY = ("overlapped", pytest.param("exact", marks=pytest.mark.exhaustive))
# Fast enough that every coefficient moves within a few steps.
LEARN = {
    **dict.fromkeys(("c", "rho", "kappa", "gamma"), Learn("sgd", lr=50, bounds=(0, 1))),
    # The second step's is zero but for rounding, which a sign would follow.
    "beta1": Learn("adam", lr=0.01, bounds=(0.5, 0.99), signal="sign", after=2),
    "beta2": Learn("sgd", lr=1, clip=0.01, bounds=(0.5, 0.99), after=2),
}
INSIDE = {"c": 0.5, "rho": 0.5, "kappa": 0.5, "gamma": 0.5}


class Training:
    """An optimizer, its parameters, and gradients that are the same for all."""

    def __init__(self, cls: Any, dtype: torch.dtype = torch.float64, **hypers: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = lambda s: torch.randn(s, generator=generator, dtype=torch.float64)  # noqa: E731
        self.parameters = [nn.Parameter(draw(s).to(DEVICE, dtype)) for s in SHAPES]
        self.optimizer = cls(
            [{"params": self.parameters[:1]}, {"params": self.parameters[1:]}], **hypers
        )
        self.gradients = torch.Generator().manual_seed(1)

    def step(self, *without: int) -> None:
        for number, parameter in enumerate(self.parameters):
            # The target is not at zero, so that coefficients have something to learn.
            noise = torch.randn(parameter.shape, generator=self.gradients, dtype=torch.float64).to(
                parameter
            )
            gradient = parameter.detach() - 1 + noise / 2
            parameter.grad = None if number in without else gradient
        self.optimizer.step()

    @property
    def device_step_of(self) -> bool:
        return self.optimizer._known.find(DeviceStep) is not None

    def agrees(self, other: Training, tolerance: float = 1e-9) -> None:
        for ours, theirs in zip(self.parameters, other.parameters, strict=True):
            torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=tolerance)
        found, expected = self.optimizer.metrics(), other.optimizer.metrics()
        assert found == pytest.approx(expected, rel=1e-7, abs=tolerance)


def mada(backend: str, order: str = "overlapped", learn: Any = None) -> Any:
    return optdsl.load("mada", backend=backend, order=order, learn=learn or LEARN)


# A blend of two members, for what does not depend on the rule: an interpreted kernel is slow.
HALF = {"rho": 0.5, "beta2": 0.98}
FEW = {"rho": LEARN["rho"], "beta1": LEARN["beta1"], "beta2": LEARN["beta2"]}


def small(backend: str, order: str = "overlapped") -> Any:
    return optdsl.load("adam_avgrad", backend=backend, order=order, learn=FEW)


@pytest.mark.parametrize("order", ORDERS)
def test_learning_on_the_device_is_learning_on_the_host(order: str) -> None:
    ours = Training(mada("triton", order), **INSIDE)
    theirs = Training(mada("eager", order), **INSIDE)
    start = theirs.optimizer.metrics()
    for _ in range(6):
        ours.step()
        theirs.step()
        ours.agrees(theirs)
    assert ours.device_step_of
    # Otherwise nothing was compared.
    moved = theirs.optimizer.metrics()
    assert all(abs(moved[k] - start[k]) > 1e-4 for k in LEARN)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.exhaustive
def test_weights_on_a_simplex_learn_on_the_device(order: str) -> None:
    options = {"order": order, "learn": {"w": Learn("sgd", lr=20)}}
    ours, theirs = (
        Training(optdsl.blend("adam", "lion", "yogi", backend=b, **options))
        for b in ("triton", "eager")
    )
    for _ in range(5):
        ours.step()
        theirs.step()
        ours.agrees(theirs)
    weights = [ours.optimizer.metrics()[f"w_{m}"] for m in ("adam", "lion", "yogi")]
    assert sum(weights) == pytest.approx(1)
    assert max(weights) > 0.4


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched."""
    names: list[str] = []
    if DEVICE == "cuda":
        from triton.runtime.jit import JITFunction as Kernel

        run = Kernel.run

        def counted(self: Any, *args: Any, **options: Any) -> Any:
            names.append(self.__name__)
            return run(self, *args, **options)

        monkeypatch.setattr(Kernel, "run", counted)
    else:
        from triton.runtime.interpreter import GridExecutor

        call = GridExecutor.__call__

        def called(self: Any, *args: Any, **options: Any) -> Any:
            names.append(self.fn.__name__)
            return call(self, *args, **options)

        monkeypatch.setattr(GridExecutor, "__call__", called)
    return names


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: optdsl.load("adam", backend="triton"), 2),
        (lambda: mada("triton"), 3),
        pytest.param(lambda: mada("triton", "exact"), 4, marks=pytest.mark.exhaustive),
    ],
    ids=["adam", "overlapped", "exact"],
)
def test_a_step_has_few_launches(
    make: Callable[[], Any], expected: int, launches: list[str]
) -> None:
    training = Training(make())
    for _ in range(4):
        launches.clear()
        training.step()
    assert len(launches) == expected, launches


READING = ("item", "tolist", "__float__", "__int__", "__bool__", "cpu", "numpy", "__index__")


@pytest.mark.parametrize("order", EVERYDAY)
def test_a_step_does_not_wait_for_the_device(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(mada("triton", order))
    schedule = LambdaLR(training.optimizer, lambda t: 1 / (1 + t))
    for _ in range(3):
        training.step()
        schedule.step()
    for parameter in training.parameters:
        parameter.grad = torch.ones_like(parameter)
    calls: list[str] = []
    monkeypatch.setattr(TritonEngine, "launched", lambda *_: calls.append("launch"))

    def read(name: str) -> Callable[..., Any]:
        original = getattr(Tensor, name)

        def called(self: Tensor, *arguments: Any) -> Any:
            # The addresses of a step's tensors are compared by torch, too, but on the host; whether
            # some overlap is all that may be read.
            condition = self.dtype is torch.bool and self.device.type == "cpu"
            assert condition, "the host reads a tensor"
            return original(self, *arguments)

        return called

    for name in READING:
        monkeypatch.setattr(Tensor, name, read(name))
    training.optimizer.step()
    assert calls


def test_coefficients_are_read_set_and_refused_as_numbers_are() -> None:
    ours, theirs = Training(mada("triton"), **INSIDE), Training(mada("eager"), **INSIDE)
    for _ in range(3):
        ours.step()
        theirs.step()
    for training in (ours, theirs):
        for group in training.optimizer.param_groups:
            group["rho"] = 0.25
    ours.step()
    theirs.step()
    ours.agrees(theirs)
    before = [p.detach().clone() for p in ours.parameters]
    metrics = ours.optimizer.metrics()
    for group in ours.optimizer.param_groups:
        group["rho"] = 1.5
    with pytest.raises(ValueError, match=r"rho = 1.5 is out of bounds"):
        ours.step()
    ours.optimizer.param_groups[0]["rho"] = 0.5
    ours.optimizer.param_groups[1]["rho"] = 0.75
    with pytest.raises(ValueError, match="learned for the whole optimizer"):
        ours.step()
    assert all(map(torch.equal, before, [p.detach() for p in ours.parameters]))
    for group in ours.optimizer.param_groups:
        group["rho"] = metrics["rho"]
    assert ours.optimizer.metrics() == metrics


def test_learning_rates_follow_schedules_and_tensors() -> None:
    runs = []
    for backend in ("triton", "eager"):
        training = Training(mada(backend), **INSIDE, lr=torch.tensor(1e-2, device=DEVICE))
        schedule = LambdaLR(training.optimizer, [lambda t: 1 / (1 + t), lambda t: 1 + t])
        for _ in range(4):
            training.step()
            schedule.step()
        training.optimizer.param_groups[1]["lr"] = -1.0
        with pytest.raises(ValueError, match="lr"):
            training.step()
        runs.append(training)
    runs[0].agrees(runs[1])


def test_parameters_without_gradients_and_new_groups() -> None:
    ours, theirs = Training(small("triton"), **HALF), Training(small("eager"), **HALF)
    for t in range(7):
        for training in (ours, theirs):
            if t == 4:
                new = nn.Parameter(torch.ones(7, dtype=torch.float64, device=DEVICE))
                training.parameters.append(new)
                training.optimizer.add_param_group({"params": [new], "lr": 0.05})
            training.step(*({1} if t % 3 == 1 else ()))
        ours.agrees(theirs)
    assert ours.device_step_of


@pytest.mark.parametrize("order", EVERYDAY)
@pytest.mark.exhaustive
def test_a_loaded_state_goes_on_as_the_unbroken_run(order: str) -> None:
    whole = Training(small("triton", order), **HALF)
    for _ in range(3):
        whole.step()
    file = io.BytesIO()
    torch.save(whole.optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)
    assert all(type(saved["param_groups"][0][name]) is float for name in FEW)
    parts = []
    for backend in ("triton", "c" if DEVICE == "cpu" else "eager"):
        part = Training(small(backend, order), **HALF)
        part.gradients.set_state(whole.gradients.get_state())
        for to, value in zip(part.parameters, whole.parameters, strict=True):
            to.data.copy_(value)
        if backend != "eager":
            part.optimizer.load_state_dict(saved)
        else:
            part.optimizer.load_state_dict(part.optimizer.migrated(saved))
        parts.append(part)
    for _ in range(2):
        whole.step()
        for part in parts:
            part.step()
    for ours, theirs in zip(whole.parameters, parts[0].parameters, strict=True):
        assert torch.equal(ours, theirs)
    assert whole.optimizer.metrics() == parts[0].optimizer.metrics()
    if DEVICE == "cpu":
        whole.agrees(parts[1])


@pytest.mark.parametrize(
    "copied",
    [
        lambda x: pickle.loads(pickle.dumps(x)),
        pytest.param(copy.deepcopy, marks=pytest.mark.exhaustive),
    ],
)
def test_copies_go_their_own_ways(copied: Callable[[Any], Any]) -> None:
    first = Training(small("triton"), **HALF)
    for _ in range(3):
        first.step()
    second = copied(first)
    metrics = first.optimizer.metrics()
    second.step()
    assert first.optimizer.metrics() == metrics
    first.step()
    assert first.optimizer.metrics() == second.optimizer.metrics()
    assert all(map(torch.equal, first.parameters, second.parameters))


def test_a_model_that_changes_its_precision_goes_on() -> None:
    training = Training(small("triton"), torch.float32, **HALF)
    for _ in range(3):
        training.step()
    for parameter in training.parameters:
        parameter.data = parameter.data.double()
    before = [p.detach().clone() for p in training.parameters]
    training.step()
    training.step()
    assert not any(map(torch.equal, before, training.parameters))
    assert all(s["m"].dtype is torch.float64 for s in training.optimizer.state.values())


@pytest.mark.exhaustive
def test_what_is_learned_apart_is_learned_by_the_host() -> None:
    learn = {"beta1": Learn("sgd", lr=0.1, bounds=(0.5, 0.99), scope="group")}
    ours, theirs = Training(mada("triton", learn=learn)), Training(mada("eager", learn=learn))
    for _ in range(4):
        ours.step()
        theirs.step()
    assert not ours.device_step_of
    ours.agrees(theirs)


def test_repr_shows_numbers() -> None:
    training = Training(small("triton"), **HALF)
    for _ in range(2):
        training.step()
    assert "tensor" not in repr(training.optimizer)
    assert "rho: 0." in repr(training.optimizer)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.exhaustive
def test_parameters_of_two_dtypes_learn_together(order: str) -> None:
    runs = []
    for backend in ("triton", "eager"):
        training = Training(small(backend, order), **HALF)
        training.parameters[1].data = training.parameters[1].data.float()
        for _ in range(4):
            training.step()
        runs.append(training)
    assert not runs[0].device_step_of
    runs[0].agrees(runs[1], tolerance=1e-4)


def test_without_triton_it_warns_and_runs_as_eager_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise triton_engine.NoTriton("No module named 'triton'; install triton")

    monkeypatch.setattr("optdsl.runtime.engines.selection.check", absent)
    # A class of its own, which has no engines yet.
    text = library.open_source("adam").text.replace("optimizer Adam", "optimizer Absent")
    runs = []
    for backend in ("triton", "eager"):
        training = Training(optdsl.compile(text, backend=backend))
        if backend == "triton":
            with pytest.warns(RuntimeWarning, match="without compiled kernels.*install triton"):
                training.step()
        else:
            training.step()
        training.step()
        runs.append(training)
    assert all(map(torch.equal, runs[0].parameters, runs[1].parameters))


def test_a_compiler_that_fails_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("first line\nno such arch")

    monkeypatch.setattr(TritonEngine, "launched", fails)
    triton_engine.check.cache_clear()
    with pytest.raises(triton_engine.NoTriton, match=r"cannot compile for .* \(no such arch\)"):
        triton_engine.check(torch.device(DEVICE), artifact)
    triton_engine.check.cache_clear()


def options(text: str) -> set[tuple[str, str]]:
    """The functions of Triton that a file calls with options by name, which versions may lack."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return {
        (ast.unparse(call.func), str(keyword.arg))
        for call in calls
        if isinstance(call.func, ast.Attribute)
        for keyword in call.keywords
    }


@pytest.mark.parametrize("name", ["adam", "adan", "mada"])
def test_what_is_tried_is_what_kernels_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Triton 3.5, for one, ranges do not take `disable_licm`."""
    texts: list[str] = []
    monkeypatch.setattr(triton_engine, "module", lambda m: texts.append(m.text) or module(m))
    triton_engine.check.cache_clear()
    triton_engine.check(torch.device(DEVICE), artifact)
    (tried,) = texts
    assert ("tl.range", "disable_licm") in options(tried)
    kernels = emit(library.open_source(name), "triton").text
    assert options(kernels) <= options(tried)


def test_kernels_that_compute_something_else_are_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TritonEngine, "launched", lambda *_: None)
    triton_engine.check.cache_clear()
    with pytest.raises(triton_engine.NoTriton, match=r"instead of -0\.5"):
        triton_engine.check(torch.device(DEVICE), artifact)
    triton_engine.check.cache_clear()


def test_other_devices_are_refused_by_name() -> None:
    parameter = nn.Parameter(torch.ones(3, device="meta"))
    parameter.grad = torch.ones(3, device="meta")
    optimizer = optdsl.load("adam", backend="triton")([parameter])
    with pytest.raises(RuntimeError, match=r"which runs on GPUs .* and a parameter is on meta"):
        optimizer.step()


def test_a_step_that_was_refused_does_not_answer_for_the_next() -> None:
    ours, theirs = Training(small("triton"), **HALF), Training(small("eager"), **HALF)
    for _ in range(3):
        ours.step()
        theirs.step()
    rates = [group["lr"] for group in ours.optimizer.param_groups]
    ours.optimizer.param_groups[0]["lr"] = -1.0
    generator = ours.gradients.get_state()
    with pytest.raises(ValueError, match="lr"):
        ours.step()
    ours.optimizer.param_groups[0]["lr"] = rates[0]
    ours.gradients.set_state(generator)
    # Other parameters have gradients than in the step that was refused.
    ours.step(0)
    theirs.step(0)
    ours.agrees(theirs)


def test_what_eager_code_left_behind_is_completed_first() -> None:
    ours, theirs = Training(small("triton"), **HALF), Training(small("eager"), **HALF)
    for _ in range(3):
        theirs.step()
    for to, value in zip(ours.parameters, theirs.parameters, strict=True):
        to.data.copy_(value)
    ours.optimizer.load_state_dict(theirs.optimizer.state_dict())
    ours.gradients.set_state(theirs.gradients.get_state())
    for _ in range(3):
        ours.step()
        theirs.step()
        ours.agrees(theirs)
    assert ours.device_step_of
