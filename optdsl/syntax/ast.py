"""The syntax tree of a specification: frozen, typed, with spans that equality ignores."""

from __future__ import annotations

from dataclasses import dataclass, field

from optdsl.diagnostics import Span


@dataclass(frozen=True, slots=True)
class Identifier:
    """A name as the language knows it: Greek letters are spelled out (``β1`` is ``beta1``)."""

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
    """A use of a name; `primed` marks the value after the step."""

    name: str
    primed: bool
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Negate:
    """``-operand``."""

    operand: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """``left operator right`` for ``+ - * / ^`` and the comparisons."""

    operator: str
    left: Expression
    right: Expression
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """``function(arguments)``."""

    function: Identifier
    arguments: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)


Expression = Number | Name | Negate | Binary | Call


@dataclass(frozen=True, slots=True)
class Interval:
    """``[lower, upper]``, with round brackets where an end is left out."""

    lower: Expression
    upper: Expression
    lower_open: bool
    upper_open: bool
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Choice:
    """``{a, b}``: one of the listed numbers."""

    values: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Trivia:
    """What stands around a statement and means nothing to the compiler."""

    blank_before: bool = field(default=False, compare=False)
    leading: tuple[str, ...] = ()
    trailing: str = ""


@dataclass(frozen=True, slots=True)
class Hyper:
    """``hyper name = default in domain``."""

    name: Identifier
    default: Expression
    domain: Interval | Choice | None
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = Trivia()


@dataclass(frozen=True, slots=True)
class State:
    """``state name : type = initial``."""

    name: Identifier
    type: Identifier | None
    initial: Expression
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = Trivia()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function, with the type it demands, if any."""

    name: Identifier
    type: Identifier | None


@dataclass(frozen=True, slots=True)
class Function:
    """``def name(parameters) = body``."""

    name: Identifier
    parameters: tuple[Parameter, ...]
    body: Expression
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = Trivia()


@dataclass(frozen=True, slots=True)
class Equation:
    """``name = value`` or ``name' = value``."""

    name: Identifier
    primed: bool
    value: Expression
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = Trivia()


@dataclass(frozen=True, slots=True)
class Option:
    """``name = value`` among the options of a learning rule."""

    name: Identifier
    value: Expression


@dataclass(frozen=True, slots=True)
class Learn:
    """``learn names in bounds by rule(options) after steps``."""

    names: tuple[Identifier, ...]
    bounds: Interval | None
    rule: Identifier
    options: tuple[Option, ...]
    after: Number | None
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = Trivia()


@dataclass(frozen=True, slots=True)
class LearnAfter:
    """``learn after steps``: the default of every `Learn` of the file."""

    after: Number
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = Trivia()


Statement = Hyper | State | Function | Equation | Learn | LearnAfter


@dataclass(frozen=True, slots=True)
class Declaration:
    """A whole specification file."""

    name: Identifier
    documentation: tuple[str, ...]
    statements: tuple[Statement, ...]
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = Trivia()
    closing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prelude:
    """A file of functions only."""

    functions: tuple[Function, ...]
