"""Copies: deepcopy, pickle, other processes, and classes that a user derives."""

import copy
import importlib
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl

from .helpers import BACKENDS, SPECS, fingerprint, held, learner, parameters, plain, train

pytestmark = pytest.mark.broad(10)

MODULE = """
import optdsl
from optdsl import Learn

learn = {"lr": Learn("sgd", lr=1e-4, momentum=0.9, bounds=(0, 1))}

class Mine(optdsl.load("adam", learn=learn, backend="BACKEND")):
    '''Adam with a notebook.'''

    def __init__(self, params, note="", **hypers):
        super().__init__(params, **hypers)
        self.note = note

    def shout(self):
        return "!"
"""

# Trains what it reads for two steps with gradients of one, and writes it back.
OTHER_PROCESS = """
import pickle, sys
import torch

with open(sys.argv[1], "rb") as file:
    optimizers = pickle.load(file)
for optimizer in optimizers:
    for _ in range(2):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
with open(sys.argv[2], "wb") as file:
    pickle.dump(optimizers, file)
"""


@pytest.fixture
def mine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> ModuleType:
    """A user's module with a class derived from a compiled one."""
    text = MODULE.replace("BACKEND", getattr(request, "param", "auto"))
    (tmp_path / "users_optimizers.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_optimizers", raising=False)
    return importlib.import_module("users_optimizers")


def pickled(content: Any) -> Any:
    return pickle.loads(pickle.dumps(content))


@pytest.mark.parametrize(
    ("backend", "order", "copied"),
    [
        ("auto", "overlapped", pickled),
        ("auto", "exact", copy.deepcopy),
        ("eager", "overlapped", copy.deepcopy),
        ("eager", "exact", pickled),
    ],
)
@pytest.mark.parametrize("spec", SPECS)
def test_a_copy_is_independent_and_goes_on_the_same(
    spec: str, backend: str, order: str, copied: Any
) -> None:
    cls = learner(spec, order, backend)
    original = cls(parameters())
    for halt in (0, 1, 4):
        train(original, range(halt))
        twin = copied(original)
        assert type(twin) is cls
        assert fingerprint(twin) == fingerprint(original)
        assert not {id(p) for p in held(twin)} & {id(p) for p in held(original)}
        before = fingerprint(original)
        train(twin, range(halt, halt + 4))
        assert fingerprint(original) == before
        train(original, range(halt, halt + 4))
        assert fingerprint(twin) == fingerprint(original)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled], ids=["deepcopy", "pickle"])
def test_a_model_and_its_optimizer_stay_together(copied: Any) -> None:
    model = nn.Linear(2, 2).double()
    optimizer = learner("mada_legacy")(model.named_parameters())
    train(optimizer, range(3))
    model_twin, twin = copied((model, optimizer))
    assert [id(p) for p in held(twin)] == [id(p) for p in model_twin.parameters()]
    assert twin.param_groups[0]["param_names"] == ["weight", "bias"]
    train(twin, range(3, 5))
    train(optimizer, range(3, 5))
    for mine_, theirs in zip(model.parameters(), model_twin.parameters(), strict=True):
        assert torch.equal(mine_, theirs)


def test_a_copy_can_do_all_that_an_original_can() -> None:
    optimizer = learner("adamw")(parameters()[:2])
    train(optimizer, range(2))
    twin = copy.deepcopy(optimizer)
    seen: list[int] = []
    twin.register_step_post_hook(lambda *_: seen.append(1))
    scheduler = torch.optim.lr_scheduler.ExponentialLR(twin, 0.5)
    twin.add_param_group({"params": parameters()[2:]})
    rate = twin.param_groups[0]["lr"]
    train(twin, range(2))
    scheduler.step()
    assert seen == [1, 1]
    assert twin.param_groups[0]["lr"] < rate
    twin.load_state_dict(copy.deepcopy(twin).state_dict())
    assert "AdamW" in repr(twin)


def test_classes_are_what_they_are_when_copied() -> None:
    assert copy.deepcopy(learner("adam")) is learner("adam")


def test_a_pickled_optimizer_compiles_its_own_text() -> None:
    """Not a name in the library, which may be another one there."""
    text = "optimizer Own\nhyper lr = 0.5\nstate k = 0\nk' = k + 1\ntheta' = theta - lr * g * k'\n"
    optimizer = optdsl.compile(text)(parameters())
    train(optimizer, range(2))
    twin = pickled(optimizer)
    assert type(twin) is optdsl.compile(text)
    assert fingerprint(twin) == fingerprint(optimizer)


@pytest.mark.parametrize(
    ("mine", "backend"), [(b, b) for b in BACKENDS], indirect=["mine"], ids=BACKENDS
)
def test_a_users_subclass_is_an_ordinary_class(mine: ModuleType, backend: str) -> None:
    optimizer = mine.Mine(parameters(), note="hello", lr=0.01)
    plainly = optdsl.load("adam", learn=mine.learn, backend=backend)
    reference = plainly(parameters(), lr=0.01)
    assert optimizer.note == "hello"
    train(optimizer, range(3))
    train(reference, range(3))
    assert fingerprint(optimizer) == fingerprint(reference)
    for copied in (copy.deepcopy, pickled):
        twin = copied(optimizer)
        assert type(twin) is mine.Mine
        assert twin.shout() == "!"
        train(twin, range(3, 5))
        again = copied(optimizer)
        train(again, range(3, 5))
        assert fingerprint(twin) == fingerprint(again)
    with pytest.raises(TypeError, match="Mine has no hyperparameter 'beta'"):
        mine.Mine(parameters(), beta=1)


def test_a_subclass_may_override_the_step() -> None:
    class Counting(plain("lion")):  # type: ignore[misc]
        calls = 0

        def step(self, closure: Any = None) -> Any:
            self.calls += 1
            return super().step(closure)

    optimizer = Counting(parameters())
    reference = plain("lion")(parameters())
    train(optimizer, range(3))
    train(reference, range(3))
    assert optimizer.calls == 3
    assert fingerprint(optimizer) == fingerprint(reference)
    twin = copy.deepcopy(optimizer)
    assert type(twin) is Counting


@pytest.mark.slow
@pytest.mark.exhaustive
def test_another_process_goes_on_the_same(mine: ModuleType, tmp_path: Path) -> None:
    backends = itertools.cycle(BACKENDS)
    classes = [learner(spec, backend=next(backends)) for spec in SPECS]
    optimizers: list[Any] = [cls(parameters()) for cls in classes]
    optimizers.append(mine.Mine(parameters()))
    for optimizer in optimizers:
        train(optimizer, range(3))
    source, target = tmp_path / "before.pickle", tmp_path / "after.pickle"
    source.write_bytes(pickle.dumps(optimizers))
    paths = [*(p for p in sys.path if p), str(Path(optdsl.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(source), str(target)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    returned = pickle.loads(target.read_bytes())
    for optimizer, other in zip(optimizers, returned, strict=True):
        assert type(other) is type(optimizer)
        for _ in range(2):
            for p in held(optimizer):
                p.grad = torch.ones_like(p)
            optimizer.step()
        assert fingerprint(other) == fingerprint(optimizer)
        assert all(isinstance(p, Tensor) for p in held(other))


@pytest.mark.parametrize("spec", SPECS)
def test_a_class_pickles_too(spec: str) -> None:
    """As `mp.spawn(work, args=(cls,))` and `functools.partial(cls, lr=0.1)` need."""
    cls = learner(spec)
    assert pickle.loads(pickle.dumps(cls)) is cls
    assert copy.deepcopy(cls) is cls
