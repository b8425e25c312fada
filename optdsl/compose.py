"""The text of a blend of given rules: a mixture of their updates on a learned simplex."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optdsl.blending.members import Member
from optdsl.blending.world import acting
from optdsl.diagnostics import Source, Span
from optdsl.ir.domain import Interval, hull, spell
from optdsl.ir.program import Program
from optdsl.lower.evaluation import EVALUATION
from optdsl.options import OptionError
from optdsl.specifications.references import folded
from optdsl.syntax.parse import KEYWORDS

# The rule by which a blend learns its weights.
LEARNER = "SGD"


class Remark(NamedTuple):
    """A remark about a specification: its code, the text that it marks, and how it is shown."""

    code: str
    place: str
    text: str


def summary(remarks: Sequence[Remark]) -> str:
    """The remarks about a composed text, in short, since the user has not written the text."""
    shared = dict.fromkeys(r.place for r in remarks if r.code == "share")
    told = [r.text for r in remarks if r.code != "share"]
    if shared:
        listed = ", ".join(shared)
        told.insert(
            0,
            f"the rules share {listed}, and use {'it' if len(shared) == 1 else 'them'} in "
            f"different places; `optdsl blend` writes a file that says where, to be changed there",
        )
    return "\n\n".join(told)


def compose(rules: Mapping[str, Program], name: str | None = None) -> str:
    """A specification that mixes ``theta'`` of some rules, ready to be edited.

    Hyperparameters of one name, default and domain are shared. The learning rate is the first
    rule's; the others' are multiples of it, so that every rule starts at its own.

    Args:
        rules: the rules by the names under which the blend uses them, two or more.
        name: the blend's name; by default the rules' names in a row.

    Raises:
        OptionError: for fewer than two rules, or an invalid name.
    """
    if len(rules) < 2:
        raise OptionError("a blend needs two rules or more, as in blend('adam', 'lion')")
    members = list(rules)
    title = "".join(members) if name is None else name
    if not re.fullmatch(r"[A-Za-z_]\w*", title, flags=re.ASCII) or title.upper() in KEYWORDS:
        raise OptionError(f"{title!r} is no name; use letters, digits and underscores")
    listed = ", ".join(members)
    taken = {*members, *(h.name for p in rules.values() for h in p.hypers)}
    w = next(n for n in ("w", "weights", "mixture", "simplex_weights") if n not in taken)
    slots = ["theta'"]
    if any(program.evaluation is not None for program in rules.values()):
        slots.append(EVALUATION)
    mixtures = [_mixture(slot, w, members) for slot in slots]
    words = f"{', '.join(members[:-1])} and {members[-1]}"
    blocks = [
        [f"blend {title}", f'  "A mixture of {words}, with learned weights"'],
        [f"use {listed}"],
        _shared(rules),
        _rates(rules),
        [f"hyper {w} = uniform on simplex({listed})"],
        *mixtures,
        [f"learn {w} by {LEARNER}(lr = 0.1, clip = 10)"],
        [f"recovers {m} at {w} = {m}" for m in members],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _mixture(slot: str, weights: str, members: Sequence[str]) -> list[str]:
    """The equation that mixes what the members have for a slot."""
    first, *rest = (f"{weights}.{m} * {m}.{slot}" for m in members)
    return [f"{slot} = {first}", *(f"{'':{len(slot) + 3}}+ {part}" for part in rest)]


def member_name(path_or_name: str, program: Program) -> str:
    """The name of a rule in a blend: its own, or one made from its file's where that differs.

    Args:
        path_or_name: the stem of the rule's file, by which it will be found.
        program: the rule.
    """
    if folded(path_or_name) == folded(program.name):
        return program.name
    words = re.findall(r"[A-Za-z0-9]+", path_or_name)
    name = "".join(word[:1].upper() + word[1:] for word in words)
    return f"_{name}" if not name or name[0].isdigit() or keyword.iskeyword(name) else name


def _shared(rules: Mapping[str, Program]) -> list[str]:
    """A ``share`` statement for each set of members whose hyperparameters are equal."""
    sharing: dict[tuple[tuple[str, ...], str], list[str]] = {}
    taken = _taken(rules)
    for name in dict.fromkeys(h.name for p in rules.values() for h in p.hypers):
        members = _agreeing(rules, name)
        everyone = members == _having(rules, name)
        if len(members) > 1 and name not in taken and (name != "lr" or everyone):
            sharing.setdefault((members, _different(rules, members, name)), []).append(name)
    lines = []
    for (members, comment), names in sharing.items():
        everyone = all(_having(rules, n) == members for n in names)
        among = "" if everyone else f" among {', '.join(members)}"
        lines.append(f"share {', '.join(names)}{among}{comment}")
    return lines


def _different(rules: Mapping[str, Program], members: Sequence[str], hyper: str) -> str:
    """A comment on where a hyperparameter acts, if its places in the members differ."""
    nowhere = Span(Source("<rules>", ""), 0, 0)
    places = {m: tuple(Member(m, rules[m], nowhere).reading(hyper)) for m in members}
    return f"  # {acting(places)}" if len(set(places.values())) > 1 else ""


def _having(rules: Mapping[str, Program], hyper: str) -> tuple[str, ...]:
    """The members with a hyperparameter of that name that is not a component of a weight vector."""
    return tuple(
        m
        for m, p in rules.items()
        if p.simplex_of(hyper) is None and any(h.name == hyper for h in p.hypers)
    )


def _agreeing(rules: Mapping[str, Program], hyper: str) -> tuple[str, ...]:
    """The largest set of members with the same default and domain; the first of several."""
    kinds: dict[tuple[float, str], list[str]] = {}
    for member in _having(rules, hyper):
        found = rules[member].hyper(hyper)
        kinds.setdefault((found.default, str(found.domain)), []).append(member)
    size = max(map(len, kinds.values()), default=0)
    return next((tuple(members) for members in kinds.values() if len(members) == size), ())


def _rates(rules: Mapping[str, Program]) -> list[str]:
    """A learning rate for schedulers, from which those of the members follow, if they differ."""
    rates = {m: rules[m].hyper("lr") for m in _having(rules, "lr")}
    rates = {m: own for m, own in rates.items() if isinstance(own.domain, Interval)}
    if not rates or (len(rates) > 1 and _agreeing(rules, "lr") == _having(rules, "lr")):
        return []
    if len(rates) == 1:
        return [f"share lr among {', '.join(rates)}"]
    first = next(iter(rates.values()))
    # If a learning rate of 0 is out of the bounds of one member, it is out of the blend's.
    opening = "(" if any(0.0 not in own.domain for own in rates.values()) else "["
    lines = [f"hyper lr = {spell(first.default)} in {opening}0, inf)"]
    bindings = []
    for member, own in rates.items():
        rate = "lr"
        if own.default != first.default:
            ratio = f"{member.lower()}_lr_ratio"
            while ratio in _taken(rules):
                ratio += "_outer"
            factor = float(f"{own.default / first.default:.12g}") if first.default else 1.0
            lines.append(f"hyper {ratio} = {spell(factor)} in [0, inf)")
            rate = f"{ratio} * lr"
        bounds = hull(own.domain)
        if math.isfinite(bounds.upper) or bounds.lower > 0:
            rate = f"clip({rate}, {spell(bounds.lower)}, {spell(bounds.upper)})"
        bindings.append(f"{member}.lr = {rate}")
    return [*lines, "", *bindings]


def _taken(rules: Mapping[str, Program]) -> set[str]:
    """The names that the blend gives to hyperparameters of single members."""
    return {f"{m.lower()}_{h.name}" for m, p in rules.items() for h in p.hypers}
