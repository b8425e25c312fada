"""The program: its laws, its text, its table of operations, its ranges."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st

from optdsl.compiler import BACKENDS, derive
from optdsl.diagnostics import Source
from optdsl.differentiate import differentiate
from optdsl.interpret import spellings
from optdsl.ir import intervals, signatures
from optdsl.ir.domain import Choice, Interval
from optdsl.ir.ops import APPLY, DRAWS, OF_MATRICES, TABLE, TOTALS, UNCOMPILED
from optdsl.ir.program import Hyper, Program, Tangent, Value
from optdsl.ir.ranges import ranges
from optdsl.ir.text import IRSyntaxError, parse_program, print_program
from optdsl.ir.types import SCALAR, UNIFORM
from optdsl.ir.verify import InvalidProgram, verify
from optdsl.passes.scalarize import scalarize
from optdsl.specifications import library
from tests.oracles.rules import ELEMENTWISE

SPECS = ELEMENTWISE


def program(name: str = "adam") -> Program:
    return library.read(library.open_source(name))


def test_every_operation_is_spelled_everywhere() -> None:
    assert spellings() == set(TABLE)
    # Sums over all tensors are taken out of programs before kernels are made.
    emitted = set(TABLE) - TOTALS
    for backend in BACKENDS.values():
        # Conditions, leaves and reductions included; what compiled kernels of matrices add to the
        # operations on elements is tried with each of them in tests/c and tests/triton.
        known = emitted if backend.name == "eager" else emitted - OF_MATRICES - UNCOMPILED
        known = known - DRAWS if backend.name == "triton" else known
        assert backend.spellings() == known, backend.name


def test_every_row_has_a_meaning_and_a_unique_function() -> None:
    functions = [row.function for row in TABLE.values() if row.function]
    assert len(functions) == len(set(functions))
    assert all(row.meaning for row in TABLE.values())


@pytest.mark.parametrize("name", SPECS)
def test_text_round_trip(name: str) -> None:
    lowered = program(name)
    everything = [h.name for h in lowered.hypers]
    for p in (lowered, differentiate(lowered, everything), derive(library.open_source(name)),
              scalarize(replace(lowered, learned=()))):  # fmt: skip
        assert parse_program(print_program(p)) == p


def test_text_of_a_small_program_reads_as_shown() -> None:
    text = 'optimizer A\n  "doc"\nhyper lr = 0.1 in [0, 1]\ntheta\' = theta - lr * g\n'
    assert print_program(library.read(Source("a.opt", text))) == (
        "program A\n"
        '  doc "doc"\n'
        "  hyper lr = 0.1 in [0.0, 1.0]\n"
        "  %0 = parameter : tensor  # theta\n"
        '  %1 = hyper "lr" : uniform  # lr\n'
        "  %2 = gradient : tensor  # g\n"
        "  %3 = mul %1 %2 : tensor\n"
        "  %4 = sub %0 %3 : tensor\n"
        "  %5 = define \"theta'\" %4 : tensor  # theta'\n"
        "  theta : tensor to %5\n"
    )


def test_text_has_the_point_of_evaluation() -> None:
    lowered = program("schedule_free_adamw")
    assert lowered.evaluation == lowered.equations["eval"]
    assert print_program(lowered).endswith(f"\n  eval to %{lowered.evaluation}\n")
    assert scalarize(replace(lowered, learned=())).evaluation is None
    derived = derive(library.open_source("schedule_free_adamw"))
    assert derived.evaluation is not None
    assert "eval to" not in print_program(program("adam"))


@pytest.mark.parametrize("line", ["%0 = add : tensor extra", "hyper x = 1", "%7 = step : uniform"])
def test_text_that_is_no_program_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(IRSyntaxError, match="line 2"):
        parse_program(f"program A\n  {line}\n")


def broken() -> dict[str, Program]:
    p = program()
    ops = list(p.operations)
    last = len(ops)

    def changed(index: int, **fields: object) -> Program:
        new = [replace(o, **fields) if i == index else o for i, o in enumerate(ops)]
        return replace(p, operations=tuple(new))

    add = next(i for i, o in enumerate(ops) if o.opcode == "add")
    state = next(i for i, o in enumerate(ops) if o.opcode == "state")
    hyper = next(i for i, o in enumerate(ops) if o.opcode == "hyper")
    return {
        "no operation": changed(add, opcode="plus"),
        "takes 2 arguments": changed(add, arguments=(Value(0),)),
        "not defined before": changed(add, arguments=(Value(0), Value(last - 1))),
        "makes tensor, not scalar": changed(add, type=SCALAR),
        "reads no state": changed(state, attribute="nothing"),
        "reads m as scalar": changed(state, type=SCALAR),
        "reads no hyperparameter": changed(hyper, attribute="nothing"),
        "no value": replace(p, parameter=Value(last)),
        "outside": replace(p, hypers=(Hyper("lr", 2.0, Interval(0, 1)), *p.hypers[1:])),
        "two of the hyperparameter": replace(p, hypers=p.hypers + p.hypers[:1]),
        "two of the state": replace(p, states=p.states + p.states[:1]),
        "not there yet": replace(
            p, states=(replace(p.states[0], initial=p.parameter), *p.states[1:])
        ),
        "reads the gradient": replace(p, evaluation=p.parameter),
        "tangent by no": replace(p, tangents=(Tangent("nothing", Value(0)),)),
        "takes no attribute": changed(add, attribute=1.0),
        "needs a str": changed(hyper, attribute=1.0),
        "as uniform": replace(p, operations=tuple(
            replace(o, type=UNIFORM) if o.opcode == "gradient" else o for o in ops
        )),
    }  # fmt: skip


@pytest.mark.parametrize("complaint", broken())
def test_the_verifier_refuses_what_is_not_well_formed(complaint: str) -> None:
    verify(program())
    with pytest.raises(InvalidProgram, match=complaint):
        verify(broken()[complaint])


finite = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def inside(draw: st.DrawFn) -> tuple[Interval, float]:
    """An interval, and a number in it."""
    value = draw(finite)
    lower = draw(st.floats(max_value=value, allow_nan=False))
    upper = draw(st.floats(min_value=value, allow_nan=False))
    return Interval(lower, upper, lower < value and draw(st.booleans()),
                    upper > value and draw(st.booleans())), value  # fmt: skip


ELEMENTWISE = [
    row
    for row in TABLE.values()
    if row.infer is signatures.elementwise and row.opcode not in OF_MATRICES
]
UNARY = [row.opcode for row in ELEMENTWISE if row.arity == 1]
BINARY = [row.opcode for row in ELEMENTWISE if row.arity == 2]


@given(st.sampled_from(UNARY + BINARY), inside(), inside())
def test_ranges_enclose_what_operations_make(
    opcode: str, x: tuple[Interval, float], y: tuple[Interval, float]
) -> None:
    drawn = (x, y)[: TABLE[opcode].arity]
    result = APPLY[opcode](*(value for _, value in drawn))
    enclosure = TABLE[opcode].interval(*(interval for interval, _ in drawn))
    if math.isnan(result):
        return
    # Open ends are of real arithmetic: rounding can reach them.
    closed = Interval(enclosure.lower, enclosure.upper)
    slack = 1e-12 * max(abs(result), 1e-300) if math.isfinite(result) else 0.0
    assert Interval(closed.lower - slack, closed.upper + slack).includes(
        Interval(result, result)
    ) or math.isinf(result)


def test_bias_correction_never_divides_by_zero() -> None:
    found = ranges(program())
    divisors = [o.arguments[1] for o in program().operations if o.opcode == "div"]
    corrections = [found[d] for d in divisors if program().type(d) == UNIFORM]
    assert len(corrections) == 2
    assert all(intervals.excludes_zero(r) and r.upper == 1 for r in corrections)


@given(st.sampled_from(UNARY + BINARY), st.floats(), st.floats())
def test_host_arithmetic_is_that_of_tensors(opcode: str, x: float, y: float) -> None:
    numbers = (x, y)[: TABLE[opcode].arity]
    result = APPLY[opcode](*numbers)
    from optdsl.interpret import _APPLY

    expected = float(_APPLY[opcode](*(torch.tensor(n, dtype=torch.float64) for n in numbers)))
    if math.isnan(expected) or math.isinf(expected):
        assert repr(result) == repr(expected) or (math.isnan(result) and math.isnan(expected))
    else:
        assert result == pytest.approx(expected, rel=1e-13, abs=5e-324)


def test_a_choice_is_its_values() -> None:
    assert 1 in Choice((0.0, 1.0))
    assert 0.5 not in Choice((0.0, 1.0))
    assert str(Choice((0.0, 1.0))) == "{0, 1}"
