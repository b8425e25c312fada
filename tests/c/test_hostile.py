"""Names and texts of a specification that mean something in C."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import compiler
from optdsl.differentiate import moves
from optdsl.runtime.build.library_cache import shared_library
from optdsl.specifications.library import open_source
from tests.c import rules
from tests.oracles import problems
from tests.oracles.running import read_text

pytestmark = pytest.mark.broad(10)

# Keywords, macros, types and functions of C, and names that emitted files have used.
KEYWORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void
volatile while asm typeof bool true false complex imaginary main _Bool __LINE__ __func__ _ __
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
real element tensor load rounded bits row size memory x y u s i k l n w b f a c r acc out begin
start block blocks chunk first last low high middle total count rows threads hypers sums scalars
partial words odd careful quickly carefully share mean gap moved which left right way turned between
chosen mixed mixedd signd maximum minimum maximumd minimumd share_of folded add_products add_values
holder complete complete_and_step initialize step_block0 step_elements0 step_uniform BLOCK CHUNK
LARGEST take widen wide near part product room beside WIDE PART0 sign_of_number INLINE APART pending
theta_ g_ m_ m_new m__new theta_new theta__new per_lr x_1 x_2 x_3 u_1 hyper state_ constant value t_
t1 scale half small tiny found normal body λ β1
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
SIZE = 16
GROUPS = [TAKEN[i : i + SIZE] for i in range(0, len(TAKEN), SIZE)]


def as_hypers(names: Sequence[str]) -> str:
    """In elements, and on the host; the last one is learned."""
    lines = [f"hyper {x} = {k / 32 + 0.25} in [0, 1]" for k, x in enumerate(names)]
    terms = [f"{x} * (g - {x} / (1 + {x})) / (1 + {x})" for x in names]
    return "\n".join([*lines, "theta' = theta - (" + " + ".join(terms) + ")"])


def as_states(names: Sequence[str]) -> str:
    """Every second one is a number a tensor."""
    lines = ["hyper own_lr = 0.1 in [0, 1]"]
    for k, x in enumerate(names):
        lines.append(f"state {x}{' : scalar' if k % 2 else ''} = {k}")
    for k, x in enumerate(names):
        lines.append(f"{x}' = " + (f"{x} / 2 + norm(g + {k})" if k % 2 else f"ema({x}, g, 0.5)"))
    total = " + ".join(f"{x}'" for x in names)
    return "\n".join([*lines, f"theta' = theta - own_lr * ({total})"])


def as_definitions(names: Sequence[str]) -> str:
    """Of elements, of numbers of a tensor, and of numbers that are the same for all."""
    lines = ["hyper own_lr = 0.1 in [0, 1]", "hyper own = 0.5 in [0, 1]"]
    forms = ("g * own + {k}", "norm(g) * own + {k}", "own^2 / {k}", "where(g > own, g, {k})")
    for k, x in enumerate(names):
        lines.append(f"{x} = {forms[k % len(forms)].format(k=k + 1)}")
    return "\n".join([*lines, "theta' = theta - own_lr * (" + " + ".join(names) + ")"])


def run(text: str, backend: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, list[float]]:
    """Some steps; the hyper-gradient of the last hyperparameter is measured."""
    program = read_text(text)
    learned = [h for h in problems.continuous(program) if moves(program, h)][-1:]
    learn = {h: optdsl.Learn("sgd", after=10**9) for h in learned}
    generator = problems.seeded(0)
    place = {"dtype": dtype, "device": rules.device(backend)}
    parameter = nn.Parameter(problems.randn(generator, 19).to(**place))
    optimizer = optdsl.compile(text, backend=backend, learn=learn)([parameter])
    for _ in range(3):
        parameter.grad = problems.randn(generator, 19).to(**place)
        optimizer.step()
    return parameter.detach().cpu(), list(optimizer.metrics().values())


def test_most_names_are_names() -> None:
    assert set(TAKEN) >= COMMON
    assert len(TAKEN) > 200


@pytest.mark.parametrize("names", GROUPS, ids=",".join)
@pytest.mark.parametrize("role", [as_hypers, as_states, as_definitions])
def test_names_of_c_are_names_like_any_other(
    role: Callable[[Sequence[str]], str], names: tuple[str, ...]
) -> None:
    text = f"optimizer Names\n{role(names)}\n"
    (theta, sums), (expected, others) = (run(text, backend) for backend in ("c", "eager"))
    torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-11)
    assert sums == pytest.approx(others, rel=1e-11)
    assert len(sums) == 2


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
    "not ASCII": "Élie, 学习, 🙂",
    "nothing": " ",
}


@pytest.mark.parametrize("kind", CITATIONS)
def test_a_citation_is_only_text(kind: str) -> None:
    citation = CITATIONS[kind]
    lines = [f'  "{citation}"', f'  "/ {citation}"', f'  "{citation}"']
    text = "\n".join(["optimizer Cited", *lines, "theta' = theta - g", ""])
    theta, _ = run(text, "c")
    assert torch.equal(theta, run(text, "eager")[0])


@pytest.mark.parametrize("name", ["Int", "double", "NULL", "linux", "step", "main", "A" * 300])
def test_the_name_of_a_rule_is_only_a_name(name: str) -> None:
    text = f"optimizer {name}\ntheta' = theta - g\n"
    assert torch.equal(run(text, "c")[0], run(text, "eager")[0])


NUMBERS = """\
optimizer Numbers
theta' = theta - g * (1e308 * 1e-308 + 1e-320 * 1e300 + 4.9e-324 + 0.1 + 123456789012345678
  + 1 / 3 + 2^-1074 + 1e22 - 1e22)
"""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numbers_are_what_they_say(dtype: torch.dtype) -> None:
    ours, theirs = (run(NUMBERS, backend, dtype)[0] for backend in ("c", "eager"))
    assert bool(theirs.isfinite().all())
    torch.testing.assert_close(ours, theirs, rtol=4 * torch.finfo(dtype).eps, atol=0.0)


@pytest.mark.skipif(shutil.which("nm") is None, reason="there is no nm")
def test_a_library_shows_only_its_entry_points() -> None:
    """A function of ours must not take the place of one of the process."""
    module = compiler.emit(open_source("mada"), "c")
    library = shared_library(module.text, module.name)
    command = ["nm", "--dynamic", "--defined-only", str(library)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1] for line in shown.splitlines()}
    assert names - {"_init", "_fini"} == set(module.entries)


def test_two_rules_of_one_name_do_not_meet() -> None:
    """Both are loaded, with the same entry points, and each calls its own."""
    texts = [f"optimizer Same\ntheta' = theta - {factor} * g\n" for factor in (2, 3)]
    classes = [optdsl.compile(text, backend="c") for text in texts]
    for cls, expected in zip(classes * 2, (-2.0, -3.0) * 2, strict=True):
        parameter = nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        cls([parameter]).step()
        assert parameter.item() == expected
