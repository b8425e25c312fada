"""The text of a blend of given rules: a mixture of their updates on a learned simplex."""

from __future__ import annotations

import keyword
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from optdsl.blending.members import Member
from optdsl.blending.world import acting
from optdsl.diagnostics import Source, Span
from optdsl.ir.domain import Interval, hull, spell
from optdsl.ir.program import Program
from optdsl.lower.evaluation import EVALUATION
from optdsl.options import OptionError
from optdsl.specifications import library, sources
from optdsl.specifications.search import folded
from optdsl.specifications.sources import beside_of
from optdsl.syntax.format import format
from optdsl.syntax.parse import KEYWORDS, parse

# The rule by which a blend learns its weights.
LEARNER = "SGD"


def blend_source(
    rules: Sequence[str | os.PathLike[str]],
    name: str | None = None,
    directory: str | None = None,
) -> Source:
    """The specification that mixes some rules, with the rules' own texts.

    Args:
        rules: names of the library or paths.
        name: the blend's name.
        directory: where the specification will lie; the rules that are files must lie there too.

    Raises:
        OptionError: for rules that cannot be blended, or not in that directory; and as `load`.
    """
    beside = beside_of(directory)
    members: dict[str, Source] = {}
    for source in [sources.open_source(rule) for rule in rules]:
        stem = Path(source.name).stem
        member = member_name(stem, library.read(source))
        if source.directory is not None and folded(member) != folded(stem):
            raise OptionError(f"{source.name}: a blend cannot write this name; rename the file")
        if member in members:
            raise OptionError(
                f"{member} is listed twice; in a file, `use {member} as A, {member} as B` does that"
            )
        near = beside.get(folded(member))
        if source.directory is None:
            if near:
                raise OptionError(
                    f"a blend in {directory} would take {near[0]} for {member}, and not the "
                    f"library's; name that file, or write elsewhere"
                )
        elif directory is not None and not os.path.samefile(directory, source.directory):
            other = None if near else sources.elsewhere(member, sources.in_library(member))
            if other is None or not os.path.samefile(other, source.name):
                raise OptionError(
                    f"{source.name} is in another directory; a blend finds rules beside itself, "
                    f"and in the directories of --path, OPTDSL_PATH and packages"
                )
        members[member] = source
    if near := beside.get(folded(LEARNER)):
        raise OptionError(
            f"a blend in {directory} would learn its weights by {near[0]}, and not by the "
            f"library's {LEARNER}; rename that file, or write elsewhere"
        )
    text = compose({m: library.read(s) for m, s in members.items()}, name)
    text = format(parse(Source("<text>", text)))
    return Source("<text>", text, directory, tuple(members.items()))


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
