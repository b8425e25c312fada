"""A checkpoint is data: one that no training can have saved is refused, and changes nothing."""

import copy
import functools
import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from tests.runtime.helpers import fingerprint, held, parameters, saved, train

BACKENDS = ("eager", "c")
RULES: dict[str, dict[str, Any]] = {
    "fixed": {"learn": False},
    "learned": {
        "learn": {
            "lr": Learn("sgd", lr=1e-5, momentum=0.9, clip=5, bounds=(0, 1)),
            "beta1": Learn("adam", lr=1e-4, clip=5, bounds=(0.5, 0.95)),
            "weight_decay": Learn("adam", lr=1e-4, bounds=(0, 1)),
        }
    },
    "of tensors": {
        "learn": {"lr": Learn("sgd", lr=1e-5, momentum=0.9, bounds=(0, 1), scope="tensor")}
    },
    "of groups": {"learn": {"lr": Learn("adam", lr=1e-5, bounds=(0, 1), scope="group")}},
}


@functools.cache
def rule(kind: str, backend: str) -> Any:
    return optdsl.load("adam", backend=backend, **RULES[kind])


def trained(kind: str, backend: str) -> Any:
    first, second, third = parameters()
    optimizer = rule(kind, backend)([{"params": [first, second]}, {"params": [third]}])
    train(optimizer, range(3))
    return optimizer


def refuses(target: Any, content: Any, *words: str) -> None:
    """The load is refused with the words, and the optimizer goes on as if nothing had been."""
    before = fingerprint(target)
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        target.load_state_dict(content)
    assert all(word in str(caught.value) for word in words), caught.value
    assert fingerprint(target) == before


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


STATES: dict[str, tuple[str, Any]] = {
    "an infinite count": ("step", number(math.inf)),
    "no number as a count": ("step", number(math.nan)),
    "a negative count": ("step", number(-5)),
    "half a step": ("step", number(1.5)),
    "a count beyond what can be counted": ("step", number(1e300)),
    "a count without a value": ("step", torch.empty((), device="meta", dtype=torch.float64)),
    "a count that is no tensor": ("step", 3),
    "a complex count": ("step", torch.tensor(3j)),
    "a sparse moment": ("m", torch.zeros(3, 2).to_sparse()),
    "a moment without values": ("m", torch.empty(3, 2, device="meta")),
    "a moment of whole numbers": ("m", torch.zeros(3, 2, dtype=torch.int64)),
    "a moment of bools": ("m", torch.zeros(3, 2, dtype=torch.bool)),
    "a complex moment": ("m", torch.zeros(3, 2, dtype=torch.complex64)),
    "a moment of another shape": ("m", torch.zeros(2, 3)),
    "text for a moment": ("m", "z"),
    "no moment": ("m", None),
}
GROUPS: dict[str, tuple[str, Any]] = {
    "text for maximize": ("maximize", "no"),
    "a number for maximize": ("maximize", 2),
    "no parameters": ("params", None),
    "a number for parameters": ("params", 3),
    "text for a hyperparameter": ("eps", "1e-8"),
    "a negative hyperparameter": ("eps", -1.0),
    "a hyperparameter that is no number": ("beta2", math.nan),
    "several numbers for a hyperparameter": ("beta2", torch.zeros(2)),
    "a hyperparameter without a value": ("beta2", torch.empty((), device="meta")),
    "a beta of 1": ("beta2", 1.0),
}
LEARNED: dict[str, tuple[str, Any]] = {
    "text for a count": ("learn/beta1/step", "z"),
    "a negative count": ("learn/beta1/step", -1),
    "half a count": ("learn/beta1/step", 0.5),
    "an infinite count": ("learn/beta1/step", math.inf),
    "a memory that is no number": ("learn/lr/buf", math.nan),
    "an infinite memory": ("learn/beta1/m", -math.inf),
    "text for a memory": ("learn/lr/buf", "0"),
    "a memory of several numbers": ("learn/lr/buf", torch.zeros(2)),
    "text for a hyper-gradient": ("hypergradient/lr", "z"),
    "a coefficient out of its bounds": ("beta1", 0.99),
    "a coefficient that is no number": ("beta1", math.nan),
}


@pytest.mark.parametrize("kind", ["fixed", "learned"])
@pytest.mark.parametrize(("key", "value"), STATES.values(), ids=STATES)
def test_a_state_that_no_training_has_is_refused(kind: str, key: str, value: Any) -> None:
    optimizer = trained(kind, "c")
    content = saved(optimizer.state_dict())
    content["state"][0][key] = value
    refuses(optimizer, content, key)


