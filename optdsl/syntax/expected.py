"""Syntax errors in words: what the parser expected."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

# Other terminals are keywords, which are shown in lower case.
_WORDS = {
    "EQUAL": "`=`",
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
    "PLUS": "`+`",
    "MINUS": "`-`",
    "STAR": "`*`",
    "SLASH": "`/`",
    "TIMES": "`@`",
    "ELLIPSIS": "`...`",
    "CIRCUMFLEX": "`^`",
    "COMPARISON": "a comparison",
    "$END": "the end of the statement",
}
_EXPRESSION = frozenset({"NUMBER", "NAME", "PRIMED", "MEMBER", "MINUS", "LPAR"})
OPERATORS = frozenset({"PLUS", "MINUS", "STAR", "SLASH", "TIMES", "CIRCUMFLEX", "COMPARISON"})
_STATEMENT = frozenset({"HYPER", "STATE", "DEF", "LEARN", "NAME", "PRIMED"})


def expectation(accepted: AbstractSet[str]) -> str:
    """The terminals that are accepted, as a phrase such as ``expected `=` or `in` ``."""
    if accepted >= _STATEMENT:
        return (
            "expected an equation or a word such as `hyper`, `state`, `use`, `learn` or `recovers`"
        )
    rest = set(accepted)
    phrases: list[str] = []
    if rest >= _EXPRESSION:
        phrases.append("an expression")
        rest -= _EXPRESSION
    if rest >= OPERATORS - {"COMPARISON"}:
        phrases.append("an operator")
        # "(" would make a call of a name; it is accepted, but hardly what was forgotten.
        rest -= OPERATORS | {"LPAR", "OVER"}
    phrases += sorted({_WORDS.get(name, f"`{name.lower()}`") for name in rest})
    if len(phrases) == 1:
        return f"expected {phrases[0]}"
    return f"expected {', '.join(phrases[:-1])} or {phrases[-1]}"
