"""From lark's parse tree of one statement to the typed syntax tree."""

from __future__ import annotations

import math
import unicodedata
from typing import TypedDict

from lark import Token, Tree

from optdsl.diagnostics import Report, Source, Span
from optdsl.syntax import ast
from optdsl.syntax.layout import LogicalLine

Child = Tree[Token] | Token | None

PRIMES = "'′"
# Letters whose usual spelling in formulas is not their name.
_GREEK = {"ε": "eps", "ϵ": "eps"}


def latin(name: str) -> str:
    """A name with every Greek letter spelled out: ``β1`` is ``beta1``, ``ε`` is ``eps``."""
    return "".join(map(_latin_letter, name))


def _latin_letter(character: str) -> str:
    if character.isascii():
        return character
    if character in _GREEK:
        return _GREEK[character]
    # "GREEK SMALL LETTER BETA", "GREEK THETA SYMBOL", "GREEK SMALL LETTER IOTA WITH TONOS", ...
    words = unicodedata.name(character, "GREEK UNKNOWN").split()
    extra = {"GREEK", "SMALL", "CAPITAL", "LETTER", "SYMBOL", "FINAL", "LUNATE"}
    word = next((w for w in words if w not in extra), "UNKNOWN")
    word = {"LAMDA": "LAMBDA"}.get(word, word)
    return word.capitalize() if "CAPITAL" in words else word.lower()


class _Around(TypedDict):
    span: Span
    trivia: ast.Trivia


