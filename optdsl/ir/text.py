"""Programs as text, for reading, for tests and for goldens: ``parse(print(p)) == p``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

from optdsl.ir.domain import Choice, Domain, Interval
from optdsl.ir.program import (
    Hyper,
    Learned,
    Operation,
    Program,
    Simplex,
    State,
    Tangent,
    Value,
)
from optdsl.ir.types import BY_NAME, TENSOR, Type


def print_program(program: Program) -> str:
    """One declaration, operation or result a line; results refer to values as ``%7``."""
    out = [f"program {program.name}"]
    out += [f"  doc {json.dumps(line)}" for line in program.documentation]
    out += [f"  hyper {h.name} = {h.default!r} in {_domain(h.domain)}" for h in program.hypers]
    out += [f"  simplex {_simplex(s)}" for s in program.simplexes]
    out += [f"  learn {_learned(x)}" for x in program.learned]
    for index, operation in enumerate(program.operations):
        words = [operation.opcode]
        if operation.attribute is not None:
            value = operation.attribute
            words.append(json.dumps(value) if isinstance(value, str) else repr(value))
        words += [f"%{a}" for a in operation.arguments]
        hint = f"  # {operation.hint}" if operation.hint else ""
        out.append(f"  %{index} = {' '.join(words)} : {operation.type}{hint}")
    for state in program.states:
        line = f"  state {state.name} : {state.type} from %{state.initial} to %{state.next}"
        out.append(line + (f" for {', '.join(state.origins)}" if state.origins else ""))
    out.append(f"  theta : {program.parameter_type} to %{program.parameter}")
    out += [f"  tangent {t.hyper} %{t.value}" for t in program.tangents]
    return "\n".join(out) + "\n"


def _domain(domain: Domain) -> str:
    if isinstance(domain, Choice):
        return "{" + ", ".join(repr(v) for v in domain.values) + "}"
    opening, closing = "(" if domain.lower_open else "[", ")" if domain.upper_open else "]"
    return f"{opening}{domain.lower!r}, {domain.upper!r}{closing}"


def _learned(x: Learned) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in x.options)
    clip = "" if x.clip is None else f" clip {x.clip!r}"
    by = "by exponentiated" if x.exponentiated else "by"
    scope = "" if x.scope == "optimizer" else f" per {x.scope}"
    signal = "" if x.signal == "raw" else f" on {x.signal}"
    where = f"{x.hyper}{scope} in {_domain(x.bounds)}"
    return f"{where} {by} {x.rule}({options}){clip}{signal} after {x.after}"


def _simplex(x: Simplex) -> str:
    pairs = zip(x.labels, x.hypers, strict=True)
    return f"{x.name} of {', '.join(f'{label} = {hyper}' for label, hyper in pairs)}"


class IRSyntaxError(ValueError):
    """A line that no program's text can have."""


def parse_program(text: str) -> Program:
    """Read what `print_program` wrote; hints come back too, spans do not.

    Raises:
        IRSyntaxError: with the number of the line.
    """
    reader = _Reader()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                reader.line(line.strip())
            except (ValueError, KeyError) as error:
                raise IRSyntaxError(f"line {number}: {line.strip()!r}: {error}") from error
    return reader.program()


# Plans make names with a slash, as in "pending/lr".
_NAME = r"[\w/]+"
_NUMBER = r"[-+.\w]+"
_DOMAIN = r"[\[({].*?[\])}]"
_OPERATION = re.compile(
    r'%(?P<index>\d+) = (?P<opcode>\w+)(?: (?P<attribute>"[^"]*"|[-+.\w]+))?'
    r"(?P<arguments>(?: %\d+)*) : (?P<type>[a-z ]+?)(?:  # (?P<hint>.*))?"
)


