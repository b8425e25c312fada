"""The laws of a well-formed program, checked around every rewrite."""

from __future__ import annotations

from collections.abc import Iterable

from optdsl.ir.domain import SUM_TOLERANCE, Choice
from optdsl.ir.draws import DISTRIBUTIONS
from optdsl.ir.laws import Stage
from optdsl.ir.ops import ANY, DRAWS, TABLE, laws_of
from optdsl.ir.program import Operation, Program
from optdsl.ir.storage import CODECS
from optdsl.ir.types import LENGTHS, UNIFORM, Extent, TypeMismatch
from optdsl.words import SCOPES, SIGNALS


class InvalidProgram(Exception):
    """A rewrite broke the program: a defect of the compiler, never of a specification."""


def verify(program: Program) -> Program:
    """Return the program when it is well formed.

    Raises:
        InvalidProgram: with what is wrong and at which operation.
    """
    _unique("hyperparameter", (h.name for h in program.hypers))
    _unique("state", (s.name for s in program.states))
    _unique("learned hyperparameter", (x.hyper for x in program.learned))
    _unique("tangent", (x.hyper for x in program.tangents))
    _unique("section", program.sections)
    if program.codec and not getattr(CODECS.get(program.codec), "of_parameters", False):
        raise InvalidProgram(f"no parameter is stored as {program.codec}")
    hypers = {h.name for h in program.hypers}
    states = {s.name: s.type for s in program.states}
    _unique("axis", (name for name, _ in program.axes))
    own = {name for name, _ in program.axes}
    for index, operation in enumerate(program.operations):
        if not own.issuperset(operation.type.own_axes):
            raise InvalidProgram(f"%{index} extends along no axis: {operation.type}")
        _operation(program, index, operation)
        if operation.opcode == "hyper" and operation.attribute not in hypers:
            raise InvalidProgram(f"%{index} reads no hyperparameter: {operation.attribute}")
        if operation.opcode == "state" and operation.attribute not in states:
            raise InvalidProgram(f"%{index} reads no state: {operation.attribute}")
        if operation.opcode == "section" and not program.sections:
            raise InvalidProgram(f"%{index}: the program has no sections")
        if TABLE[operation.opcode].stage is Stage.BUFFER:
            name = operation.attribute
            kind = program.parameter_type if name is None else states[str(name)]
            if operation.type != kind:
                what = name or f"the {operation.opcode}"
                raise InvalidProgram(f"%{index} reads {what} as {operation.type}")
    for hyper in program.hypers:
        if hyper.default not in hyper.domain:
            raise InvalidProgram(f"{hyper.name} = {hyper.default} is outside {hyper.domain}")
    _unique("equation", (str(o.attribute) for o in program.operations if o.opcode == "define"))
    _simplexes(program, hypers)
    _results(program, hypers)
    return program


def _simplexes(program: Program, hypers: set[str]) -> None:
    _unique("weight", (h for s in program.simplexes for h in s.hypers))
    for simplex in program.simplexes:
        if not set(simplex.hypers) <= hypers or len(simplex.labels) != len(simplex.hypers):
            raise InvalidProgram(f"{simplex.name} weighs no hyperparameters")
        total = sum(program.hyper(h).default for h in simplex.hypers)
        if abs(total - 1) > SUM_TOLERANCE:
            raise InvalidProgram(f"the weights {simplex.name} sum to {total}")
        entries = [x for x in program.learned if x.hyper in simplex.hypers]
        ways = {(x.exponentiated, x.scope, x.signal, x.horizon) for x in entries}
        learned = {x.hyper for x in program.learned} & set(simplex.hypers)
        if learned not in (set(), set(simplex.hypers)) or len(ways) > 1:
            raise InvalidProgram(f"a part of the weights {simplex.name} is learned")
    for entry in program.learned:
        if entry.exponentiated and program.simplex_of(entry.hyper) is None:
            raise InvalidProgram(f"{entry.hyper} is no weight")
        if entry.scope not in SCOPES or entry.signal not in SIGNALS:
            raise InvalidProgram(f"{entry.hyper} has no such scope or signal")
        if not 0 <= entry.horizon <= 1:
            raise InvalidProgram(f"{entry.hyper} has a horizon outside [0, 1]")
        if entry.sample < 1 or entry.sample != program.sample:
            raise InvalidProgram(f"{entry.hyper} is learned from another sample, or from none")