class Builder:
    """Builds the node of one logical line."""

    def __init__(
        self,
        source: Source,
        line: LogicalLine,
        comments: list[tuple[int, str]],
        report: Report,
    ) -> None:
        self._source = source
        self._line = line
        self._report = report
        last_line = source.text.rfind("\n", line.start, line.end)
        trailing = [c for at, c in comments if line.start + at > last_line]
        inside = [c for at, c in comments if line.start + at <= last_line]
        self._trivia = ast.Trivia(
            line.blank_before, (*line.leading, *inside), trailing[0] if trailing else ""
        )

    def build(self, tree: Tree[Token]) -> ast.Declaration | ast.Statement:
        """The node for a tree of the rules ``header`` or ``statement``."""
        c = tree.children
        around: _Around = {"span": self._span(tree), "trivia": self._trivia}
        match tree.data:
            case "header":
                documentation = tuple(str(self._token(s))[1:-1] for s in c[2:])
                blend = self._token(c[0]).type == "BLEND"
                return ast.Declaration(self._name(c[1]), documentation, (), blend=blend, **around)
            case "combination":
                documentation = tuple(str(self._token(s))[1:-1] for s in c[3:])
                combined = self._combination(self._tree(c[2]))
                name = self._name(c[1])
                return ast.Declaration(name, documentation, (), combination=combined, **around)
            case "modifier":
                documentation = tuple(str(self._token(s))[1:-1] for s in c[3:])
                slots = tuple(
                    ast.Slot(self._name(s), self._token(s).type == "PRIMED")
                    for s in (self._tree(c[2]).children if c[2] else ())
                )
                return ast.Declaration(
                    self._name(c[1]), documentation, (), slots=slots, modifier=True, **around
                )
            case "hyper":
                domain = self._domain(self._tree(c[2])) if c[2] else None
                return ast.Hyper(self._name(c[0]), self._expr(c[1]), domain, **around)
            case "weights":
                start = tuple(self._expr(x) for x in self._tree(c[1]).children)
                return ast.Weights(self._name(c[0]), start, self._names(c[2]), **around)
            case "state":
                return ast.State(self._name(c[0]), self._axes(c[1]), self._expr(c[2]), **around)
            case "function":
                parameters = tuple(
                    self._parameter(self._tree(p)) for p in self._tree(c[1]).children
                )
                return ast.Function(
                    self._name(c[0]), parameters, self._expr(c[3]), self._named(c[2]), **around
                )
            case "input":
                return ast.Input(self._name(c[0]), self._axes(c[1]), **around)
            case "random":
                counter = self._expr(c[3]) if c[3] else None
                name, kind, drawn = self._name(c[0]), self._axes(c[1]), self._name(c[2])
                return ast.Random(name, kind, drawn, counter, **around)
            case "store":
                words = [self._name(n) for n in c[1:]]
                last = words[-1].span
                span = Span(last.source, words[0].span.start, last.end)
                codec = ast.Identifier(" ".join(w.text for w in words), span)
                return ast.Store(self._names(c[0]), codec, **around)
            case "axis":
                return ast.Axis(self._name(c[0]), self._expr(c[1]), **around)
            case "section":
                return ast.Section(" ".join(self._name(n).text for n in c), **around)
            case "rest":
                bound = self._options(c[1])
                return ast.Section(ast.OTHERWISE, self._named(c[0]), bound, **around)
            case "rest_modified":
                found, alias = self._combination(self._tree(c[0])), self._named(c[1])
                return ast.Section(ast.OTHERWISE, found.base, (), found, alias, **around)
            case "equation" if self._token(c[0]).type == "MEMBER":
                return ast.Binding(*self._halves(c[0]), self._expr(c[1]), **around)
            case "equation":
                primed = self._token(c[0]).type == "PRIMED"
                return ast.Equation(self._name(c[0]), primed, self._expr(c[1]), **around)
            case "learn_after":
                return ast.LearnAfter(self._number(c[0]), **around)
            case "learn_sample":
                return ast.LearnSample(self._part(c[0]), **around)
            case "use":
                return ast.Use(tuple(self._member(self._tree(m)) for m in c), **around)
            case "share":
                return ast.Share(self._names(c[0]), self._names(c[1]) if c[1] else (), **around)
            case "claim":
                holds = self._token(c[0]).type == "RECOVERS"
                options, settings = self._options(c[2]), self._options(c[3])
                return ast.Claim(holds, self._name(c[1]), options, settings, **around)
        names, scope, bounds, exponentiated, rule, options_, signal, after, _, horizon, sample = c
        limits = self._domain(self._tree(bounds)) if bounds else None
        assert limits is None or isinstance(limits, ast.Interval)
        return ast.Learn(
            self._names(names),
            limits,
            self._name(rule),
            self._options(options_),
            self._number(after) if after else None,
            exponentiated is not None,
            self._named(scope),
            self._named(signal),
            self._number(horizon) if horizon else None,
            self._part(sample) if sample else None,
            **around,
        )

    def _member(self, tree: Tree[Token]) -> ast.Member:
        rule, alias = tree.children
        if tree.data == "modified":
            combined = self._combination(self._tree(rule))
            return ast.Member(combined.base, self._name(alias), combined)
        return ast.Member(self._name(rule), self._named(alias))

    def _combination(self, tree: Tree[Token]) -> ast.Combination:
        base, options, applied = tree.children
        applications = []
        for application in self._tree(applied).children if applied else ():
            modifier, own, alias = self._tree(application).children
            applications.append(
                ast.Application(self._name(modifier), self._options(own), self._named(alias))
            )
        return ast.Combination(self._name(base), self._options(options), tuple(applications))

    def _named(self, child: Child) -> ast.Identifier | None:
        """A name that may be left out."""
        return self._name(child) if child else None

    def _names(self, child: Child) -> tuple[ast.Identifier, ...]:
        return tuple(self._name(n) for n in self._tree(child).children)

    def _options(self, child: Child) -> tuple[ast.Option, ...]:
        found = [self._tree(o).children for o in self._tree(child).children if o] if child else []
        return tuple(ast.Option(self._name(name), self._expr(value)) for name, value in found)

    def _parameter(self, tree: Tree[Token]) -> ast.Parameter:
        name, kind = tree.children
        return ast.Parameter(self._name(name), self._axes(kind))

    def _axes(self, child: Child) -> ast.Identifier | None:
        """The name of a type that may be left out; a product of axes is one name."""
        if child is None:
            return None
        tree = self._tree(child)
        names = [self._name(n).text for n in tree.children[::2]]
        return ast.Identifier(" * ".join(names), self._span(tree))

    def _domain(self, tree: Tree[Token]) -> ast.Interval | ast.Choice:
        c = tree.children
        if tree.data == "choice":
            values = tuple(self._expr(v) for v in c if isinstance(v, Tree))
            return ast.Choice(values, self._span(tree), any(isinstance(v, Token) for v in c))
        opened, closed = self._token(c[0]).type, self._token(c[3]).type
        return ast.Interval(
            self._expr(c[1]), self._expr(c[2]), opened == "LPAR", closed == "RPAR", self._span(tree)
        )

    def _expr(self, child: Child) -> ast.Expression:
        tree = self._tree(child)
        c = tree.children
        span = self._span(tree)
        match tree.data:
            case "number":
                return self._number(c[0])
            case "name":
                owner, _, name = self._name(c[0]).text.rpartition(".")
                return ast.Name(name, self._token(c[0])[-1] in PRIMES, span, owner)
            case "call":
                arguments = tuple(self._expr(a) for a in c[1:] if isinstance(a, Tree))
                return ast.Call(self._name(c[0]), arguments, span, self._named(c[-1]))
            case "negation":
                return ast.Negate(self._expr(c[0]), span)
            case "exponentiation":
                return ast.Binary("^", self._expr(c[0]), self._expr(c[1]), span)
            case "chain":
                operands = (self._expr(c[0]), self._expr(c[2]), self._expr(c[4]))
                return ast.Chain(str(c[1]), str(c[3]), *operands, span)
        return ast.Binary(str(c[1]), self._expr(c[0]), self._expr(c[2]), span)

    def _part(self, child: Child) -> ast.Part:
        tree = self._tree(child)
        numerator, _, denominator = tree.children
        return ast.Part(self._number(numerator), self._number(denominator), self._span(tree))

    def _number(self, child: Child) -> ast.Number:
        token = self._token(child)
        value = float(token)
        span = self._token_span(token)
        if math.isinf(value):
            self._report.error(
                "number",
                f"{token} is too large for double precision",
                span,
                hint="write `inf` for infinity",
            )
        return ast.Number(value, str(token), span)

    def _name(self, child: Child) -> ast.Identifier:
        token = self._token(child)
        return ast.Identifier(latin(str(token).rstrip(PRIMES)), self._token_span(token))

    def _halves(self, child: Child) -> tuple[ast.Identifier, ast.Identifier]:
        """The two names of ``owner.name``; a prime, which is a mistake, stays in the second one."""
        whole = self._name(child)
        owner, _, name = whole.text.partition(".")
        name += "'" if self._token(child)[-1] in PRIMES else ""
        start, end = whole.span.start, whole.span.end
        dot = start + self._token(child).index(".")
        return (
            ast.Identifier(owner, Span(self._source, start, dot)),
            ast.Identifier(name, Span(self._source, dot + 1, end)),
        )

    def _span(self, tree: Tree[Token]) -> Span:
        start, end = tree.meta.start_pos, tree.meta.end_pos
        return Span(self._source, self._line.start + start, self._line.start + end)

    def _token_span(self, token: Token) -> Span:
        start, end = token.start_pos or 0, token.end_pos or 0
        return Span(self._source, self._line.start + start, self._line.start + end)

    @staticmethod
    def _tree(child: Child) -> Tree[Token]:
        assert isinstance(child, Tree)
        return child

    @staticmethod
    def _token(child: Child) -> Token:
        assert isinstance(child, Token)
        return child
