"""Hints for syntax errors: what to write in place of what is usual in other languages."""

from __future__ import annotations

import re
from collections.abc import Set as AbstractSet

from optdsl.diagnostics import nearest
from optdsl.syntax.expected import OPERATORS

_MINUS = "write `-` (the minus of the keyboard)"
_PRODUCT = "write `*` for a product"
_PRIME = "a prime is the straight `'` of the keyboard, as in `m'`"
_QUOTES = 'a citation stands in straight double quotes, `"`'
_BOTH = (
    "conditions are not combined, except as in `0 <= x < 1`: write one `where` in another, as in "
    '`where(a, where(b, x, y), y)` for "a and b" and `where(a, x, where(b, x, y))` for "a or b"'
)
_NOT = "there is no negation: turn the comparison round, or swap the two values of `where`"
_WHERE = "a choice is `where(condition, x, y)`"
_LOOP = "there are no loops: an equation holds for every element of every tensor"
_COMMENT = "a comment starts with `#`"
_QUOTIENT = "a whole quotient is `floor(x / y)`"
_REMAINDER = "a remainder is `mod(x, n)`"
_STATEMENT = (
    "a statement is an equation, `x = ...`, or starts with `hyper`, `state`, `def`, `use`, "
    "`share`, `learn`, `recovers` or `misses`"
)
_PLAIN = "write `x = ...`; an equation needs no word in front"
_GIVEN = "`g`, `theta` and `t` are given; a number that the user sets is a `hyper`"
_BRACKETS = "tensors have no indices: an equation holds for every element; group with `(` and `)`"
_TIMES = (
    "write `{0}` for the value before the step, which papers call {0}_(t-1), and `{0}'` for {0}_t"
)
# The parts of `learn` in their order.
_PARTS = ("per", "in", "by", "on", "after", "horizon", "sample")

_CHARACTERS = {
    "²": "write `^2` for a square",
    "³": "write `^3` for a cube",
    **dict.fromkeys("·×⋅∙∗⊙", _PRODUCT),
    **dict.fromkeys("−–—", _MINUS),
    "÷": "write `/` for a quotient",
    "√": "write `sqrt(...)` for a square root",
    "∑": "write `sum(...)` for a sum over the elements",
    "∇": "the gradient is `g`",
    "∞": "write `inf`",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    '"': 'a text in quotes ends on the line where it starts, with `"`',
    **dict.fromkeys("“”„«»", _QUOTES),
    **dict.fromkeys("’‘`´ʹʼ", _PRIME),
    "!": _NOT,
    "~": _NOT,
    "&": _BOTH,
    "|": "write `abs(x)` for a magnitude; " + _BOTH,
    "‖": "write `norm(x)`",
    "?": _WHERE,
    "%": _REMAINDER,
    "@": "tensors are combined element by element: use `*`, or `dot(x, y)` for a dot product",
    ".": "a name has no dots; only a blend's members do, as in `Adam.h`",
    ";": "put each statement on a line of its own",
    "←": "write `=`",
}
_WORDS = {
    "and": _BOTH,
    "or": _BOTH,
    "not": _NOT,
    **dict.fromkeys(("if", "then", "else", "elif", "unless", "when", "case", "switch"), _WHERE),
    **dict.fromkeys(("for", "while", "loop", "repeat"), _LOOP),
    "mod": _REMAINDER,
    "div": _QUOTIENT,
    **dict.fromkeys(("let", "var", "const", "set", "assign", "return"), _PLAIN),
    **dict.fromkeys(("input", "param", "parameter", "arg", "argument"), _GIVEN),
    **dict.fromkeys(("import", "from", "include"), "a blend names other rules in `use`"),
}
# How the statements begin, for one that is incomplete.
_FORMS = {
    "optimizer": "write `optimizer NAME`, or `optimizer NAME = RULE with MODIFIER`",
    "blend": "write `blend NAME`",
    "modifier": "name what it redefines, as in `modifier {name} of update`",
    "hyper": "give its default, as in `hyper {name} = 0.9 in [0, 1)`",
    "state": "give its value before the first step, as in `state {name} = 0`",
    "def": "write `def {name}(x) = ...`",
    "learn": "name a rule, as in `learn {name} in [0, 1] by SGD(lr = 1e-3)`",
    "use": "name the members, as in `use Adam, Lion`",
    "share": "name hyperparameters of the members, as in `share lr`",
    "recovers": "name a rule, as in `recovers Adam at c = 1`",
    "misses": "name a rule, as in `misses Adam at c = 1`",
}
_NUMPY = {"torch", "math", "np", "numpy", "F", "jnp"}
_NAME = r"[^\W\d]\w*"


