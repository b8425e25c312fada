"""What the front half of the compiler makes of a specification, and its text for the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from optdsl.ir.program import Learned, Program
from optdsl.ir.text import parse_program, print_program
from optdsl.ir.verify import verify
from optdsl.learning import Coefficient
from optdsl.specifications.sources import Recipe, RuleFiles, recipe_of


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


# Codecs by the names of what they store.
Stores = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Elaboration:
    """What the front half makes of a specification. Equal ones make one class.

    Attributes:
        recipe: the text, and those of all rules that it refers to.
        learned: the hyperparameters that are learned.
        files: the rules by which they learn that are files of the user's.
        store: the codecs that the user has chosen, by what they store.
        program: what runs, differentiated.
        coefficients: what is learned, with the rules that move it.
        remarks: warnings and notes about the text.
    """

    recipe: Recipe
    learned: tuple[Learned, ...]
    files: RuleFiles
    store: Stores
    program: Program = field(compare=False)
    coefficients: tuple[Coefficient, ...] = field(compare=False)
    remarks: tuple[Remark, ...] = field(default=(), compare=False)


def print_elaboration(found: Elaboration) -> str:
    """All of it as JSON."""
    rules = [print_program(c.rule) for c in found.coefficients]
    parts = [
        found.recipe,
        found.files,
        found.store,
        found.remarks,
        print_program(found.program),
        rules,
    ]
    return json.dumps(parts)


def parse_elaboration(text: str) -> Elaboration:
    """Read what `print_elaboration` wrote.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: for anything else.
    """
    recipe, files, store, remarks, printed, rules = json.loads(text)
    program = verify(parse_program(printed))
    coefficients = tuple(
        Coefficient(x, verify(parse_program(rule)))
        for x, rule in zip(program.learned, rules, strict=True)
    )
    return Elaboration(
        recipe_of(recipe),
        program.learned,
        tuple((name, recipe_of(values)) for name, values in files),
        tuple((str(name), str(codec)) for name, codec in store),
        program,
        coefficients,
        tuple(Remark(*map(str, r)) for r in remarks),
    )
