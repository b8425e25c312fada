"""The syntax tree of a specification, whose nodes are compared without their spans."""

from __future__ import annotations

from dataclasses import dataclass, field

from optdsl.diagnostics import Span
from optdsl.syntax.expressions import (
    Binary as Binary,
    Call as Call,
    Chain as Chain,
    Expression as Expression,
    Identifier as Identifier,
    Name as Name,
    Negate as Negate,
    Number as Number,
)


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
    """``{a, b}``: one of the listed numbers; ``{a, ..., b}``: any whole number between two."""

    values: tuple[Expression, ...]
    span: Span = field(compare=False, repr=False)
    between: bool = False


@dataclass(frozen=True, slots=True)
class Trivia:
    """The blank line and the comments around a statement, for the formatter."""

    blank_before: bool = field(default=False, compare=False)
    leading: tuple[str, ...] = ()
    trailing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    """What every statement has: its place, and the comments around it."""

    span: Span = field(compare=False, repr=False)
    trivia: Trivia = Trivia()


@dataclass(frozen=True, slots=True)
class Hyper(_Statement):
    """``hyper name = default in domain``."""

    name: Identifier
    default: Expression
    domain: Interval | Choice | None


@dataclass(frozen=True, slots=True)
class Weights(_Statement):
    """``hyper name = start on simplex(labels)``: a vector of weights that sum to one.

    The start is one number for each label, or the name ``uniform``, or the label of a corner.
    """

    name: Identifier
    start: tuple[Expression, ...]
    labels: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class State(_Statement):
    """``state name : type = initial``; the type may be a product of axes."""

    name: Identifier
    type: Identifier | None
    initial: Expression


@dataclass(frozen=True, slots=True)
class Input(_Statement):
    """``input name``: a tensor like the parameter that is given to a step beside its gradient."""

    name: Identifier
    type: Identifier | None


@dataclass(frozen=True, slots=True)
class Axis(_Statement):
    """``axis name = length``: an axis that matrices of the rule's own have."""

    name: Identifier
    length: Expression


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function, with the type it demands, if any."""

    name: Identifier
    type: Identifier | None


@dataclass(frozen=True, slots=True)
class Function(_Statement):
    """``def name(parameters) = body``; with ``over``, a name for the axis of a call."""

    name: Identifier
    parameters: tuple[Parameter, ...]
    body: Expression
    over: Identifier | None = None


@dataclass(frozen=True, slots=True)
class Equation(_Statement):
    """``name = value`` or ``name' = value``."""

    name: Identifier
    primed: bool
    value: Expression

    @property
    def spelled(self) -> str:
        """The name as it is written, with its prime."""
        return self.name.text + ("'" if self.primed else "")


@dataclass(frozen=True, slots=True)
class Binding(_Statement):
    """``owner.name = value``: a member's hyperparameter, bound by a blend."""

    owner: Identifier
    name: Identifier
    value: Expression


@dataclass(frozen=True, slots=True)
class Member:
    """``rule as alias`` in ``use``; without an alias, the member has the name of its rule.

    With ``(rule with modifiers) as alias``, `modified` has these, and `rule` is what they modify.
    """

    rule: Identifier
    alias: Identifier | None
    modified: Combination | None = None

    @property
    def name(self) -> Identifier:
        """The name of the member in the blend."""
        return self.alias or self.rule


