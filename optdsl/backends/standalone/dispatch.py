"""The functions of a standalone file that choose the part of a rule, and what tensors share."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.base import EntryPoint
from optdsl.backends.emitted import wrapped
from optdsl.backends.matrix_expressions import MatrixPrinter
from optdsl.backends.standalone import reading, texts
from optdsl.backends.standalone.lines import listed
from optdsl.backends.standalone.rule import Conditions, Part, Rule
from optdsl.ir.program import Value
from optdsl.ir.sections import name_of
from optdsl.ir.stacks import ELEMENTS, FEWEST
from optdsl.ir.types import TAPS

BEGIN, FINISH = "begin_shared", "finish_shared"


def dispatch(rule: Rule) -> list[str]:
    """The tables of the functions of each part, and the function that chooses one."""
    if len(rule.parts) == 1:
        return []
    tables = [_table("UPDATE", "update", rule.parts)]
    for level in range(len(rule.totals)):
        having = [p for p in rule.parts if p.measures[level] is not None]
        others = [p for p in rule.parts if p.measures[level] is None]
        tables.append(_table(f"MEASURED_{level}", f"measured_{level}", having, others))
    if rule.evaluates:
        tables.append(_table("POINT", "point", rule.parts))
    head = [
        "def part_of(p: Tensor, kind: str | None, hypers: dict[str, float]) -> str:",
        '    """The functions for a tensor: those of its kind, and of its lengths."""',
        "    kind = kind_of(p, kind)",
    ]
    lines: list[str] = []
    for kind, conditions in rule.conditions.items():
        lines += [f'if kind == "{name_of(kind)}":']
        lines += [f"    theta = {reading.read(kind, 'p')}"]
        lines += [f"    {x}" for x in wrapped("holds = (", _spelled(conditions), ",)")]
        rows = [f'{p.holds}: "{label(p)}"' for p in rule.parts if p.kind == kind]
        lines += [f"    {x}" for x in wrapped("return {", rows, "}[holds]")]
    lines.append("return kind")
    return ["\n\n".join(tables), "\n".join([*head, *(f"    {line}" for line in lines)])]


def gathering(rule: Rule) -> list[str]:
    """The functions that gather the tensors on which one call works; none if there is none."""
    if not rule.gathers:
        return []
    several = len(rule.parts) > 1
    text = texts.ALIKE.replace("@PART@", "part, " if several else "")
    found = [text.replace("@FOR@", " by each part" if several else "")]
    if rule.batched:
        text = texts.BATCHES.replace("@FEWEST@", str(FEWEST))
        found.append(text.replace("@ELEMENTS@", str(ELEMENTS)))
    return found


def giving(rule: Rule) -> list[str]:
    """The function for what is given to a step, and its tables; none without inputs."""
    if not rule.inputs:
        return []
    several = len(rule.parts) > 1
    names = [*listed("INPUTS = (", rule.inputs), *listed("REQUIRED = (", rule.required)]
    if several:
        names.append(_table("BEGIN", "begin", rule.parts))
    text = texts.GIVEN.replace("@SKIPPED@", "_, " if several else "")
    text = text.replace("@PART@", "part, " if several else "")
    text = text.replace("@BEGIN@", "BEGIN[part]" if several else "begin")
    return ["\n".join(names), text]


def label(part: Part) -> str:
    """What the tables call a part."""
    if not part.holds:
        return name_of(part.kind)
    return f"{name_of(part.kind)} {''.join(str(int(x)) for x in part.holds)}"


def _spelled(conditions: Conditions) -> list[str]:
    program = conditions.program
    hypers = {h.name: f'hypers["{h.name}"]' for h in program.hypers}
    printer = MatrixPrinter(program, hypers, {})
    for value, operation in enumerate(program.operations):
        if operation.opcode == "length" and operation.attribute == TAPS:
            printer.bind(Value(value), reading.TAPS_OF_TENSOR)
    return [printer.text(value) for value in conditions.values]


def _table(name: str, function: str, parts: Sequence[Part], without: Sequence[Part] = ()) -> str:
    rows = [f'"{label(p)}": {function}{p.name}' for p in parts]
    rows += [f'"{label(p)}": lambda p, g, state, hypers: {{}}' for p in without]
    return "\n".join(wrapped(f"{name} = {{", rows, "}"))


def sharing(rule: Rule, entries: Sequence[EntryPoint]) -> list[str]:
    """The functions for what all tensors share; none if they share nothing."""
    if not rule.shared:
        return []
    by_name = {entry.name: entry for entry in entries}
    keys = ", ".join(f'"shared/{s.name}"' for s in rule.shared)
    names = ", ".join(f'"{name}"' for name in rule.read_by_shared)
    begin = _call(by_name[BEGIN])
    finish = _call(by_name[FINISH])
    return [
        "# What all tensors share, and the hyperparameters that it depends on.\n"
        f"SHARED = ({keys},)\nREAD_BY_SHARED = ({names}{',' if names else ''})",
        _SHARE.replace("@BEGIN@", begin),
        _ADVANCE.replace("@FINISH@", finish),
    ]


def _call(entry: EntryPoint) -> str:
    keywords = ["t=t"] if entry.takes_step else []
    pairs = zip(entry.keywords, entry.hypers, strict=True)
    keywords += [f'{keyword}=hypers["{hyper}"]' for keyword, hyper in pairs]
    lines = wrapped(f"found = {entry.name}(", keywords, ")")
    return "\n".join([lines[0], *(f"    {line}" for line in lines[1:])])


_SHARE = '''\
def share(groups: list[dict[str, Any]], every: list[dict[str, float]]) -> None:
    """Give a step the numbers that all tensors share, which start at the first one."""
    for name in READ_BY_SHARED:
        if len({hypers[name] for hypers in every}) > 1:
            raise ValueError(
                f"{NAME}: {name} differs between parameter groups, and what all tensors share "
                f"depends on it; give all groups the same"
            )
    hypers = every[0]
    having = next((group for group in groups if group.get("shared/step")), None)
    if having is None:
        t = 1.0
        @BEGIN@
        start = dict(zip(SHARED, found, strict=True)) | {"shared/step": 0.0}
    else:
        start = {name: float(having[name]) for name in (*SHARED, "shared/step")}
    for group, hypers in zip(groups, every, strict=True):
        group.update(start)
        hypers.update((name, start[name]) for name in SHARED)'''

_ADVANCE = '''\
def advance(groups: list[dict[str, Any]], hypers: dict[str, float]) -> None:
    """Set what all tensors share to its values after a step."""
    t = groups[0]["shared/step"] + 1
    @FINISH@
    for group in groups:
        group.update(zip(SHARED, map(float, found), strict=True))
        group["shared/step"] = t'''