def advice(found: str, before: str, after: str, accepted: AbstractSet[str], header: bool) -> str:
    """A hint for a common mistake; empty for others.

    Args:
        found: the unexpected text; empty where the statement ends too early.
        before: the text of the statement before it.
        after: the text of the statement after it.
        accepted: the terminals that the grammar allows there.
        header: whether the statement is the header of its file.
    """
    hints = (
        _of_header(found, before, accepted) if header else "",
        _of_character(found, before),
        _of_assignment(found, before, after),
        _of_word(found, before, accepted),
        _of_argument(found, before, accepted),
        _of_operator(found, before, accepted),
        _of_layout(before),
        _of_form(found, before, after, accepted),
        _of_product(found, before, accepted),
    )
    return next((hint for hint in hints if hint), "")


def _of_header(found: str, before: str, accepted: AbstractSet[str]) -> str:
    if "OPTIMIZER" in accepted:
        start = "a file starts with `optimizer NAME`, or `blend NAME`"
        return nearest(found, ("optimizer", "blend")) or start
    if found == "(":
        return "hyperparameters have statements of their own, as in `hyper lr = 1e-3 in [0, inf)`"
    if found == ":":
        return "leave out the colon"
    if found in {"'", '"'} and before.split() in (["optimizer"], ["blend"]):
        return "a name stands without quotes"
    return ""


def _of_character(found: str, before: str) -> str:
    if found in {"'", "′"}:
        if not before.strip():
            return f"{_QUOTES}, below the header, indented"
        twice = before[-1] in "'′"
        once = "a name has one prime: the value after this step"
        return once if twice else "a prime follows its name at once, as in `m'`"
    if found in _CHARACTERS:
        return _CHARACTERS[found]
    if len(found) == 1 and not found.isascii() and found.isalpha():
        return "names have Latin and Greek letters, digits and underscores"
    if found.startswith('"') and len(found) > 1:
        return "a citation stands below the header, indented"
    return ""


def _of_assignment(found: str, before: str, after: str) -> str:
    name = re.fullmatch(rf"\s*({_NAME})['′]?\s*", before)
    if found in {"+", "-", "*", "/", "^"} and after.startswith("=") and name:
        return f"write it out: `{name[1]}' = {name[1]} {found} ...`"
    assigned = (found == ":" and after.startswith("=")) or (found == "<" and after.startswith("-"))
    return "write `=`" if assigned else ""


def _of_word(found: str, before: str, accepted: AbstractSet[str]) -> str:
    """Hints for words of other languages: the unexpected one, or the one before it."""
    if found in _WORDS:
        return _WORDS[found]
    last = re.search(rf"({_NAME})\s*\Z", before)
    first = re.fullmatch(rf"\s*({_NAME})\s*", before)
    if last is None or not found:
        return ""
    if last[1] in _WORDS:
        return _WORDS[last[1]]
    if first and accepted == {"EQUAL"} and re.match(r"\w", found):
        return nearest(first[1], _FORMS) or _STATEMENT
    known = {"in", "by", "after", "at", "among", "sample", "horizon"}
    keywords = [k.lower() for k in accepted if k.lower() in known]
    return nearest(found, keywords) if re.match(_NAME, found) else ""


def _of_argument(found: str, before: str, accepted: AbstractSet[str]) -> str:
    """Hints for ``=`` inside an expression: a named argument, or a comparison."""
    if found != "=" or "EQUAL" in accepted:
        return ""
    name = re.search(rf"[(,]\s*({_NAME})\s*\Z", before)
    function = _open_call(before)
    if name is None or function in {"", "where"}:
        return "write `==` to compare"
    if name[1] in {"dim", "axis", "keepdim", "dims"}:
        return "leave it out: a reduction is over all elements of a tensor, there are no dimensions"
    return f"arguments have no names: give those of `{function}` in their order"


