"""What users may ask of weight vectors and set them to, and how mistakes are told."""

import math
import pickle
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn
from optdsl.diagnostics import Source
from optdsl.ir.program import Simplex
from optdsl.selection import select
from optdsl.specifications.library import Library, read

from .helpers import fingerprint, parameters, saved, train
from .weights import LABELS, MIX, mix, named, vector

pytestmark = pytest.mark.broad(8)

LEARN = Learn("sgd", lr=0.1)
LEARNS: list[Learn | bool] = [False, LEARN, Learn("adam", lr=0.1, exponentiated=True)]
HYPERS = tuple(f"w_{label}" for label in LABELS)
STATED = "learn w by exponentiated SGD(lr = 0.1, clip = 10) after 3"

# What does not sum to one, what the defaults make of it, and the words of the error.
BAD_SUMS: list[tuple[dict[str, float], str]] = [
    ({"w_fast": 1.0}, "w_fast = 1, w_slow = 0.25, w_flat = 0.25 sum to 1.5"),
    ({"w_fast": 0, "w_slow": 0}, "w_fast = 0, w_slow = 0, w_flat = 0.25 sum to 0.25"),
    (named([0, 0, 0]), "w_fast = 0, w_slow = 0, w_flat = 0 sum to 0"),
    (named([0.5, 0.25, 0.25001]), "w_fast = 0.5, w_slow = 0.25, w_flat = 0.25001 sum to 1.00001"),
]


def made(learn: Learn | bool) -> Any:
    return mix(learn, start="0.5, 0.25, 0.25")


def refused(words: str) -> Any:
    whole = f"Mix: the weights {words}; give all of them, with the sum 1"
    return pytest.raises(ValueError, match=f"^{re.escape(whole)}$")


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "words"), BAD_SUMS)
@pytest.mark.parametrize("learn", LEARNS, ids=["fixed", "projected", "exponentiated"])
def test_weights_that_do_not_sum_to_one_are_refused_wherever_they_are_given(
    learn: Learn | bool, values: dict[str, float], words: str
) -> None:
    cls = made(learn)
    with refused(words):
        cls(parameters(), **values)
    with refused(words):
        cls([{"params": parameters()}, {"params": parameters(), **values}])
    with refused(words):  # which a later group would get
        cls([{"params": parameters(), **named([1, 0, 0])}], **values)
    optimizer = cls([{"params": parameters()[:1]}, {"params": parameters()[1:]}])
    with refused(words):
        optimizer.add_param_group({"params": parameters(), **values})
    assert len(optimizer.param_groups) == 2
    train(optimizer, range(1))  # which learns nothing yet
    optimizer.param_groups[1].update(values)
    before = fingerprint(optimizer)
    with refused(words):
        train(optimizer, [1])
    assert fingerprint(optimizer) == before
    optimizer.param_groups[1].update(named([0.5, 0.25, 0.25]))
    train(optimizer, [1])


@pytest.mark.parametrize("learn", LEARNS, ids=["fixed", "projected", "exponentiated"])
def test_a_state_whose_weights_do_not_sum_to_one_is_not_loaded(learn: Learn | bool) -> None:
    optimizer, source = (made(learn)(parameters()) for _ in range(2))
    train(source, range(3))
    content = saved(source.state_dict())
    content["param_groups"][0] |= named([0.5, 0.5, 0.5])
    before = fingerprint(optimizer)
    words = "the weights w_fast = 0.5, w_slow = 0.5, w_flat = 0.5 sum to 1.5"
    with pytest.raises(ValueError, match=re.escape(f"param_groups[0]: Mix: {words}")):
        optimizer.load_state_dict(content)
    assert fingerprint(optimizer) == before


def test_one_weight_out_of_bounds_is_told_as_that() -> None:
    for value in (1.5, -0.5, math.nan):
        with pytest.raises(ValueError, match=r"w_fast = .* is out of bounds.*\[0, 1\]"):
            made(False)(parameters(), w_fast=value)


@pytest.mark.parametrize("learn", LEARNS, ids=["fixed", "projected", "exponentiated"])
def test_rounding_is_no_mistake(learn: Learn | bool) -> None:
    """Sums of floats are not exactly one, and those of float32 less so."""
    singles = (torch.ones(3) / 3).unbind()
    for values in ([0.1, 0.2, 0.7], [1 / 3] * 3, [0.333333, 0.333333, 0.333334 + 5e-7], singles):
        optimizer = made(learn)(parameters(), **named(values))  # type: ignore[arg-type]
        assert vector(optimizer) == [float(v) for v in values]
        optimizer.param_groups[0].update(named(values))  # type: ignore[arg-type]
        train(optimizer, range(3))
        assert math.fsum(vector(optimizer)) == pytest.approx(1.0, abs=1e-6 if not learn else 1e-15)


def test_weights_may_be_set_by_hand_at_any_time() -> None:
    """All of them, in every group."""
    optimizer = made(LEARN)(parameters())
    train(optimizer, range(4))
    optimizer.param_groups[0].update(named([0.0, 1.0, 0.0]))
    train(optimizer, [4])
    assert vector(optimizer)[1] > 0.5


def test_learned_weights_that_differ_between_groups_are_refused() -> None:
    params = parameters()
    groups = [{"params": params[:1]}, {"params": params[1:], **named([1, 0, 0])}]
    with pytest.raises(ValueError, match="w_fast is learned for the whole optimizer"):
        made(LEARN)(groups)
    fixed = made(False)([{"params": params[:1]}, {"params": params[1:], **named([1, 0, 0])}])
    train(fixed, range(2))
    assert [vector(fixed, i) for i in (0, 1)] == [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]


# --- what is learned ----------------------------------------------------------------------------


