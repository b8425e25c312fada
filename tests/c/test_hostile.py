"""Names and texts of a specification that mean something in C."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import compiler
from optdsl.runtime.cache import shared_library
from tests.oracles import problems
from tests.oracles.running import read_text

# Keywords, macros, types and functions of C, and names that emitted files have used.
KEYWORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void
volatile while asm typeof bool true false complex imaginary main
"""
LIBRARY = """
INFINITY NAN HUGE_VAL FLT_MAX DBL_MAX FLT_EPSILON DBL_EPSILON NULL EOF EXIT_SUCCESS RAND_MAX M_PI
INT64_MAX UINT16_MAX FP_NAN errno I linux unix i386 assert offsetof va_list size_t int64_t uint32_t
uint16_t int32_t int8_t intptr_t double_t float_t div_t y0 y1 yn j0 j1 jn gamma lgamma erf hypot
cbrt fma fmin fmax floor ceil round trunc isnan isinf isfinite signbit fpclassify malloc free calloc
realloc memset memcpy memmove printf puts exit abort abs labs div rand index rindex
omp_get_num_threads omp pragma define include ifdef endif undef
"""
OURS = """
real element tensor load rounded bits row size memory x y u s i k l n w b f a c r acc out begin start
block blocks chunk first last low high middle total count rows threads hypers sums scalars partial
words odd careful quickly carefully share mean gap moved which left right way turned between chosen
mixed mixedd signd maximum minimum maximumd minimumd share_of folded add_products add_values holder
settle settle_and_step initialize step_block0 step_elements0 step_uniform BLOCK CHUNK LARGEST INLINE
APART pending theta_ g_ m_ m_new m__new theta_new theta__new per_lr x_1 x_2 x_3 u_1 hyper state_
constant value t_ t1 scale half small tiny found normal body \N{GREEK SMALL LETTER LAMDA}
\N{GREEK SMALL LETTER BETA}1 _ __ _Bool __LINE__ __func__
"""
NAMES = tuple(dict.fromkeys(f"{KEYWORDS} {LIBRARY} {OURS}".split()))
COMMON = {"double", "INFINITY", "load", "y0", "CHUNK", "EOF", "NULL", "errno", "I", "linux", "unix"}


def accepted(name: str) -> bool:
    """Whether the language takes it as a name at all."""
    try:
        read_text(f"optimizer A\nhyper {name} = 1\ntheta' = theta - {name} * g\n")
    except optdsl.SpecError:
        return False
    return True


TAKEN = tuple(name for name in NAMES if accepted(name))
# Six names at a time, in every role: hyperparameter, state, definition, function of a definition.
GROUPS = [TAKEN[i : i + 6] for i in range(0, len(TAKEN) - 5, 6)]

TEMPLATE = """\
optimizer Names
hyper lr = 0.1 in [0, 1]
hyper {a} = 0.3 in [0, 1]
hyper {b} = 0.7 in [0, 1]
state {c} = 0
state {d} : scalar = 0
{c}' = ema({c}, g, {a})
{d}' = {d} + norm(g * {b})
{e} = {c}' / (1 + {b}) + where({d}' > {a}, {d}', {b})
{f} = tanh({e}) * {a} + sign({c}')
theta' = theta - lr * ({e} + {f} / {b})
"""


def run(text: str, backend: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[float]]:
    """Some steps, all that can be learned measured."""
    program = read_text(text)
    learn = {h: optdsl.Learn("sgd", after=10**9) for h in problems.continuous(program) if h != "lr"}
    generator = problems.seeded(0)
    parameter = nn.Parameter(problems.randn(generator, 19).to(dtype))
    optimizer = optdsl.compile(text, backend=backend, learn=learn)([parameter])
    for _ in range(3):
        parameter.grad = problems.randn(generator, 19).to(dtype)
        optimizer.step()
    return parameter.detach(), list(optimizer.metrics().values())


def test_most_names_are_names() -> None:
    assert set(TAKEN) >= COMMON
    assert len(TAKEN) > 200


@pytest.mark.parametrize("names", GROUPS, ids=",".join)
def test_names_of_c_are_names_like_any_other(names: tuple[str, ...]) -> None:
    results = {}
    for shift in (0, 3):
        roles = dict(zip("abcdef", names[shift:] + names[:shift], strict=True))
        text = TEMPLATE.format(**roles)
        for backend in ("eager", "c"):
            results[backend] = run(text, backend)
        (theta, sums), (expected, others) = results["c"], results["eager"]
        torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-13)
        assert sums == pytest.approx(others, rel=1e-11)


CITATIONS = {
    "the end of a comment": "*/ int x;",
    "twice": "*/*/ #error",
    "with a space": "* / */ static int broken(",
    "a comment": "/* // /*",
    "an include": "#include <no/such/header.h>",
    "a trailing backslash": "see page 3 \\\\",
    "a trigraph": "what??/",
    "the end by a trigraph": "*??/",
    "a star at the end": "five *",
    "a slash at the start": "/ and so on",
    "percent and braces": "%s {name} {0} %n }} {{",
    "not ASCII": "Élie, 学习, 🙂, \u202e",
    "nothing": " ",
}


@pytest.mark.parametrize("kind", CITATIONS)
def test_a_citation_is_only_text(kind: str) -> None:
    citation = CITATIONS[kind]
    text = (
        f'optimizer Cited\n  "{citation}"\n  "/ {citation}"\n  "{citation}"\ntheta\' = theta - g\n'
    )
    theta, _ = run(text, "c")
    assert torch.equal(theta, run(text, "eager")[0])


def test_the_name_of_a_rule_is_only_a_name() -> None:
    for name in ("Int", "double", "NULL", "linux", "step", "main", "errno", "A" * 300):
        text = f"optimizer {name}\ntheta' = theta - g\n"
        try:
            read_text(text)
        except optdsl.SpecError:
            continue
        assert torch.equal(run(text, "c")[0], run(text, "eager")[0])


NUMBERS = """\
optimizer Numbers
theta' = theta - g * (1e308 * 1e-308 + 1e-320 * 1e300 + 4.9e-324 + 0.1 + 123456789012345678
  + 1 / 3 + 2^-1074 + 1e22 - 1e22) - min(g, 1e400 - 1e399)
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numbers_are_what_they_say(dtype: torch.dtype) -> None:
    try:
        read_text(NUMBERS)
    except optdsl.SpecError:
        text = NUMBERS.replace(" - min(g, 1e400 - 1e399)", "")
    else:
        text = NUMBERS
    assert torch.equal(run(text, "c", dtype)[0], run(text, "eager", dtype)[0])


def test_a_library_shows_only_its_entry_points(tmp_path: Path) -> None:
    """A function of ours must not take the place of one of the process."""
    module = compiler.emit(optdsl.library.open_source("mada"), "c")
    library = ctypes.CDLL(str(shared_library(module.text, module.name)))
    for entry in module.entries:
        assert getattr(library, entry)
    defined = re.findall(r"^(?!static|typedef|enum|#)\w[\w *]*\b(\w+)\(", module.text, re.M)
    assert set(defined) <= set(module.entries)


def test_two_rules_of_one_name_do_not_meet() -> None:
    """Both are loaded, with the same entry points, and each calls its own."""
    texts = [f"optimizer Same\ntheta' = theta - {factor} * g\n" for factor in (2, 3)]
    classes = [optdsl.compile(text, backend="c") for text in texts]
    for cls, expected in zip(classes * 2, (-2.0, -3.0) * 2, strict=True):
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        cls([parameter]).step()
        assert parameter.item() == expected
