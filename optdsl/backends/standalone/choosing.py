"""Choices, norms and what has no call for many tensors, in steps of many tensors at once."""

from __future__ import annotations

import re

from optdsl.backends.branches import Region, branches
from optdsl.backends.emitted import wrapped
from optdsl.backends.naming import Names, identifier
from optdsl.backends.python_expressions import Printer
from optdsl.backends.standalone.groupable import finite_part, uniform, users, zeroed
from optdsl.backends.standalone.lists import Lists
from optdsl.backends.standalone.terms import Term
from optdsl.ir.program import Operation, Value
from optdsl.ir.types import Extent, Type
from optdsl.schedule import Kernel

_WIDTH, _STRICT = 88, "strict=True"


class Choosing(Lists):
    """The values of a step, of which a choice by a number computes one side only."""

    def __init__(
        self, kernel: Kernel, printer: Printer, states: dict[str, str], names: Names
    ) -> None:
        """See `Lists`."""
        super().__init__(kernel, printer, states, names)
        self._regions = branches(kernel, printer, self._works)
        self._passed: dict[Value, set[Value]] = {}
        self._finite_inner = self._inner_of_finite_parts()
        self._norms: dict[Value, tuple[Value, set[Value]]] = {}
        for value in kernel.body:
            self._look_for_norm(value)
        self._of_norms = {v for _, inner in self._norms.values() for v in inner}

    def _works(self, kernel: Kernel, value: Value) -> bool:
        return bool(self._operation(value).arguments) and not uniform(kernel, value)

    def _inner_of_finite_parts(self) -> set[Value]:
        """What only the conditions of finite parts read."""
        found = set[Value]()
        for value in reversed(self._kernel.body):
            if value in self._results or not self._operation(value).arguments:
                continue
            own = list(users(self._kernel, value))
            if own and all(u in found or self._decides(value, u) for u in own):
                found.add(value)
        return found

    def _decides(self, value: Value, user: Value) -> bool:
        x = self._operation(user).arguments
        return zeroed(self._kernel, user) and x[0] == value and x[1] != value

    def _look_for_norm(self, value: Value) -> None:
        """Note a root of a sum of squares that nothing else uses."""
        if self._operation(value).opcode != "sqrt":
            return
        total = self._operation(value).arguments[0]
        if self._operation(total).opcode != "sum" or self._only_user(total) is None:
            return
        square = self._operation(total).arguments[0]
        operation, x = self._operation(square), self._operation(square).arguments
        squared = operation.opcode == "pow" and self._operation(x[1]).attribute == 2.0
        squared = squared or (operation.opcode == "mul" and x[0] == x[1])
        tensor = squared and self._program.type(x[0]).extent is Extent.TENSOR
        if tensor and self._only_user(square) is not None:
            self._norms[value] = x[0], {total, square}

    def _statements(self, region: Region) -> None:
        """The statements of the step, or of a side of a choice."""
        for value in self._regions.get(region, ()):
            operation = self._operation(value)
            if uniform(self._kernel, value) or not operation.arguments:
                continue
            if finite_part(self._kernel, value):
                self._lazy[value] = Term("", "finite", operation.arguments[1])
            elif value in self._finite_inner:
                # What reads the argument of a finite part is the choice, which is noted.
                self._computed.add(value)
            elif not operation.type.condition and value not in self._of_norms:
                self._value(value)

    def _value(self, value: Value) -> None:
        """Note a value for the one that uses it, or compute it."""
        self._compute(value)

    def _norm(self, value: Value) -> set[Value]:
        """The statement of a norm; what it computes besides."""
        argument, inner = self._norms[value]
        text = f"torch._foreach_norm({self._variable(self._materialized(argument))})"
        self._lines.append(f"{self._fresh(value)} = {text}")
        return inner

    def _chosen(self, value: Value) -> None:
        """The statements of a choice, a mean by weights, a sum, or what only passes on."""
        operation = self._operation(value)
        x = operation.arguments
        match operation.opcode:
            case "where" if uniform(self._kernel, x[0]):
                self._choice(value, operation)
            case "where" if zeroed(self._kernel, value):
                self._helpers.add("finite")
                argument = self._variable(self._materialized(x[1]))
                self._lines.append(f"{self._fresh(value)} = finite({argument})")
            case "stop_gradient" | "define":
                self._variables[value] = self._variable(self._materialized(x[0]))
                self._alias(value, x[0])
            case "mix":
                self._each(value)
                for part in x[1::2]:
                    self._alias(value, part)
            case _:
                self._each(value)

    def _choice(self, value: Value, operation: Operation) -> None:
        condition, around = self._printer.text(operation.arguments[0]), self._lines
        sides, texts = [], []
        name = self._fresh(value)
        for side in (1, 2):
            self._lines = []
            self._statements((value, side))
            texts.append(self._side(value, operation.arguments[side], operation.type))
            sides.append(self._lines)
        self._lines = around
        if not any(sides):
            line = f"{name} = {texts[0]} if {condition} else {texts[1]}"
            if len(line) <= _WIDTH:
                self._lines.append(line)
                return
        for head, lines, text in zip((f"if {condition}:", "else:"), sides, texts, strict=True):
            self._lines += [head, *(f"    {x}" for x in [*lines, f"{name} = {text}"])]

    def _side(self, value: Value, chosen: Value, kind: Type) -> str:
        """What a side of a choice gives."""
        extent = self._program.type(chosen).extent
        if extent is kind.extent:
            text = self._variable(self._materialized(chosen))
            owned = self._uses[chosen] == 1 and chosen not in self._unowned
            if not owned or not self._operation(chosen).arguments:
                self._alias(value, chosen)
            return text
        if extent is not Extent.UNIFORM:
            self._printer.bind(chosen, self._variable(self._materialized(chosen)))
        text = self._printer.extended(chosen, kind)
        return self._comprehension(text if extent is Extent.UNIFORM else f"{text}.clone()")

    def _each(self, value: Value) -> None:
        """A statement that computes a value tensor by tensor."""
        self._bind(value)
        text = self._printer.text(value)
        self._computed |= self._conditions(value)
        line = f"{self._fresh(value)} = {self._comprehension(text)}"
        if len(line) <= _WIDTH:
            self._lines.append(line)
            return
        name, _, inner = line.partition(" = [")
        head, _, rest = inner[:-1].rpartition(" for ")
        names = rest.partition(" in ")[0]
        lines = [f"for {rest}"]
        if len(rest) > _WIDTH - 8:
            listed = names.split(", ")
            lines = [*wrapped("for (", listed, ")"), *wrapped("in zip(", [*listed, _STRICT], ")")]
        self._lines += [f"{name} = [", *(f"    {x}" for x in [head, *lines]), "]"]

    def _comprehension(self, text: str) -> str:
        """A list of what an expression is for each parameter."""
        lists = {"theta", "g", *self._states.values(), *self._variables.values()}
        words = dict.fromkeys(re.findall(r"(?<![\w.])[A-Za-z_]\w*", text))
        names = [word for word in words if word in lists] or ["theta"]
        if len(names) == 1:
            return f"[{text} for {names[0]} in {names[0]}]"
        listed = ", ".join(names)
        return f"[{text} for {listed} in zip({listed}, {_STRICT})]"

    def _bind(self, value: Value) -> None:
        """Make the printer spell what a value is computed from."""
        for argument in self._operation(value).arguments:
            operation = self._operation(argument)
            if uniform(self._kernel, argument) or not operation.arguments:
                continue
            if operation.type.condition:
                self._bind(argument)
            else:
                self._printer.bind(argument, self._variable(self._materialized(argument)))

    def _conditions(self, value: Value) -> set[Value]:
        """The conditions that the statement of a value computes, and no other one after it."""
        found = set[Value]()
        for argument in self._operation(value).arguments:
            if self._operation(argument).type.condition:
                others = set(users(self._kernel, argument)) - {value}
                found |= (
                    {argument} | self._conditions(argument) if others <= self._computed else set()
                )
        return found

    def _alias(self, value: Value, other: Value) -> None:
        """Note that a value may be the memory of another one."""
        self._passed.setdefault(value, set()).add(other)
        self._unowned |= {value, other}

    def _returned(self) -> list[str]:
        """The results, of which no two share memory, nor do states with what is not theirs."""
        names = {r.name: self._variable(self._materialized(r.value)) for r in self._kernel.results}
        found = []
        for result in self._kernel.results:
            others = [name for key, name in names.items() if key != result.name]
            leaf = self._operation(result.value).opcode == "gradient"
            if result.name != "theta" and (leaf or result.value in self._passed):
                self._helpers.add("own_all")
                own = names[result.name]
                shared = [x for x in dict.fromkeys(["theta", "g", *others]) if x != own or leaf]
                name = self._taken.fresh(f"own_{identifier(result.name)}")
                self._lines += wrapped(f"{name} = own_all(", [own, *shared], ")")
                found.append(name)
            else:
                found.append(names[result.name])
        return found