@pytest.mark.parametrize(("key", "value"), GROUPS.values(), ids=GROUPS)
def test_a_group_that_no_training_has_is_refused(key: str, value: Any) -> None:
    optimizer = trained("fixed", "c")
    content = saved(optimizer.state_dict())
    content["param_groups"][1][key] = value
    refuses(optimizer, content, key, "param_groups[1]")
    del content["param_groups"][1][key]
    if key != "maximize":  # which older versions did not save
        refuses(optimizer, content, key)


@pytest.mark.parametrize(("key", "value"), LEARNED.values(), ids=LEARNED)
def test_what_no_coefficient_remembers_is_refused(key: str, value: Any) -> None:
    """It would be frozen without a word, or fail at a later step."""
    optimizer = trained("learned", "eager")
    content = saved(optimizer.state_dict())
    for group in content["param_groups"]:
        group[key] = value
    refuses(optimizer, content, key)


@pytest.mark.parametrize("key", ["learn/lr/step", "learn/lr/buf", "coefficient/lr"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5])
def test_what_no_tensor_learns_is_refused(key: str, value: float) -> None:
    optimizer = trained("of tensors", "c")
    content = saved(optimizer.state_dict())
    content["state"][1][key] = number(value)
    if (key, value) == ("learn/lr/buf", -0.5):
        optimizer.load_state_dict(content)
    else:
        refuses(optimizer, content, key, "state[1]")


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, -1.0])
def test_a_pending_step_that_no_training_took_is_refused(place: int, value: float) -> None:
    optimizer = trained("learned", "c")
    content = saved(optimizer.state_dict())
    content["state"][0]["pending/hypers"][place] = value
    refuses(optimizer, content, "pending/hypers")


def test_weights_that_do_not_sum_to_one_are_refused() -> None:
    params = parameters()
    optimizer = optdsl.blend("adam", "lion")(params)
    train(optimizer, range(2))
    content = saved(optimizer.state_dict())
    weight = optimizer.compiled.program.simplexes[0].hypers[0]
    content["param_groups"][0][weight] = 0.9
    refuses(optimizer, content, weight, "sum to")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda content: content["state"].__setitem__(0, [1]), "state[0] is list"),
        (lambda content: content["state"].__setitem__(9, {}), "state[9] is of no parameter"),
        (lambda content: content["param_groups"].__setitem__(0, 3), "param_groups[0] is int"),
        (lambda content: content["param_groups"][0]["params"].append([]), "`params`"),
        (lambda content: content.pop("state"), "no `state`"),
    ],
)
def test_what_is_no_state_dict_is_refused(broken: Callable[[Any], Any], words: str) -> None:
    optimizer = trained("fixed", "eager")
    content = saved(optimizer.state_dict())
    broken(content)
    refuses(optimizer, content, words)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_training_may_have_saved_is_loaded(backend: str) -> None:
    """Moments after a divergence, counts in other dtypes, and what users keep in groups."""
    optimizer = trained("learned", backend)
    content = saved(optimizer.state_dict())
    content["state"][0]["m"].fill_(math.nan)
    content["state"][0]["step"] = content["state"][0]["step"].to(torch.float32)
    content["state"][1]["step"] = content["state"][1]["step"].to(torch.int64)
    content["state"][1]["v"] = content["state"][1]["v"].to(torch.bfloat16)
    for group in content["param_groups"]:
        group |= {"name": "own", "lr_scale": 0.5, "hypergradient/lr": math.nan}
    optimizer.load_state_dict(content)
    train(optimizer, range(3, 5))
    assert [float(optimizer.state[p]["step"]) for p in held(optimizer)] == [5, 5, 5]
    assert optimizer.param_groups[0]["lr_scale"] == 0.5


# --- any entry, changed in any way ---------------------------------------------------------------

ODD: tuple[Any, ...] = (
    *(None, "z", "no", "", -1, 2, 1.5, -5.0, math.nan, math.inf, -math.inf, 10**400, 1j, True),
    *([], {}, [1.0], {"a": 1}, b"x", object(), float),
    *map(number, (math.nan, math.inf, -5, 1.5, 1e300)),
    *(torch.zeros(2), torch.zeros(0), torch.tensor(3j), torch.zeros(3, 2).to_sparse()),
    *(torch.empty((), device="meta"), torch.empty(3, 2, device="meta")),
    *(torch.zeros(3, 2, dtype=torch.int64), torch.full((3, 2), math.nan), torch.zeros(4)),
)