class _Reader:
    def __init__(self) -> None:
        self.name = ""
        self.documentation: list[str] = []
        self.hypers: list[Hyper] = []
        self.learned: list[Learned] = []
        self.operations: list[Operation] = []
        self.states: list[State] = []
        self.parameter = Value(-1)
        self.parameter_type = TENSOR
        self.tangents: list[Tangent] = []
        self.simplexes: list[Simplex] = []
        self._lines: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], None]], ...] = (
            (re.compile(r"program (\S+)"), self._program),
            (re.compile(r"doc (.*)"), self._doc),
            (re.compile(rf"hyper ({_NAME}) = ({_NUMBER}) in ({_DOMAIN})"), self._hyper),
            (
                re.compile(
                    rf"learn (\w+)(?: per (\w+))? in ({_DOMAIN}) by (exponentiated )?(\w+)\((.*)\)"
                    rf"(?: clip ({_NUMBER}))?(?: on (\w+))? after (\d+)"
                ),
                self._learn,
            ),
            (_OPERATION, self._operation),
            (re.compile(r"simplex (\S+) of (.*)"), self._simplex),
            (
                re.compile(rf"state ({_NAME}) : (\w+) from %(\d+) to %(\d+)(?: for (.*))?"),
                self._state,
            ),
            (re.compile(r"theta : (\w+) to %(\d+)"), self._theta),
            (re.compile(r"tangent (\w+) %(\d+)"), self._tangent),
        )

    def line(self, line: str) -> None:
        for pattern, action in self._lines:
            match = pattern.fullmatch(line)
            if match:
                action(match)
                return
        raise ValueError("not a line of a program")

    def program(self) -> Program:
        return Program(
            self.name,
            tuple(self.documentation),
            tuple(self.hypers),
            tuple(self.learned),
            tuple(self.operations),
            tuple(self.states),
            self.parameter,
            tuple(self.tangents),
            self.parameter_type,
            tuple(self.simplexes),
        )

    def _program(self, m: re.Match[str]) -> None:
        self.name = m[1]

    def _doc(self, m: re.Match[str]) -> None:
        self.documentation.append(json.loads(m[1]))

    def _hyper(self, m: re.Match[str]) -> None:
        self.hypers.append(Hyper(m[1], float(m[2]), _read_domain(m[3])))

    def _learn(self, m: re.Match[str]) -> None:
        hyper, scope, bounds_text, exponentiated, rule, listed, clip, signal, after = m.groups()
        bounds = _read_domain(bounds_text)
        if isinstance(bounds, Choice):
            raise ValueError("the bounds of learning are an interval")
        pairs = [option.split("=") for option in listed.split(", ") if option]
        options = tuple((name, float(value)) for name, value in pairs)
        self.learned.append(
            Learned(
                hyper,
                rule,
                options,
                None if clip is None else float(clip),
                bounds,
                int(after),
                exponentiated is not None,
                scope or "optimizer",
                signal or "raw",
            )
        )

    def _simplex(self, m: re.Match[str]) -> None:
        labels, hypers = zip(*(pair.split(" = ") for pair in m[2].split(", ")), strict=True)
        self.simplexes.append(Simplex(m[1], labels, hypers))

    def _operation(self, m: re.Match[str]) -> None:
        if int(m["index"]) != len(self.operations):
            raise ValueError(f"expected %{len(self.operations)}")
        attribute: float | str | None = None
        if m["attribute"]:
            quoted = m["attribute"].startswith('"')
            attribute = json.loads(m["attribute"]) if quoted else float(m["attribute"])
        arguments = tuple(Value(int(a[1:])) for a in m["arguments"].split())
        self.operations.append(
            Operation(m["opcode"], arguments, attribute, _read_type(m["type"]), m["hint"])
        )

    def _state(self, m: re.Match[str]) -> None:
        origins = tuple(m[5].split(", ")) if m[5] else ()
        kind, initial, after = _read_type(m[2]), Value(int(m[3])), Value(int(m[4]))
        self.states.append(State(m[1], kind, initial, after, origins))

    def _theta(self, m: re.Match[str]) -> None:
        self.parameter_type, self.parameter = _read_type(m[1]), Value(int(m[2]))

    def _tangent(self, m: re.Match[str]) -> None:
        self.tangents.append(Tangent(m[1], Value(int(m[2]))))


def _read_type(text: str) -> Type:
    extent, space, condition = text.partition(" ")
    if space and condition != "condition":
        raise ValueError(f"no type {text!r}")
    return Type(BY_NAME[extent].extent, condition=bool(space))


def _read_domain(text: str) -> Domain:
    numbers = [float(n) for n in text[1:-1].split(", ")]
    if text[0] == "{":
        return Choice(tuple(numbers))
    lower, upper = numbers
    if math.isnan(lower) or math.isnan(upper):
        raise ValueError("a bound is not a number")
    return Interval(lower, upper, text[0] == "(", text[-1] == ")")
