"""Threads, torch.compile, changed models, and other company that an optimizer keeps."""

import os
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn
from optdsl.classes import optimizer_class
from optdsl.specifications import library

from .helpers import parameters, train


def test_threads_may_load_at_the_same_time() -> None:
    """`learn ... by SGD` reads another specification while one is being read."""
    failures: list[BaseException] = []
    start = threading.Barrier(8)

    def load(name: str) -> None:
        start.wait()
        try:
            optdsl.load(name)
        except BaseException as error:
            failures.append(error)

    for _ in range(3):
        library._specification.cache_clear()
        optimizer_class.cache_clear()
        names = ["mada_legacy", "sgd"] * 4
        threads = [threading.Thread(target=load, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def trained_inside(how: str, backend: str, steps: int) -> tuple[torch.Tensor, list[str]]:
    """A parameter after some steps that are compiled in some way, and the hooks that ran."""
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = optdsl.load("mada_legacy", learn=["rho"], backend=backend)([p], rho=0.5)
    ran: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: ran.append("before"))
    optimizer.register_step_post_hook(lambda *_: ran.append("after"))
    if how == "unpickled":
        optimizer = pickle.loads(pickle.dumps(optimizer))
        p = optimizer.param_groups[0]["params"][0]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)

    def train() -> None:
        p.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    train = train if how == "plain" else torch.compile(train, backend="eager")
    alone = torch.compile(optimizer.step, backend="eager")
    for _ in range(steps):
        if how == "the step alone":
            p.square().sum().backward()
            alone()
            optimizer.zero_grad()
        else:
            train()
        schedule.step()
    return p.detach(), ran


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("how", ["around the step", "the step alone", "unpickled"])
def test_dynamo_does_not_look_into_a_step(how: str, backend: str) -> None:
    from torch._dynamo.utils import counters

    want, ran = trained_inside("plain", backend, 6)
    torch._dynamo.reset()
    counters.clear()
    got, ran_compiled = trained_inside(how, backend, 3)
    seen = sum(counters["frames"].values())
    assert sum(counters["graph_break"].values()) <= 4
    torch._dynamo.reset()
    counters.clear()
    got, ran_compiled = trained_inside(how, backend, 6)
    assert torch.equal(got, want)
    assert ran_compiled == ([] if how == "unpickled" else ran)
    # Nothing is compiled again in later steps.
    assert sum(counters["frames"].values()) == seen
    assert not [name for name in counters["graph_break"] if "recompile_limit" in name]


def test_importing_the_compiler_does_not_import_dynamo() -> None:
    code = (
        "import sys, optdsl; optdsl.load('mada'); "
        "sys.exit('torch._dynamo' in sys.modules and 'Dynamo was imported')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_a_model_that_became_more_precise_takes_its_states_along() -> None:
    model = nn.Linear(2, 1)
    optimizer = optdsl.load("mada_legacy", learn=["rho"])(model.parameters())
    for precise in (False, True):
        x = torch.ones(1, 2)
        if precise:
            model.double()
            x = x.double()
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    kept = [v.dtype for state in optimizer.state.values() for v in state.values()]
    assert set(kept) == {torch.float64}


def test_a_misspelt_hyperparameter_of_a_group_is_told() -> None:
    (p, *_) = parameters()
    words = "'weight_decy', .* changes nothing: did you mean `weight_decay`"
    with pytest.warns(UserWarning, match=words) as caught:
        optimizer = optdsl.load("adam")([{"params": [p], "weight_decy": 0.1}])
    assert caught[0].filename == __file__
    assert optimizer.param_groups[0]["weight_decy"] == 0.1


def test_a_state_of_other_shapes_is_refused() -> None:
    text = "optimizer Own\nstate m{} = 0\nm' = m + {}\ntheta' = theta - m'\n"
    tensor, scalar = (
        optdsl.compile(text.format(*kind)) for kind in [("", "g"), (" : scalar", "sum(g)")]
    )
    saved = {}
    for cls in (tensor, scalar):
        optimizer = cls(parameters())
        train(optimizer, range(2))
        saved[cls] = optimizer.state_dict()
    for cls, other in [(tensor, scalar), (scalar, tensor)]:
        with pytest.raises(
            ValueError, match=r"m is one (scalar|tensor) in the checkpoint, and one"
        ):
            cls(parameters()).load_state_dict(saved[other])
    with pytest.raises(ValueError, match="m has shape"):
        tensor(parameters(shapes=[(5,), (4,), ()])).load_state_dict(saved[tensor])
    with pytest.raises(ValueError, match="no `state`"):
        tensor(parameters()).load_state_dict({})


def test_tangents_beyond_the_limit_are_a_clear_error() -> None:
    hypers = "".join(f"hyper h{i} = 0.5 in [0, 1]\n" for i in range(40))
    product = " * ".join(f"h{i}" for i in range(40))
    chain = "".join(f"x{i} = max(x{i - 1} * x{i - 1}, x{i - 1})\n" for i in range(1, 400))
    text = f"optimizer A\n{hypers}x0 = g * {product}\n{chain}theta' = theta - x399\n"
    learn = {f"h{i}": Learn("sgd", lr=0.1) for i in range(40)}
    with pytest.raises(optdsl.OptionError, match="learn fewer"):
        optdsl.compile(text, learn=learn)