def _unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidProgram(f"two of the {what} {name}")
        seen.add(name)


def _operation(program: Program, index: int, operation: Operation) -> None:
    row = TABLE.get(operation.opcode)
    if row is None:
        raise InvalidProgram(f"%{index}: no operation {operation.opcode}")
    count = len(operation.arguments)
    if count != row.arity and not (row.arity == ANY and count > 0 and count % 2 == 0):
        raise InvalidProgram(f"%{index}: {row.opcode} takes {row.arity} arguments")
    if row.attribute is None and operation.attribute is not None:
        raise InvalidProgram(f"%{index}: {row.opcode} takes no attribute")
    if row.attribute is not None and not isinstance(operation.attribute, row.attribute):
        raise InvalidProgram(f"%{index}: {row.opcode} needs a {row.attribute.__name__}")
    if any(not 0 <= a < index for a in operation.arguments):
        raise InvalidProgram(f"%{index}: an argument is not defined before its use")
    if operation.opcode == "length" and operation.attribute not in LENGTHS:
        raise InvalidProgram(f"%{index}: no axis {operation.attribute}")
    if row.leaf or row.declared:
        if operation.type.condition:
            raise InvalidProgram(f"%{index}: {row.opcode} is a number, not a condition")
        if any(program.type(a) != UNIFORM for a in operation.arguments):
            raise InvalidProgram(f"%{index}: {row.opcode} takes uniform numbers")
        if row.stage is Stage.DRAW:
            _draw(index, operation)
        return
    try:
        kind = row.infer(tuple(program.type(a) for a in operation.arguments))
    except TypeMismatch as error:
        raise InvalidProgram(f"%{index}: {error.message}") from error
    if kind != operation.type:
        raise InvalidProgram(f"%{index}: {row.opcode} makes {kind}, not {operation.type}")


def _draw(index: int, operation: Operation) -> None:
    """Numbers are drawn from a known distribution, under a name, and for each tensor."""
    distribution, _, name = str(operation.attribute).partition(" ")
    if distribution not in DISTRIBUTIONS or not name:
        raise InvalidProgram(f"%{index} draws no numbers: {operation.attribute}")
    if operation.type.extent <= Extent.SHARED:
        raise InvalidProgram(f"%{index} draws a number that is the same for all tensors")


def _results(program: Program, hypers: set[str]) -> None:
    count = len(program.operations)
    for value in program.results:
        if not 0 <= value < count:
            raise InvalidProgram(f"a result is no value: %{value}")
        if program.type(value).condition:
            raise InvalidProgram(f"the result %{value} is a condition")
    for state in program.states:
        if any(not 0 <= n < len(program.sections) for n in state.sections):
            raise InvalidProgram(f"state {state.name} is of no section")
        if state.codec and not getattr(CODECS.get(state.codec), "of_states", False):
            raise InvalidProgram(f"state {state.name} is stored as no {state.codec}")
        for value in (state.initial, state.next):
            if not program.type(value).fits(state.type):
                raise InvalidProgram(f"state {state.name} is a {state.type}")
    for value in program.needed(tuple(length for _, length in program.axes)):
        operation = program.operations[value]
        if operation.type.spans or TABLE[operation.opcode].stage is Stage.BUFFER:
            raise InvalidProgram(f"the length of an axis is no number of the host: %{value}")
    for value in program.needed(program.initial_values):
        if not laws_of(program.operations[value]).initial:
            raise InvalidProgram(f"an initial value reads %{value}, which is not there yet")
    for value in program.needed(program.points):
        if program.operations[value].opcode == "gradient":
            raise InvalidProgram(f"the point of evaluation reads the gradient: %{value}")
        if program.operations[value].opcode in DRAWS:
            raise InvalidProgram(f"the point of evaluation is drawn at random: %{value}")
    for learned in program.learned:
        if learned.hyper not in hypers:
            raise InvalidProgram(f"learns no hyperparameter: {learned.hyper}")
        domain = program.hyper(learned.hyper).domain
        if isinstance(domain, Choice) or not domain.includes(learned.bounds):
            raise InvalidProgram(f"{learned.hyper} is learned outside {domain}")
    for tangent in program.tangents:
        if tangent.hyper not in hypers:
            raise InvalidProgram(f"tangent by no hyperparameter: {tangent.hyper}")
