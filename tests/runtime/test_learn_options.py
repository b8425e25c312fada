"""What cannot be learned, or not so, is refused in one line."""

import math
from typing import Any

import pytest

import optdsl
from optdsl import Learn

from .helpers import SPECS, parameters


def rho(rule: Any = "sgd", **options: Any) -> Any:
    """MADA's rho, learned in some way; the `Learn` itself may be what is refused."""
    return lambda: optdsl.load("mada_legacy", learn={"rho": Learn(rule, **options)})


def of(spec: str, learn: Any, **options: Any) -> Any:
    return lambda: optdsl.load(spec, learn=learn, **options)


UNIT = Learn("sgd", bounds=(0, 0.9))

WRONG: dict[str, tuple[Any, str]] = {
    "unknown rule": (rho("sdg"), "no rule is called 'sdg': did you mean `sgd`"),
    "unlike any rule": (rho("zzz"), "no rule is called 'zzz': there are .*adam, .*yogi"),
    "rule is no name": (rho(5), "rule=5 should be a valid string"),
    "unknown option": (rho(momentun=1), "'momentun': did you mean `momentum`"),
    "misspelt clip": (rho(clipp=1), "'clipp': did you mean `clip`"),
    "misspelt bounds": (rho(bound=(0, 1)), "'bound': did you mean `bounds`"),
    "option out of its domain": (rho(lr=-1), r"lr = -1 must lie in \[0, inf\)"),
    "option of another rule": (rho(beta1=0.5), "sgd has no hyperparameter 'beta1'"),
    "option is NaN": (rho(lr=math.nan), r"lr = nan must lie in \[0, inf\)"),
    "option is a word": (rho(lr="fast"), "lr = 'fast'"),
    "inverted bounds": (rho(bounds=(1, 0)), r"bounds=\(1.*, 0.*\) is empty"),
    "NaN in bounds": (rho(bounds=(math.nan, 1)), "bounds"),
    "three bounds": (rho(bounds=(0, 0.5, 1)), "bounds"),
    "one bound": (rho(bounds=0.5), "bounds=0.5 should be a valid tuple"),
    "bounds beyond the domain": (rho(bounds=(0, 2)), r"must lie within \[0, 1\]"),
    "endless bounds": (rho(bounds=(0, math.inf)), r"must lie within \[0, 1\]"),
    "bounds at infinity": (
        of("prodigy", {"growth_rate": Learn("sgd", bounds=(math.inf, math.inf))}),
        "holds no finite number",
    ),
    "negative clip": (rho(clip=-1), "clip=-1 should be greater than 0"),
    "clip of zero": (rho(clip=0), "clip=0 should be greater than 0"),
    "infinite clip": (rho(clip=math.inf), "clip=inf should be a finite number"),
    "NaN clip": (rho(clip=math.nan), "clip=nan"),
    "negative after": (rho(after=-1), "after=-1 should be greater than or equal to 0"),
    "half an after": (rho(after=1.5), "after=1.5 should be a valid integer"),
    "no Learn": (of("mada_legacy", {"rho": "sgd"}), r"learn\['rho'\] must be an optdsl.Learn"),
    "unknown hyperparameter": (of("adam", {"beta": UNIT}), "'beta' to learn: did you mean `beta"),
    "unknown name in a list": (of("mada_legacy", ["roh"]), "'roh' to learn: did you mean `rho`"),
    "not said how": (
        of("adam", ["beta1"]),
        'does not say how to learn beta1: write learn={"beta1"',
    ),
    "open domain": (of("adam", {"beta1": Learn("sgd")}), r"open end.*bounds=\(a, b\)"),
    "endless open domain": (of("adam", {"lr": Learn("sgd", bounds=(-1, 1))}), "must lie within"),
    "a choice": (of("sgd", {"nesterov": Learn("sgd")}), "cannot be learned by gradient descent"),
    "unknown backend": (
        of("adam", True, backend="cuda"),
        "backend='cuda' should be 'auto', 'eager', 'c' or 'triton'",
    ),
    "unknown order": (of("adam", True, order="Exact"), "order='Exact' should be"),
    **{
        f"{spec}'s {hyper}": (of(spec, {hyper: UNIT}), f"{hyper} cannot be learned.*always zero")
        for spec, hyper in [("lion", "beta1"), ("lion", "beta2"), ("yogi", "m0"), ("yogi", "v0")]
    },
}


@pytest.mark.parametrize(("make", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_a_value_error_of_one_line(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, optdsl.OptionError)


@pytest.mark.parametrize("learn", [None, 5, [["rho"]]])
def test_what_is_no_choice_at_all_is_named(learn: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="learn"):
        optdsl.load("mada_legacy", learn=learn)


def test_a_specification_that_learns_what_has_no_effect_is_refused() -> None:
    text = """\
optimizer Idle
hyper lr = 0.1
hyper w = 0.5 in [0, 1]
theta' = theta - lr * sign(g + w)
learn w by SGD(lr = 0.1)
"""
    with pytest.raises(optdsl.SpecError, match=r"`w` cannot be learned: .* is always zero"):
        optdsl.compile(text)


@pytest.mark.parametrize("rule", [*SPECS, "SGD", "AdamW", "MADA_Legacy", "mada-legacy"])
def test_every_rule_is_found_whatever_its_spelling(rule: str) -> None:
    assert rho(rule)()(parameters()).metrics()["rho"] == 0.0


def test_numbers_of_every_kind_are_accepted() -> None:
    numpy = pytest.importorskip("numpy")
    kinds = [numpy.float64, numpy.float32, numpy.int64, int, float]
    for one in (kind(1) for kind in kinds):
        cls = rho(lr=one, nesterov=True, clip=one, bounds=(0, one), after=1)()
        assert cls is rho(lr=1, nesterov=1, clip=1, bounds=(0, 1), after=1)()


def test_learning_options_are_values() -> None:
    assert Learn("sgd", lr=0.1, clip=None) == Learn("sgd", lr=0.1)
    assert Learn("sgd", lr=0.1) != Learn("sgd", lr=0.2)
    learn = Learn("sgd", lr=0.1)
    with pytest.raises(ValueError, match="frozen"):
        learn.clip = 3.0
