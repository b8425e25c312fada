"""Dot products of the gradient with few products of tensors, of which those asked for are sums.

A tangent is mostly a sum of products with uniform coefficients, and the tangents of a rule share
these products. The dot product of the gradient with a sum is the sum of dot products, so it is
enough to add up the gradient times each of the products; the coefficients are applied once a
block, in double precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from optdsl.backends.c.coefficients import NEGATIVE, ONE, Coefficient, Coefficients
from optdsl.backends.c.stages import cost
from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value, upstream
from optdsl.ir.types import TENSOR, UNIFORM

# The factors of a product besides the gradient; those of one without factors are the gradient's.
Product = tuple[Value, ...]

# A value that is a sum of more products than this is one factor.
_MOST = 16
# The only use of a value that is a part of one sum.
_PART = (["add"], ["sub"], ["neg"])
# How often the search goes through all values.
_ROUNDS = 3


@dataclass(frozen=True)
class Basis:
    """Products whose dot products with the gradient give those asked for.

    Attributes:
        products: the factors of each product; products that begin alike follow each other.
        weights: for each dot product asked for, the products that it is a sum of, by their index,
            each with its uniform coefficient.
    """

    products: tuple[Product, ...]
    weights: tuple[tuple[tuple[int, Value], ...], ...]

    @property
    def factors(self) -> tuple[Value, ...]:
        """The factors, each once."""
        return tuple(dict.fromkeys(f for product in self.products for f in product))

    @property
    def coefficients(self) -> tuple[Value, ...]:
        """The coefficients, each once."""
        return tuple(dict.fromkeys(c for weights in self.weights for _, c in weights))

    def renamed(self, new: Mapping[Value, Value]) -> Basis:
        """The same for another program, given its values by those of this one."""
        products = (tuple(new[f] for f in product) for product in self.products)
        weights = (tuple((k, new[c]) for k, c in dot) for dot in self.weights)
        return Basis(tuple(products), tuple(weights))


def find_basis(
    program: Program, results: Collection[Value], dots: Sequence[Value], whole: bool = False
) -> tuple[Program, Basis]:
    """A basis that needs few operations, and the program with its coefficients.

    Args:
        program: the program, of which every value is a tensor or uniform.
        results: the values that are computed in any case.
        dots: the tensors whose dot products with the gradient are asked for.
        whole: whether each of these tensors is a factor.
    """
    tensors = frozenset(d for d in dots if program.type(d) == TENSOR)
    factors = tensors if whole else _factors(program, results, dots)
    builder = Builder(program.operations)
    numbers = Coefficients(builder)
    expanded = _Expansion(program, numbers, factors)
    sums = [expanded.of(dot) for dot in dots]
    ordered = _ordered({product for form in sums for product in form})
    index = {product: number for number, product in enumerate(ordered)}
    weights = tuple(
        tuple(sorted((index[product], numbers.value(c)) for product, c in form.items()))
        for form in sums
    )
    return replace(program, operations=builder.operations), Basis(tuple(ordered.values()), weights)


def nodes(products: Iterable[Product]) -> list[Product]:
    """The products of the gradient and the first factors of each, which are computed once."""
    starts = (product[:length] for product in products for length in range(1, len(product)))
    return list(dict.fromkeys(starts))


def _ordered(products: Iterable[Product]) -> dict[Product, Product]:
    """Products with their factors in an order in which many begin alike, such ones in sequence."""
    found = sorted(products)
    often = Counter(factor for product in found for factor in set(product))
    place = {f: k for k, (f, _) in enumerate(sorted(often.items(), key=lambda x: (-x[1], x[0])))}
    turned = {product: tuple(sorted(product, key=place.__getitem__)) for product in found}
    return dict(sorted(turned.items(), key=lambda item: [place[f] for f in item[1]]))


class _Unweighted:
    """Stands for `Coefficients` where only the products matter."""

    def of(self, value: Value) -> Coefficient | None:
        """Some number."""
        return ONE

    def times(self, x: Coefficient, y: Coefficient) -> Coefficient:
        """Some number."""
        return ONE

    def plus(self, x: Coefficient | None, y: Coefficient | None) -> Coefficient | None:
        """Some number."""
        return ONE


class _Expansion:
    """Tensors as sums of products of factors.

    A value is a factor if it is in `factors`, and if it is neither a sum nor a product. So is the
    difference of two values that are read from memory: it is exact where they are close.
    """

    def __init__(
        self, program: Program, numbers: Coefficients | _Unweighted, factors: Collection[Value]
    ) -> None:
        self._program, self._numbers, self._factors = program, numbers, factors
        self._known: dict[Value, dict[Product, Coefficient]] = {}

    def of(self, value: Value) -> dict[Product, Coefficient]:
        """The coefficient of each product."""
        if value not in self._known:
            found = None if value in self._factors else self._opened(value)
            self._known[value] = {(value,): ONE} if found is None else found
        return self._known[value]

    def _opened(self, value: Value) -> dict[Product, Coefficient] | None:
        program, numbers = self._program, self._numbers
        operation = program.operations[value]
        if program.type(value) == UNIFORM:
            coefficient = numbers.of(value)
            return {} if coefficient is None else {(): coefficient}
        if not is_opened(program, value):
            return None
        match operation.opcode, [self.of(a) for a in operation.arguments]:
            case "neg", [x]:
                return {p: numbers.times(NEGATIVE, c) for p, c in x.items()}
            case "add" | "sub", [x, y]:
                sign = NEGATIVE if operation.opcode == "sub" else ONE
                return self._limited(
                    [*x.items(), *((p, numbers.times(sign, c)) for p, c in y.items())]
                )
            case "mul", [x, y] if len(x) * len(y) <= _MOST:
                pairs = ((p, q) for p in x for q in y)
                return self._limited(
                    [(tuple(sorted((*p, *q))), numbers.times(x[p], y[q])) for p, q in pairs]
                )
        return None

    def _limited(
        self, terms: Sequence[tuple[Product, Coefficient]]
    ) -> dict[Product, Coefficient] | None:
        total: dict[Product, Coefficient | None] = {}
        for product, coefficient in terms:
            total[product] = self._numbers.plus(total.get(product), coefficient)
        found = {p: c for p, c in total.items() if c is not None}
        return found if len(found) <= _MOST else None


def is_opened(program: Program, value: Value) -> bool:
    """Whether a value is a sum or a product of which a basis may have the parts."""
    operation = program.operations[value]
    if program.type(value) != TENSOR or operation.opcode not in {"neg", "add", "sub", "mul"}:
        return False
    return operation.opcode != "sub" or not all(_stored(program, a) for a in operation.arguments)


def _stored(program: Program, value: Value) -> bool:
    return TABLE[program.operations[value].opcode].stage is Stage.BUFFER


def _factors(
    program: Program, results: Collection[Value], dots: Sequence[Value]
) -> frozenset[Value]:
    """The values to leave as factors such that few operations on elements are needed.

    It begins with those that are computed in any case, and changes one at a time as long as that
    helps.
    """
    always = set(upstream(program.operations, results))
    candidates = _candidates(program, results, dots)
    chosen = frozenset(v for v in candidates if v in always)
    least = _operations(program, always, dots, chosen)
    for _ in range(_ROUNDS):
        before = least
        for value in reversed(candidates):
            other = chosen ^ {value}
            needed = _operations(program, always, dots, other)
            # What makes no difference stays a factor: a product of few factors is no number that is
            # too large or too small on the way.
            if needed < least or (needed == least and value in other):
                chosen, least = other, needed
        if least == before:
            break
    return chosen


def _candidates(program: Program, results: Collection[Value], dots: Sequence[Value]) -> list[Value]:
    """The sums and products that may be factors: those that are more than a part of one sum."""
    uses: dict[Value, list[str]] = {v: ["result"] for v in (*results, *dots)}
    for value in program.needed((*results, *dots)):
        for argument in program.operations[value].arguments:
            uses.setdefault(argument, []).append(program.operations[value].opcode)
    return [
        v
        for v in upstream(program.operations, dots)
        if is_opened(program, v) and not _multiple(program, v) and uses[v] not in _PART
    ]


def _multiple(program: Program, value: Value) -> bool:
    """Whether it is another value times a uniform number."""
    return any(program.type(a) == UNIFORM for a in program.operations[value].arguments)


def _operations(
    program: Program, always: Collection[Value], dots: Sequence[Value], factors: Collection[Value]
) -> int:
    """The approximate number of instructions that a choice of factors needs."""
    expanded = _Expansion(program, _Unweighted(), factors)
    products = {product for dot in dots for product in expanded.of(dot)}
    used = upstream(program.operations, {f for p in products for f in p}, always)
    more = (program.operations[v] for v in used if v not in always)
    slots = sum(cost(o.opcode).slots for o in more if o.type == TENSOR and o.arguments)
    return slots + len(nodes(_ordered(products).values())) + len(products)
