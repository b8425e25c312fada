"""Programs as text, for reading, for tests and for goldens: ``parse(print(p)) == p``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from optdsl.ir.domain import Choice, Domain, Interval, labelled
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
from optdsl.ir.types import TENSOR, Type, read_type


def print_program(program: Program) -> str:
    """One declaration, operation or result a line; results refer to values as ``%7``."""
    out = [f"program {program.name}"]
    out += [f"  doc {json.dumps(line)}" for line in program.documentation]
    out += [f"  section {kind}" for kind in program.sections]
    out += [f"  kind {program.kind}"] if program.kind else []
    out += [f"  structure {name} = {value!r}" for name, value in program.structure]
    out += [f"  hyper {h.name} = {h.default!r} in {h.domain.written(repr)}" for h in program.hypers]
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
        line += f" in {' '.join(map(str, state.sections))}" if state.sections else ""
        line += " given" if state.input else ""
        line += f" as {state.codec}" if state.codec else ""
        out.append(line + (f" for {', '.join(state.origins)}" if state.origins else ""))
    out.append(f"  theta : {program.parameter_type} to %{program.parameter}")
    out += [f"  tangent {t.hyper} %{t.value}" for t in program.tangents]
    out += [f"  stored as {program.codec}"] if program.codec else []
    out += [f"  axis {name} %{length}" for name, length in program.axes]
    out += [f"  eval to %{value}" for value in program.points]
    return "\n".join(out) + "\n"


def _learned(x: Learned) -> str:
    options = ", ".join(f"{name}={value!r}" for name, value in x.options)
    clip = "" if x.clip is None else f" clip {x.clip!r}"
    by = "by exponentiated" if x.exponentiated else "by"
    scope = "" if x.scope == "optimizer" else f" per {x.scope}"
    signal = "" if x.signal == "raw" else f" on {x.signal}"
    sample = "" if x.sample == 1 else f" sample 1/{x.sample}"
    horizon = "" if x.horizon == 0 else f" horizon {x.horizon!r}"
    where = f"{x.hyper}{scope} in {x.bounds.written(repr)}"
    return f"{where} {by} {x.rule}({options}){clip}{signal} after {x.after}{horizon}{sample}"


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
    found: dict[str, list[Any]] = {field: [] for field, _, _ in _LINES}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                _read_line(line.strip(), found)
            except (ValueError, KeyError) as error:
                raise IRSyntaxError(f"line {number}: {line.strip()!r}: {error}") from error
    single = (found.pop(field) for field in ("name", "parameter", "kind", "evaluation", "codec"))
    names, results, kinds, points, codecs = single
    parts = {field: tuple(values) for field, values in found.items()}
    kind, parameter = results[-1] if results else (TENSOR, Value(-1))
    name, own, codec = (x[-1] if x else "" for x in (names, kinds, codecs))
    point = points[-1] if points else None
    return Program(
        name,
        parameter=parameter,
        parameter_type=kind,
        kind=own,
        evaluation=point,
        codec=codec,
        **parts,
    )


def _read_line(line: str, found: dict[str, list[Any]]) -> None:
    for field, pattern, read in _LINES:
        match = pattern.fullmatch(line)
        if match:
            if field == "operations" and int(match["index"]) != len(found[field]):
                raise ValueError(f"expected %{len(found[field])}")
            found[field].append(read(match))
            return
    raise ValueError("not a line of a program")


def _read_learned(m: re.Match[str]) -> Learned:
    hyper, scope, bounds_text, exponentiated, rule, listed, clip, signal, *rest = m.groups()
    after, horizon, sample = rest
    bounds = _read_domain(bounds_text)
    if isinstance(bounds, Choice):
        raise ValueError("the bounds of learning are an interval")
    pairs = [option.split("=") for option in listed.split(", ") if option]
    return Learned(
        hyper,
        rule,
        tuple((name, float(value)) for name, value in pairs),
        None if clip is None else float(clip),
        bounds,
        int(after),
        exponentiated is not None,
        scope or "optimizer",
        signal or "raw",
        int(sample or 1),
        float(horizon or 0.0),
    )


def _read_simplex(m: re.Match[str]) -> Simplex:
    labels, hypers = zip(*(pair.split(" = ") for pair in m[2].split(", ")), strict=True)
    return Simplex(m[1], labels, hypers)


def _read_operation(m: re.Match[str]) -> Operation:
    attribute: float | str | None = None
    if m["attribute"]:
        quoted = m["attribute"].startswith('"')
        attribute = json.loads(m["attribute"]) if quoted else float(m["attribute"])
    arguments = tuple(Value(int(a[1:])) for a in m["arguments"].split())
    return Operation(m["opcode"], arguments, attribute, _read_type(m["type"]), m["hint"])


def _read_state(m: re.Match[str]) -> State:
    sections = tuple(map(int, m[5].split())) if m[5] else ()
    origins = tuple(m[8].split(", ")) if m[8] else ()
    first, after = Value(int(m[3])), Value(int(m[4]))
    return State(m[1], _read_type(m[2]), first, after, origins, sections, bool(m[6]), m[7] or "")


def _read_type(text: str) -> Type:
    name = text.removesuffix(" condition")
    # The names of declared axes stand after the operations, and are checked with the program.
    kind = read_type(name, own=name.split(" * "))
    if kind is None:
        raise ValueError(f"no type {text!r}")
    return replace(kind, condition=name != text)


def _read_domain(text: str) -> Domain:
    whole = ", ..., " in text
    if text[0] == "{" and text[1].isalpha() and text[1:4] != "inf":
        return labelled(tuple(text[1:-1].split(", ")))
    numbers = [float(n) for n in text[1:-1].replace(" ...,", "").split(", ")]
    if text[0] == "{" and not whole:
        return Choice(tuple(numbers))
    lower, upper = numbers
    if math.isnan(lower) or math.isnan(upper):
        raise ValueError("a bound is not a number")
    return Interval(lower, upper, text[0] == "(", text[-1] == ")", whole)


# Plans make names with a slash, as in "pending/lr".
_NAME = r"[\w/]+"
_TYPE = r"\w+(?: \* \w+)*(?: condition)?"
_NUMBER = r"[-+.\w]+"
_DOMAIN = r"[\[({].*?[\])}]"
# For each kind of line: the field of the program that it is for, its form, and what it says.
_LINES: list[tuple[str, re.Pattern[str], Callable[[re.Match[str]], object]]] = [
    (field, re.compile(pattern), read)
    for field, pattern, read in (
        ("name", r"program (\S+)", lambda m: m[1]),
        ("documentation", "doc (.*)", lambda m: json.loads(m[1])),
        ("sections", r"section (\w+(?: \w+)*)", lambda m: m[1]),
        ("structure", rf"structure (\w+) = ({_NUMBER})", lambda m: (m[1], float(m[2]))),
        ("kind", r"kind (\w+(?: \w+)*)", lambda m: m[1]),
        (
            "hypers",
            rf"hyper ({_NAME}) = ({_NUMBER}) in ({_DOMAIN})",
            lambda m: Hyper(m[1], float(m[2]), _read_domain(m[3])),
        ),
        (
            "learned",
            rf"learn (\w+)(?: per (\w+))? in ({_DOMAIN}) by (exponentiated )?(\w+)\((.*)\)"
            rf"(?: clip ({_NUMBER}))?(?: on (\w+))? after (\d+)(?: horizon ({_NUMBER}))?"
            r"(?: sample 1/(\d+))?",
            _read_learned,
        ),
        (
            "operations",
            r'%(?P<index>\d+) = (?P<opcode>\w+)(?: (?P<attribute>"[^"]*"|[-+.\w]+))?'
            rf"(?P<arguments>(?: %\d+)*) : (?P<type>{_TYPE})(?:  # (?P<hint>.*))?",
            _read_operation,
        ),
        ("simplexes", r"simplex (\S+) of (.*)", _read_simplex),
        (
            "states",
            rf"state ({_NAME}) : ({_TYPE}) from %(\d+) to %(\d+)(?: in ([\d ]+))?( given)?"
            r"(?: as ([a-z0-9 ]+?))?(?: for (.*))?",
            _read_state,
        ),
        (
            "parameter",
            r"theta : ([a-z *]+) to %(\d+)",
            lambda m: (_read_type(m[1]), Value(int(m[2]))),
        ),
        ("tangents", r"tangent (\w+) %(\d+)", lambda m: Tangent(m[1], Value(int(m[2])))),
        ("codec", r"stored as ([a-z0-9 ]+)", lambda m: m[1]),
        ("axes", r"axis (\w+) %(\d+)", lambda m: (m[1], Value(int(m[2])))),
        ("evaluation", r"eval to %(\d+)", lambda m: Value(int(m[1]))),
    )
]
