"""`hyper` statements: numbers with a default and a domain, and weight vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from optdsl.ir.domain import SUM_TOLERANCE, Choice, Interval, spell, within
from optdsl.ir.program import Hyper, Simplex
from optdsl.lower.learn_request import learnable
from optdsl.lower.numbers import domain, labels_of, number
from optdsl.lower.scope import Scope, component
from optdsl.syntax import ast

UNIT = Interval(0.0, 1.0)


@dataclass(frozen=True)
class Declared:
    """The hyperparameters of a file.

    Attributes:
        hypers: every hyperparameter by its name, components of weight vectors included.
        simplexes: the weight vectors.
    """

    hypers: Mapping[str, Hyper]
    simplexes: tuple[Simplex, ...]

    @property
    def learnable(self) -> dict[str, tuple[str, ...]]:
        """The hyperparameters behind each name that can be learned or set as a whole."""
        return learnable(self.hypers, self.simplexes)


def declared(scope: Scope, known: Mapping[str, Hyper] = MappingProxyType({})) -> Declared:
    """The hyperparameters of a file; those with mistakes are reported and left out.

    Args:
        scope: the file.
        known: hyperparameters to which a declaration of the same name gives another default, and a
            smaller domain if it has one.
    """
    hypers: dict[str, Hyper] = {}
    for name, node in scope.hypers.items():
        hyper = _hyper(name, node, scope, known.get(name))
        if hyper is not None:
            hypers[name] = hyper
    simplexes = []
    for name, vector in scope.weights.items():
        start = _start(name, vector, scope)
        if start is not None:
            labels = tuple(label.text for label in vector.labels)
            flat = tuple(component(name, label) for label in labels)
            hypers |= {h: Hyper(h, x, UNIT) for h, x in zip(flat, start, strict=True)}
            simplexes.append(Simplex(name, labels, flat))
    return Declared(hypers, tuple(simplexes))


def _hyper(name: str, node: ast.Hyper, scope: Scope, known: Hyper | None) -> Hyper | None:
    bounds, labels = domain(node.domain, scope), labels_of(node)
    if known is not None and node.domain is None:
        bounds = known.domain
        labels = bounds.labels if isinstance(bounds, Choice) else ()
    elif known is not None and bounds is not None and not within(bounds, known.domain):
        scope.report.error(
            "out-of-bounds",
            f"`{name}` can leave its bounds",
            node.name.span if node.domain is None else node.domain.span,
            label=f"must lie in {known.domain}",
            hint="leave out the domain, and it is the same",
        )
        return None
    if labels and bounds is not None:
        name_of_default = node.default.name if isinstance(node.default, ast.Name) else ""
        if name_of_default in labels:
            return Hyper(name, float(labels.index(name_of_default)), bounds)
        scope.report.error(
            "out-of-bounds",
            f"the default of `{name}` is none of its labels",
            node.default.span,
            label=f"must be one of {', '.join(labels)}",
        )
        return None
    default = number(node.default, "a default", scope)
    if default is None or bounds is None:
        return None
    if default not in bounds:
        scope.report.error(
            "out-of-bounds",
            f"the default of `{name}` is out of bounds",
            node.default.span,
            label=f"must lie in {bounds}",
            hint="change the default or the bounds",
        )
        return None
    return Hyper(name, default, bounds)


def _start(name: str, node: ast.Weights, scope: Scope) -> list[float] | None:
    """The initial weights, one for each label; None after a mistake."""
    labels = [label.text for label in node.labels]
    if len(labels) < 2:
        scope.report.error(
            "weights",
            f"`{name}` has one weight, which is always 1",
            node.labels[0].span,
            label="a simplex needs two labels or more",
        )
        return None
    if len(node.start) == 1:
        corner = corner_weights(node.start[0], labels)
        if corner is not None:
            return corner
        scope.report.error(
            "weights",
            f"`{name}` has no such start",
            node.start[0].span,
            label="neither `uniform` nor a label",
            hint=f"write `uniform`, or one of {', '.join(labels)}, or {len(labels)} numbers "
            f"with commas between them",
        )
        return None
    numbers = [number(x, "a weight", scope) for x in node.start]
    found = [x for x in numbers if x is not None]
    if len(found) < len(numbers):
        return None
    if len(found) != len(labels):
        message = f"`{name}` has {len(labels)} labels and {len(found)} weights"
    elif not all(x in UNIT for x in found):
        message = f"a weight of `{name}` is out of bounds"
    elif abs(sum(found) - 1) > SUM_TOLERANCE:
        message = f"the weights of `{name}` sum to {spell(sum(found))}"
    else:
        return found
    scope.report.error(
        "weights",
        message,
        node.start[0].span,
        label="weights lie in [0, 1] and sum to one",
        hint="write `uniform` for equal weights",
    )
    return None


def corner_weights(node: ast.Expression, labels: list[str]) -> list[float] | None:
    """The weights for ``uniform``, or for a label, which then has weight one; None for others."""
    if not isinstance(node, ast.Name) or node.primed or node.owner:
        return None
    if node.name in labels:
        return [float(label == node.name) for label in labels]
    return [1.0 / len(labels)] * len(labels) if node.name == "uniform" else None