def containers(content: Any) -> Iterator[Any]:
    if isinstance(content, dict | list):
        yield content
        for inner in content.values() if isinstance(content, dict) else content:
            yield from containers(inner)


def refusal(target: Any, content: Any) -> str | None:
    """What the target says against what it is to load."""
    try:
        target.load_state_dict(content)
    except (TypeError, ValueError, KeyError) as error:
        return str(error)
    return None


def tamper(content: Any, random_: random.Random) -> str:
    """Change one entry: another value, none, one more, or that of another place."""
    container = random_.choice([c for c in containers(content) if c])
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    key, way = random_.choice(keys), random_.choice(["odd", "odd", "odd", "gone", "more", "other"])
    if way == "gone":
        del container[key]
    elif way == "more" and isinstance(container, dict):
        key = random_.choice([f"{key}x", "tangent/lr", "pending/g", "learn/lr/x", 99])
        container[key] = random_.choice(ODD)
    elif way == "other":
        container[key] = container[random_.choice(keys)]
    else:
        container[key] = random_.choice(ODD)
    return f"{way} {key!r}"


@pytest.mark.parametrize(
    "seeds", [range(40), pytest.param(range(40, 1000), marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", RULES)
def test_a_tampered_checkpoint_is_refused_or_trains_on(
    kind: str, backend: str, seeds: range
) -> None:
    """Refused, nothing is changed; loaded, no coefficient is frozen or lost by the next steps."""
    source = trained(kind, backend)
    content = source.state_dict()
    before = fingerprint(source)
    for seed in seeds:
        random_ = random.Random(seed)
        changed = copy.deepcopy(content)
        what = ", ".join(tamper(changed, random_) for _ in range(random_.choice([1, 1, 2])))
        params = [nn.Parameter(p.detach().clone()) for p in held(source)]
        target = rule(kind, backend)([{"params": params[:2]}, {"params": params[2:]}])
        target.load_state_dict(copy.deepcopy(content))
        if refusal(target, changed) is not None:
            assert fingerprint(target) == before, what
            continue
        learned = [c.name for c in target.compiled.coefficients]
        loaded = target.metrics()
        train(target, range(3, 6))
        after = target.metrics()
        assert all(map(math.isfinite, (v for k, v in after.items() if "hyper" not in k))), what
        finite = all(
            bool(x.isfinite().all()) for state in target.state.values() for x in state.values()
        )
        if finite and learned:
            assert loaded != after, what
        assert all(float(s["step"]) >= 3 for s in target.state.values() if s), what
        assert target.param_groups[0]["maximize"] in (False, True), what


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("kind", "key", "value", "words"),
    [
        ("learned", "learn/beta1/v", -5.0, "beta1 cannot learn"),
        ("of groups", "learn/lr/v", -1e-3, "lr cannot learn"),
        ("fixed", "lr", True, "'lr'"),
        ("fixed", "foreach", "x", "foreach"),
        ("fixed", "differentiable", True, "differentiable"),
        ("fixed", "betas", (0.5, 0.999), "'beta1'"),
        ("fixed", "betas", (0.9,), "'betas'"),
        ("fixed", "betas", "no", "'betas'"),
        ("fixed", "betas", (0.9, "x"), "'betas'"),
    ],
)
def test_what_would_freeze_or_contradict_is_refused(
    kind: str, key: str, value: Any, words: str, backend: str
) -> None:
    optimizer = trained(kind, backend)
    content = saved(optimizer.state_dict())
    for group in content["param_groups"]:
        group[key] = value
    refuses(optimizer, content, words)


def test_a_state_that_was_set_to_zero_can_be_saved_and_loaded() -> None:
    optimizer = trained("learned", "c")
    for value in optimizer.state[held(optimizer)[0]].values():
        value.zero_()
    other = trained("learned", "eager")
    for target in (optimizer, other):
        target.load_state_dict(saved(optimizer.state_dict()))
        train(target, range(2))
        assert all(p.isfinite().all() for p in held(target))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_that_asks_for_differentiable_steps_stops_the_step(backend: str) -> None:
    optimizer = trained("fixed", backend)
    optimizer.param_groups[1]["differentiable"] = True
    before = fingerprint(optimizer)
    with pytest.raises(ValueError, match="differentiable=True is not supported"):
        train(optimizer, [3])
    assert fingerprint(optimizer) == before