@dataclass(frozen=True, slots=True)
class Use(_Statement):
    """``use members``: the rules that a blend is made of."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class Share(_Statement):
    """``share names among members``: hyperparameters that several members have in common."""

    names: tuple[Identifier, ...]
    among: tuple[Identifier, ...]


@dataclass(frozen=True, slots=True)
class Option:
    """``name = value`` among the options of a rule, or the settings of a claim."""

    name: Identifier
    value: Expression


@dataclass(frozen=True, slots=True)
class Random(_Statement):
    """``random name : type = distribution at counter``: numbers that are drawn anew at a counter.

    Without a counter they are drawn at every step.
    """

    name: Identifier
    type: Identifier | None
    distribution: Identifier
    counter: Expression | None


@dataclass(frozen=True, slots=True)
class Store(_Statement):
    """``store names as codec``: how states, or the parameter, lie in memory; two words at most."""

    names: tuple[Identifier, ...]
    codec: Identifier


# The kind of the section of all tensors that no other one takes.
OTHERWISE = "otherwise"


@dataclass(frozen=True, slots=True)
class Section(_Statement):
    """``for kind``, or ``otherwise``: the statements below are for tensors of that kind.

    After ``otherwise`` may stand a rule of the library, with `options`, in place of statements.
    With ``otherwise (rule with modifiers) as alias``, `modified` has these, and `rule` is what they
    modify.
    """

    kind: str
    rule: Identifier | None = None
    options: tuple[Option, ...] = ()
    modified: Combination | None = None
    alias: Identifier | None = None

    @property
    def name(self) -> Identifier:
        """What the hyperparameters of the rule after ``otherwise`` are called after."""
        found = self.alias or self.rule
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Slot:
    """What a modifier redefines: an equation, a hyperparameter, ``g`` or ``theta'``."""

    name: Identifier
    primed: bool

    @property
    def spelled(self) -> str:
        """The name as it is written, prime included."""
        return self.name.text + ("'" if self.primed else "")


@dataclass(frozen=True, slots=True)
class Application:
    """``modifier(options) as alias`` after ``with``; the options bind its hyperparameters."""

    modifier: Identifier
    options: tuple[Option, ...]
    alias: Identifier | None


@dataclass(frozen=True, slots=True)
class Combination:
    """``base(options) with applications``: a rule, and the modifiers that are applied to it."""

    base: Identifier
    options: tuple[Option, ...]
    applications: tuple[Application, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a whole, as in ``1/8``."""

    numerator: Number
    denominator: Number
    span: Span

    @property
    def text(self) -> str:
        """As it is printed."""
        return f"{self.numerator.text}/{self.denominator.text}"


@dataclass(frozen=True, slots=True)
class Learn(_Statement):
    """How something is learned.

    ``learn names per scope in bounds by rule(options) on signal after steps horizon x sample 1/k``.
    A name may be a member's.
    """

    names: tuple[Identifier, ...]
    bounds: Interval | None
    rule: Identifier
    options: tuple[Option, ...]
    after: Number | None
    exponentiated: bool = False
    scope: Identifier | None = None
    signal: Identifier | None = None
    horizon: Number | None = None
    sample: Part | None = None


@dataclass(frozen=True, slots=True)
class LearnAfter(_Statement):
    """``learn after steps``: the default of every `Learn` of the file."""

    after: Number


@dataclass(frozen=True, slots=True)
class LearnSample(_Statement):
    """``learn sample 1/k``: the part of the elements from which the file learns."""

    sample: Part


@dataclass(frozen=True, slots=True)
class Claim(_Statement):
    """``recovers rule(options) at settings``, or ``misses`` for the opposite claim."""

    holds: bool
    rule: Identifier
    options: tuple[Option, ...]
    settings: tuple[Option, ...]


Statement = (
    Hyper
    | Weights
    | State
    | Function
    | Equation
    | Binding
    | Use
    | Share
    | Learn
    | LearnAfter
    | LearnSample
    | Claim
    | Section
    | Input
    | Random
    | Store
    | Axis
)


@dataclass(frozen=True, slots=True)
class Declaration(_Statement):
    """A whole specification file.

    It is an ``optimizer``; a ``blend`` of several; the `combination` of a rule with modifiers; or a
    `modifier`, of some `slots` or of none.
    """

    name: Identifier
    documentation: tuple[str, ...]
    statements: tuple[Statement, ...]
    closing: tuple[str, ...] = ()
    blend: bool = False
    combination: Combination | None = None
    slots: tuple[Slot, ...] = ()
    modifier: bool = False
