"""Turns a convex combination that is written as a sum of products into operations `mix`.

Rounding does not hurt a `mix` as it does a sum of products: the mean of equal parts is exactly that
part, so that a learning rate of zero moves nothing, and a part of weight one is exactly the result,
whatever the other parts are. In the hyper-gradient by a weight, the part is replaced by its small
difference from the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set as AbstractSet

from optdsl.algebra.normal_form import Algebra, TooMuchWork
from optdsl.algebra.polynomial import ONE, ZERO
from optdsl.blending.convexity import without_last
from optdsl.ir.builder import Builder
from optdsl.ir.derivatives import times
from optdsl.ir.ops import laws_of
from optdsl.ir.program import Operation, Program, Simplex, Value, upstream

# A sum of products, as pairs of a weight and a part; the weight None is one.
Form = list[tuple[Value | None, Value]]


def mixture(
    builder: Builder, simplexes: Sequence[Simplex], value: Value, parts: AbstractSet[Value]
) -> Value | None:
    """A convex combination as means of its parts, nested as its author nested it.

    Args:
        builder: holds the values, and receives the means.
        simplexes: the weight vectors.
        value: the combination, an expression that is linear in the parts.
        parts: the parts.

    Returns:
        The mean; None if the combination is not written as a sum of parts with weights.
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
        """Whether a weight is computed by operations that are defined for all coefficients."""
        behind = [self._builder[v] for v in upstream(self._builder.operations, (weight,))]
        divisors = (self._builder[o.arguments[1]] for o in behind if o.opcode == "div")
        rational = all(laws_of(o).rational for o in behind)
        return rational and all(o.opcode == "constant" for o in divisors)

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
        return [(minus if w is None else times(self._builder, w, minus), x) for w, x in form]

    def _scaled(self, weight: Value, form: Form) -> Form:
        """The product of a weight and a form; a form that is a mean becomes a single part."""
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
        """Whether weights sum to one for all coefficients."""
        one = self._builder.constant(1.0)
        values = [one if w is None else w for w in weights]
        program = Program(operations=self._builder.operations)
        try:
            found = self._algebra.forms(program, values)
        except TooMuchWork:
            return False
        known = sum((found[v] for v in values), start=ZERO)
        return known.substituted(without_last(self._algebra, self._simplexes)) == ONE


def _collected(builder: Builder, form: Form) -> Form:
    """The form with the weights of each part added up."""
    one = builder.constant(1.0)
    weights: dict[Value, Value | None] = {}
    for weight, part in form:
        if part in weights:
            terms = (one if w is None else w for w in (weights[part], weight))
            weight = builder.emit("add", *terms)
        weights[part] = weight
    return [(weight, part) for part, weight in weights.items()]
