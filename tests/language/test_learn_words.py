"""`learn ... per ... on ...`: for what a coefficient is learned, and what its rule follows."""

import pytest

import optdsl
from optdsl import Learn
from optdsl.diagnostics import Source
from optdsl.ir.program import Learned
from optdsl.ir.text import parse_program, print_program
from optdsl.specifications import library
from optdsl.syntax.format import format
from optdsl.syntax.parse import parse

SPEC = """\
optimizer Own
  "somewhere"

hyper lr = 0.1 in [0, 1]

theta' = theta - lr * g

{}
"""


def learned(statement: str) -> Learned:
    (entry,) = library.read(Source("own.opt", SPEC.format(statement))).learned
    return entry


@pytest.mark.parametrize("signal", ["raw", "sign", "cosine", "normalized"])
@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_the_words_are_those_of_python(scope: str, signal: str) -> None:
    text = SPEC.format(f"learn lr per {scope} in [0, 0.5] by SGD(lr = 1) on {signal} after 7")
    assert format(parse(Source("own.opt", text))) == text
    program = library.read(Source("own.opt", text))
    assert parse_program(print_program(program)) == program
    how = Learn("sgd", lr=1, bounds=(0, 0.5), after=7, scope=scope, signal=signal)
    assert optdsl.compile(text, learn={"lr": how}) is optdsl.compile(text)
    (entry,) = program.learned
    assert (entry.scope, entry.signal) == (scope, signal)


def test_each_word_may_be_left_out() -> None:
    default = learned("learn lr by SGD")
    assert (default.scope, default.signal) == ("optimizer", "raw")
    assert learned("learn lr by SGD on raw") == default
    assert learned("learn lr per tensor by SGD").scope == "tensor"
    assert learned("learn lr by SGD on sign after 3").signal == "sign"


def test_a_horizon() -> None:
    text = SPEC.format("learn lr by SGD(lr = 1) on sign after 7 horizon 0.9 sample 1/8")
    assert format(parse(Source("own.opt", text))) == text
    program = library.read(Source("own.opt", text))
    assert program.learned[0].horizon == 0.9
    assert parse_program(print_program(program)) == program
    how = Learn("sgd", lr=1, after=7, signal="sign", horizon=0.9, sample=8)
    assert optdsl.compile(text, learn={"lr": how}) is optdsl.compile(text)
    assert "with the horizon 0.9" in str(optdsl.compile(text).__doc__)


def test_a_hyperparameter_may_be_called_horizon() -> None:
    """The word is reserved where a number follows it, and nowhere else."""
    text = SPEC.format("hyper horizon = 3 in [1, 9]\n\nlearn horizon by SGD horizon 1")
    (entry,) = library.read(Source("own.opt", text.replace("lr * g", "lr * g / horizon"))).learned
    assert (entry.hyper, entry.horizon) == ("horizon", 1.0)


def test_what_is_learned_so_is_shown_so() -> None:
    cls = optdsl.compile(SPEC.format("learn lr per group by SGD(lr = 1) on cosine"))
    assert "learned by sgd in [0, 1], on its cosine, for each group" in str(cls.__doc__)


def test_a_blend_learns_its_weights_and_members_so() -> None:
    text = """\
blend Two
use SGD, Lion
hyper w = uniform on simplex(SGD, Lion)
theta' = w.SGD * SGD.theta' + w.Lion * Lion.theta'
learn w per tensor by SGD(lr = 0.1) on sign
learn Lion.lr per group in [0, 1] by SGD
"""
    program = library.read(Source("two.opt", text))
    found = {x.hyper: (x.scope, x.signal) for x in program.learned}
    assert found == {
        "w_sgd": ("tensor", "sign"),
        "w_lion": ("tensor", "sign"),
        "lion_lr": ("group", "raw"),
    }


@pytest.mark.parametrize(
    ("statement", "how"),
    [
        ("learn lr by SGD(momentun = 1)", Learn("sgd", momentun=1)),
        ("learn lr by SGD(momentum = -1)", Learn("sgd", momentum=-1)),
        ("learn lr in [0, 2] by SGD", Learn("sgd", bounds=(0, 2))),
        ("learn lr by exponentiated SGD", Learn("sgd", exponentiated=True)),
    ],
)
def test_mistakes_are_told_in_the_words_of_python(statement: str, how: Learn) -> None:
    with pytest.raises(optdsl.SpecError) as written:
        optdsl.compile(SPEC.format(statement))
    with pytest.raises(optdsl.OptionError) as asked:
        optdsl.compile(SPEC.format(""), learn={"lr": how})
    (diagnostic,) = written.value.diagnostics
    assert diagnostic.message.replace("`", "'") in str(asked.value)


def test_a_sample_is_written_once_for_all_that_is_learned() -> None:
    text = SPEC.format(
        "learn sample 1/8\nlearn lr in [0, 0.5] by SGD(lr = 1) on sign after 7 sample 1/8"
    )
    assert format(parse(Source("own.opt", text))) == text
    program = library.read(Source("own.opt", text))
    assert parse_program(print_program(program)) == program
    assert program.sample == 8
    once = SPEC.format("learn lr in [0, 0.5] by SGD(lr = 1) on sign after 7 sample 1/8")
    assert library.read(Source("own.opt", once)) == program
    how = Learn("sgd", lr=1, bounds=(0, 0.5), after=7, signal="sign", sample=8)
    assert optdsl.compile(text, learn={"lr": how}) is optdsl.compile(text)
    assert "from 1/8 of large tensors" in str(optdsl.compile(text).__doc__)


def test_a_sample_holds_for_everything_that_an_optimizer_learns() -> None:
    text = "optimizer Mine = MADA with warmup\n{}learn eps in [0, 1e-3] by SGD(lr = 1e-9)\n"
    assert {x.sample for x in library.read(Source("a.opt", text.format(""))).learned} == {1}
    sampled = library.read(Source("a.opt", text.format("learn sample 1/16\n"))).learned
    assert len(sampled) > 1
    assert {x.sample for x in sampled} == {16}
    learn = {"lr": Learn("sgd", bounds=(0, 1), sample=4), "beta1": Learn("sgd", bounds=(0, 0.5))}
    class_ = optdsl.load("adam", learn=learn)
    assert {x.sample for x in class_.compiled.program.learned} == {4}


@pytest.mark.parametrize("sample", [0, -8, 2.5, 65537, True, "8"])
def test_a_sample_in_python_is_a_whole_number(sample: object) -> None:
    with pytest.raises(optdsl.OptionError, match="sample="):
        Learn("sgd", sample=sample)


def test_two_samples_are_refused_in_python() -> None:
    learn = {
        "lr": Learn("sgd", bounds=(0, 1), sample=4),
        "beta1": Learn("sgd", bounds=(0, 0.99), sample=8),
    }
    with pytest.raises(optdsl.OptionError, match="sample=4 for lr, and sample=8 for beta1"):
        optdsl.load("adam", learn=learn)