def _open_call(before: str) -> str:
    """The function whose argument list is open at the end of a text; empty for none."""
    depth = 0
    for place in range(len(before) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(before[place], 0)
        if depth < 0:
            called = re.search(rf"({_NAME})\s*\Z", before[:place])
            return called[1] if called else ""
    return ""


def _of_operator(found: str, before: str, accepted: AbstractSet[str]) -> str:
    stripped = before.rstrip()
    if found == "*" and before.endswith("*"):
        return "write `^` for a power"
    if found == "/" and before.endswith("/"):
        return f"{_QUOTIENT}; {_COMMENT}"
    if found in {"/", "-"} and not stripped:
        return _COMMENT
    chained = "PLUS" in accepted and "COMPARISON" not in accepted
    if found in {"<", ">", "<=", ">=", "==", "!="} and chained:
        return "at most two comparisons follow each other, as in `0 < x <= 1`"
    if found == "+" and "PLUS" not in accepted:
        return "leave out the sign: numbers are positive without it"
    indexed = re.search(r"([^\W\d_]\w*?)_\Z", before)
    if found == "{" and indexed:
        return _TIMES.format(indexed[1])
    if found in {"[", "{"} and "EQUAL" not in accepted:
        return _BRACKETS
    if found == "{":
        return "write `x'` for the value after the step; the one before it is the state itself"
    if found == "(":
        method = re.search(rf"({_NAME})\.({_NAME})\s*\Z", before)
        if method:
            of = "..." if method[1] in _NUMPY else method[1]
            return f"write `{method[2]}({of})`"
    if found == "" and "RPAR" in accepted:
        return "a parenthesis is not closed"
    if found == ")" and "RPAR" not in accepted and stripped:
        return "no parenthesis is open"
    return ""


def _of_layout(before: str) -> str:
    if re.search(r"\n[ \t]*([^\W\d]\w*'?[ \t]*)?\Z", before):
        return "a statement starts in the first column; an indented line continues the one above"
    return ""


def _of_form(found: str, before: str, after: str, accepted: AbstractSet[str]) -> str:
    """Hints on the form of the statement."""
    words = re.findall(_NAME, before)
    word = words[0] if words else ""
    if word in _FORMS and found == "," and word in {"hyper", "state"}:
        return f"write one `{word}` statement for each"
    if word == "state" and words[-1] == "uniform" and "EQUAL" in accepted:
        name = words[1] if len(words) > 2 else "x"
        return f"the least that is remembered is a number per tensor, `state {name} : scalar = 0`"
    if "EQUAL" in accepted and found == "(":
        definition = f"functions are defined as in `def {word}(x) = ...`"
        return definition if "=" in after else _STATEMENT
    if {"LSQB", "LBRACE"} <= accepted:
        return "a domain has brackets, as in `in [0, 1)` or `in {0, 1}`"
    if "LPAR" in accepted and {"AFTER", "$END"} <= accepted and re.match(_NAME, found):
        return "the options of a rule stand in parentheses, as in `SGD(lr = 1e-3)`"
    if word == "learn" and found in _PARTS:
        later = _PARTS[_PARTS.index(found) + 1 :]
        if any(re.search(rf"\b{part}\b", before) for part in later):
            return f"the parts of `learn` stand in this order: {', '.join(_PARTS)}"
    if found == "horizon" and word == "learn":
        return "a horizon is a number, as in `horizon 0.99`"
    if re.search(r"\bsample\s*[\d.]*\s*\Z", before) and word == "learn":
        return "a sample is a part of the elements, as in `sample 1/8`"
    early = found == "" or "EQUAL" in accepted or not {"BY", "NAME"}.isdisjoint(accepted)
    if word in _FORMS and early and not accepted >= OPERATORS - {"COMPARISON"}:
        name = words[1] if len(words) > 1 else "x"
        return _FORMS[word].format(name=name)
    return ""


def _of_product(found: str, before: str, accepted: AbstractSet[str]) -> str:
    if re.fullmatch(r"_\d[\w]*", found) and before[-1:].isdigit():
        return "digits stand without separators"
    starts = re.match(r"[A-Za-z(\u0370-\u03ff]", found)
    ends = re.search(r"[\w)'′]\s*\Z", before)
    if starts and ends and accepted >= OPERATORS - {"COMPARISON"}:
        return _PRODUCT
    return ""
