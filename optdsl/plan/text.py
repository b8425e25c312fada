"""Plans as text: ``parse_plan(print_plan(p)) == p``."""

from __future__ import annotations

import json

from optdsl.ir.program import Program
from optdsl.ir.text import parse_program, print_program
from optdsl.ir.verify import verify
from optdsl.plan import Plan


def print_plan(plan: Plan) -> str:
    """A plan as JSON, with its programs as `optdsl.ir.text` prints them."""
    programs = {"advance": plan.advance, "complete": plan.complete, "fused": plan.fused}
    if plan.outside is not None:
        programs["outside"] = plan.outside
    texts = {name: p and print_program(p) for name, p in programs.items()}
    sample = {} if plan.sample == 1 else {"sample": plan.sample}
    squared = {"squared": True} if plan.squared else {}
    found = {"kind": plan.kind, "kept": plan.kept, "hypers": plan.hypers}
    return json.dumps({**found, **sample, **squared, **texts})


def parse_plan(text: str) -> Plan:
    """Read what `print_plan` wrote.

    Raises:
        ValueError: for anything else.
    """
    found = json.loads(text)
    advance, complete, fused = (_program(found[name]) for name in ("advance", "complete", "fused"))
    if advance is None:
        raise ValueError("a plan takes steps")
    kept, hypers = (tuple(found[name]) for name in ("kept", "hypers"))
    sample, outside = found.get("sample", 1), _program(found.get("outside"))
    rest = sample, outside, found.get("squared", False)
    return Plan(found["kind"], advance, complete, fused, kept, hypers, *rest)


def _program(text: str | None) -> Program | None:
    return None if text is None else verify(parse_program(text))
