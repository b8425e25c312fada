"""Slots as means: a convex combination that was written as sums of products becomes `mix`.

A mean does not suffer from the rounding of a sum of products: equal parts stay as they are, so that
a learning rate of zero moves nothing, and a part of weight one is the result to the bit, whatever
the others are. The hyper-gradient by a weight is what its part adds to the mean, a small number,
where a sum of products would have the part itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set as AbstractSet

from optdsl.algebra.normal_form import Algebra, TooMuchWork
from optdsl.algebra.polynomial import ONE, ZERO
from optdsl.blending.convexity import without_last
from optdsl.ir.builder import Builder
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Simplex, Value, upstream

# A sum of products: each part with its weight, where None is one.
Form = list[tuple[Value | None, Value]]


def mixture(
    builder: Builder, simplexes: Sequence[Simplex], value: Value, parts: AbstractSet[Value]
) -> Value | None:
    """The value, a convex combination of parts, as means of them, nested as its author nested it.

    None when it is not written as a sum of parts with weights.

    Args:
        builder: where the values are made.
        simplexes: the weight vectors, each of which sums to one.
        value: an expression that is linear in the parts.
        parts: what is combined.
    """
    return _Mixing(builder, simplexes).mean(value, parts)


class _Mixing:
    def __init__(self, builder: Builder, simplexes: Sequence[Simplex]) -> None:
        self._builder = builder
        self._simplexes = simplexes
        self._algebra = Algebra()

    def mean(self, value: Value, parts: AbstractSet[Value]) -> Value | None:
        forms: dict[Value, Form] = {part: [(None, part)] for part in parts}
        for index in upstream(self._builder.operations, (value,), stop=parts):
            operation = self._builder[index]
            if index not in forms and any(a in forms for a in operation.arguments):
                found = self._form(index, operation, forms)
                if found is None or not all(w is None or self._is_weight(w) for w, _ in found):
                    return None
                forms[index] = _collected(self._builder, found)
        return self._mixed(forms[value]) if value in forms else None

    def _is_weight(self, weight: Value) -> bool:
        """Whether a weight is made in a way that is a number for all coefficients."""
        for index in upstream(self._builder.operations, (weight,)):
            operation = self._builder[index]
            divisor = operation.arguments[-1] if operation.opcode == "div" else None
            safe = divisor is None or self._builder[divisor].opcode == "constant"
            if not TABLE[operation.opcode].laws.rational or not safe:
                return False
        return True

    def _form(self, value: Value, operation: Operation, forms: dict[Value, Form]) -> Form | None:
        x = operation.arguments
        match operation.opcode:
            case "add" if x[0] in forms and x[1] in forms:
                return forms[x[0]] + forms[x[1]]
            case "sub" if x[0] in forms and x[1] in forms:
                return forms[x[0]] + self._negated(forms[x[1]])
            case "stop_gradient" if len(forms[x[0]]) == 1 and forms[x[0]][0][0] is None:
                return [(None, value)]
            case "neg":
                return self._negated(forms[x[0]])
            case "mul" if x[0] not in forms or x[1] not in forms:
                weight, inner = x if x[1] in forms else (x[1], x[0])
                return self._scaled(weight, forms[inner])
            case "div" if x[1] not in forms:
                one = self._builder.constant(1.0)
                return self._scaled(self._builder.emit("div", one, x[1]), forms[x[0]])
            case _:
                return None

    def _negated(self, form: Form) -> Form:
        minus = self._builder.constant(-1.0)
        times = self._builder.times
        return [(minus if w is None else times(w, minus), x) for w, x in form]

    def _scaled(self, weight: Value, form: Form) -> Form:
        """The product; what is a mean in itself stays one, as one part of the whole."""
        if len(form) > 1 and self._is_one(w for w, _ in form):
            return [(weight, self._mixed(form))]
        return [(weight if w is None else self._builder.emit("mul", weight, w), x) for w, x in form]

    def _mixed(self, form: Form) -> Value:
        if len(form) == 1:
            return form[0][1]
        one = self._builder.constant(1.0)
        flat = (v for w, x in form for v in (one if w is None else w, x))
        return self._builder.emit("mix", *flat)

    def _is_one(self, weights: Iterable[Value | None]) -> bool:
        """Whether weights sum to one identically."""
        one = self._builder.constant(1.0)
        values = [one if w is None else w for w in weights]
        program = Program("", (), (), (), self._builder.operations, (), Value(0))
        try:
            found = self._algebra.forms(program, values)
        except TooMuchWork:
            return False
        known = sum((found[v] for v in values), start=ZERO)
        return known.substituted(without_last(self._algebra, self._simplexes)) == ONE


def _collected(builder: Builder, form: Form) -> Form:
    """The form with one weight for each part."""
    one = builder.constant(1.0)
    weights: dict[Value, Value | None] = {}
    for weight, part in form:
        if part not in weights:
            weights[part] = weight
            continue
        first = weights[part]
        total = builder.emit(
            "add", one if first is None else first, one if weight is None else weight
        )
        weights[part] = total
    return [(weight, part) for part, weight in weights.items()]
