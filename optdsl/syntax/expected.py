"""Syntax errors in words: what was found, what was expected, what to write instead."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

_WORDS = {
    "EQUAL": "`=`",
    "IN": "`in`",
    "BY": "`by`",
    "AFTER": "`after`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a citation in double quotes",
    "MEMBER": "a member's name",
    "AS": "`as`",
    "AMONG": "`among`",
    "ON": "`on`",
    "PER": "`per`",
    "AT": "`at`",
    "OPTIMIZER": "`optimizer`",
    "$END": "the end of the statement",
}
_EXPRESSION = frozenset({"NUMBER", "NAME", "PRIMED", "MEMBER", "MINUS", "LPAR"})
_OPERATORS = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "CIRCUMFLEX", "COMPARISON"})
_STATEMENT = frozenset({"HYPER", "STATE", "DEF", "LEARN", "NAME", "PRIMED"})

_FOREIGN = {
    "²": "write `^2` for a square",
    "³": "write `^3` for a cube",
    "·": "write `*` for a product",
    "×": "write `*` for a product",
    "−": "write `-` (the minus of the keyboard)",
    "√": "write `sqrt(...)` for a square root",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    '"': 'a text in quotes ends on the line where it starts, with `"`',
    "!": "there is no negation; turn the comparison round or use `where`",
    "@": "tensors are combined element by element: use `*`, or `dot(x, y)` for a dot product",
    ".": "a name has no dots; only a blend's members do, as in `Adam.h`",
    "'": "a prime follows its name at once, as in `m'`",
    ";": "put each statement on a line of its own",
}


def expectation(accepted: AbstractSet[str]) -> str:
    """The set of acceptable terminals as a phrase: ``expected `=` or `in` ``."""
    if accepted >= _STATEMENT:
        return (
            "expected an equation or a word such as `hyper`, `state`, `use`, `learn` or `recovers`"
        )
    rest = set(accepted)
    phrases: list[str] = []
    if rest >= _EXPRESSION:
        phrases.append("an expression")
        rest -= _EXPRESSION
    if rest >= _OPERATORS - {"COMPARISON"}:
        phrases.append("an operator")
        # A parenthesis after a name would call it: true, but never what was forgotten.
        rest -= _OPERATORS | {"LPAR"}
    phrases += sorted({_WORDS.get(name, f"`{name.lower()}`") for name in rest})
    if len(phrases) == 1:
        return f"expected {phrases[0]}"
    return f"expected {', '.join(phrases[:-1])} or {phrases[-1]}"


def advice(found: str, before: str, accepted: AbstractSet[str]) -> str:
    """A hint for common slips: `found` is the offending text, `before` what its statement has."""
    if found in _FOREIGN:
        return _FOREIGN[found]
    if found.startswith('"') and len(found) > 1:
        return "a citation stands below the header, indented"
    if found == "*" and before.endswith("*"):
        return "write `^` for a power"
    if re.search(r"\n[ \t]*([^\W\d]\w*'?[ \t]*)?\Z", before):
        return "a statement starts in the first column; an indented line continues the one above"
    if found == "=" and "EQUAL" not in accepted:
        return "write `==` to compare"
    if re.search(r"[0-9)]\s*\Z", before) and re.match(r"[A-Za-z(\u0370-\u03ff]", found):
        return "write `*` for a product"
    return ""
