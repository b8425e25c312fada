"""The nodes of the syntax tree that stand for names, numbers and expressions."""

from __future__ import annotations

from dataclasses import dataclass, field

from optdsl.diagnostics import Span


@dataclass(frozen=True, slots=True)
class Identifier:
    """A name, with Greek letters spelled out (``β1`` is ``beta1``)."""

    text: str
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number:
    """A non-negative literal; `text` keeps the author's spelling for the formatter."""

    value: float
    text: str = field(compare=False)
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A use of a name; `primed` marks the value after the step.

    In ``Adam.h`` the name ``h`` is the member Adam's; in ``w.Adam`` it is a component of a weight
    vector.
    """

    name: str
    primed: bool
    span: Span = field(compare=False, repr=False)
    owner: str = ""

    @property
    def spelled(self) -> str:
        """The name as it is written, with its owner and its prime."""
        return f"{self.owner}.{self.unowned}" if self.owner else self.unowned

    @property
    def unowned(self) -> str:
        """The name with its prime and without its owner."""
        return self.name + ("'" if self.primed else "")


@dataclass(frozen=True, slots=True)
class Negate:
    """``-operand``."""

    operand: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """``left operator right`` for ``+ - * / @ ^`` and the comparisons."""

    operator: str
    left: Expression
    right: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Chain:
    """``left lower middle upper right``, two comparisons that both have to hold."""

    lower: str
    upper: str
    left: Expression
    middle: Expression
    right: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """``function(arguments)``, or ``function(arguments over axis)``."""

    function: Identifier
    arguments: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)
    over: Identifier | None = None


Expression = Number | Name | Negate | Binary | Chain | Call