def test_the_name_of_a_vector_stands_for_all_its_components() -> None:
    text = MIX.format(start="uniform", learn=STATED)
    program = read(Source("mix.opt", text))
    assert [x.hyper for x in program.learned] == list(HYPERS)
    for learn in (True, "w", ["w"], ["w", "w"], ("w",)):
        assert select(program, learn, Library()) == program
    assert select(program, False, Library()).learned == ()
    assert select(program, [], Library()).learned == ()
    how = Learn("SGD", lr=0.1, clip=10, after=3, exponentiated=True)
    assert select(program, {"w": how}, Library()) == program
    assert optdsl.compile(text, learn=["w"]) is optdsl.compile(text)
    both = select(program, {"lr": Learn("sgd", bounds=(0, 1)), "w": LEARN}, Library())
    assert [x.hyper for x in both.learned] == ["lr", *HYPERS]
    assert not any(x.exponentiated for x in both.learned)


def test_the_name_of_a_vector_is_any_text() -> None:
    """In a blend of blends it has a dot."""
    program = read(Source("mix.opt", MIX.format(start="uniform", learn="")))
    dotted = replace(program, simplexes=(Simplex("SgdAdam.w", LABELS, HYPERS),))
    found = select(dotted, {"SgdAdam.w": LEARN}, Library())
    assert [x.hyper for x in found.learned] == list(HYPERS)
    assert select(found, ["SgdAdam.w"], Library()) == found
    for part in ("w_fast", "SgdAdam.w.fast"):
        with pytest.raises(optdsl.OptionError, match=r"learned as a whole: name 'SgdAdam\.w'"):
            select(dotted, {part: LEARN}, Library())
    with pytest.raises(optdsl.OptionError, match=r"'w' to learn: it has lr, SgdAdam\.w"):
        select(dotted, {"w": LEARN}, Library())


@pytest.mark.parametrize(
    ("learn", "words"),
    [
        (["w_fast"], "w_fast is one of the weights w, which are learned as a whole: name 'w'"),
        ("w.slow", "w.slow is one of the weights w, which are learned as a whole: name 'w'"),
        ({"w_flat": LEARN}, "w_flat is one of the weights w"),
        ({"w.flat": LEARN}, "w.flat is one of the weights w"),
        ({"w": LEARN, "w_fast": LEARN}, "w_fast is one of the weights w"),
        ({"w_slwo": LEARN}, "Mix has no hyperparameter 'w_slwo' to learn"),
        (["w"], 'Mix does not say how to learn w: write learn={"w": optdsl.Learn("sgd", lr=...)}'),
        ({"w": "sgd"}, "learn['w'] must be an optdsl.Learn"),
        (
            {"w": Learn("sgd", bounds=(0, 1))},
            "the weights w lie in [0, 1] and sum to one; leave out bounds",
        ),
        ({"w": Learn("sgd", bounds=(0, 0.5), exponentiated=True)}, "leave out bounds"),
        (
            {"lr": Learn("sgd", bounds=(0, 1), exponentiated=True)},
            "lr is no weight vector, and only weights are learned by their logarithms",
        ),
    ],
)
def test_what_cannot_be_learned_or_not_so_is_told_in_one_line(learn: Any, words: str) -> None:
    text = MIX.format(start="uniform", learn="")
    with pytest.raises(optdsl.OptionError, match=re.escape(words)) as caught:
        optdsl.compile(text, learn=learn)
    assert "\n" not in str(caught.value)


def test_a_vector_is_flat_only_if_all_its_weights_are() -> None:
    text = """\
optimizer Own
hyper lr = 0.1 in [0, inf)
hyper w = uniform on simplex(go, stay)
theta' = theta - lr * {update}
"""
    optimizer = optdsl.compile(text.format(update="w.go * g"), learn={"w": LEARN})(parameters())
    train(optimizer, range(3))
    metrics = optimizer.metrics()
    assert metrics["hypergradient/w_stay"] == 0
    assert metrics["w_stay"] != 0.5
    with pytest.raises(optdsl.OptionError, match=r"Own: w cannot be learned, .* always zero"):
        optdsl.compile(text.format(update="sign(w.go * g)"), learn={"w": LEARN})


@pytest.mark.parametrize("value", ["yes", 1, 0.0, None])
def test_exponentiated_is_yes_or_no(value: Any) -> None:
    with pytest.raises(optdsl.OptionError, match=r"exponentiated=.* should be a valid boolean"):
        Learn("sgd", exponentiated=value)


# --- the class ----------------------------------------------------------------------------------


def test_the_documentation_says_what_belongs_together() -> None:
    documentation = mix(STATED, start="0.5, 0.25, 0.25").__doc__
    assert documentation is not None
    assert documentation.splitlines()[-4:] == [
        "    lr: 0.05 by default, in [0, inf)",
        "    w_fast: 0.5 by default, in [0, 1]; one of the weights w, which sum to 1; "
        "learned by exponentiated sgd",
        "    w_slow: 0.25 by default, in [0, 1]; one of the weights w, which sum to 1; "
        "learned by exponentiated sgd",
        "    w_flat: 0.25 by default, in [0, 1]; one of the weights w, which sum to 1; "
        "learned by exponentiated sgd",
    ]


@pytest.mark.parametrize("exponentiated", [False, True])
def test_a_pickled_optimizer_goes_on_in_its_geometry(exponentiated: bool) -> None:
    params = [nn.Parameter(p.detach()) for p in parameters()]
    optimizer = mix(Learn("adam", lr=0.1, exponentiated=exponentiated))(params)
    train(optimizer, range(3))
    copy = pickle.loads(pickle.dumps(optimizer))
    train(optimizer, range(3, 6))
    train(copy, range(3, 6))
    assert fingerprint(copy) == fingerprint(optimizer)
