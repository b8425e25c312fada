"""Threads, torch.compile, changed models, and other company that an optimizer keeps."""

import threading

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn, library
from optdsl.compiler import make_class

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
        make_class.cache_clear()
        names = ["mada_legacy", "sgd"] * 4
        threads = [threading.Thread(target=load, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@pytest.mark.slow
def test_a_compiled_training_step_may_call_it() -> None:
    results = []
    for compiled in (False, True):
        model = nn.Linear(2, 1)
        with torch.no_grad():
            model.weight.fill_(0.5)
            model.bias.zero_()
        optimizer = optdsl.load("mada_legacy", learn=["rho"])(model.parameters(), rho=0.5)

        def step(x: torch.Tensor, model: nn.Linear = model, opt=optimizer) -> None:
            model(x).square().sum().backward()
            opt.step()
            opt.zero_grad()

        run = torch.compile(step, backend="eager") if compiled else step
        for t in range(3):
            run(torch.full((1, 2), 1.0 + t))
        results.append(model.weight.detach().clone())
    torch.testing.assert_close(*results)


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


def test_a_misspelt_hyperparameter_of_a_group_is_refused() -> None:
    (p, *_) = parameters()
    with pytest.raises(TypeError, match="'weight_decy': did you mean `weight_decay`"):
        optdsl.load("adam")([{"params": [p], "weight_decy": 0.1}])
    free = optdsl.load("adam")([{"params": [p], "name": "decay", "initial_lr": 0.1}])
    assert free.param_groups[0]["name"] == "decay"


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
