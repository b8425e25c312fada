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


@pytest.mark.parametrize("signal", ["raw", "sign", "cosine"])
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
