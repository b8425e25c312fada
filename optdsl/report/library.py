"""The table of the library: what each specification is, holds and needs, and where it runs.

``optdsl list`` prints it, and docs/library.md has it for readers of the documents. Reading fifty
specifications takes seconds, so ``specs/library.json`` holds the table, with a hash of the texts
that it was made from; with others the table is made anew, so that a stored file that is out of date
is slow and not wrong. ``python -m optdsl.stubs`` writes both files.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from optdsl import resources
from optdsl.backends.capabilities import compiled_backends
from optdsl.diagnostics import SpecError
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program
from optdsl.ir.sections import name_of, of_matrices
from optdsl.ir.types import Extent
from optdsl.passes.specialize import in_kind
from optdsl.passes.totals import staged
from optdsl.report.specification import state_bytes
from optdsl.specifications import library, references, search, sources
from optdsl.syntax.parse import parse

# The kinds of specifications, with what they are. The first that fits is a specification's own.
KINDS = {
    "elementwise": "every element is updated by itself",
    "norms": "elements depend on sums over their tensor, or over all tensors",
    "matrices": "equations of their own for matrices",
    "blend": "mixtures of rules",
    "modifier": "changes of any rule, as in `adamw with cautious`",
}
# A modifier is applied to the first of these rules that has its slots, where its row needs one.
_BASES = ("adamw", "muon")


@dataclass(frozen=True)
class Part:
    """What a specification is for the tensors of one of its sections.

    Attributes:
        tensors: the kind of the section; empty for a rule without sections.
        bytes: of state per parameter in float32, as `optdsl.report.specification.state_bytes`
            counts them; of a modifier, what it adds to the rule in `example`.
        beside: the types of states that are smaller or larger than the parameter, such as
            "rows * rows", of which each element has another four bytes.
        backends: the backends that run it, of "eager", "c" and "triton".
    """

    tensors: str
    bytes: float
    beside: tuple[str, ...]
    backends: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """What a test compares a specification with; see ``specs/references.toml``.

    Attributes:
        against: an optimizer that others wrote, or an algorithm written by hand.
        within: the difference of a parameter that the test allows; None where it has another
            bound, of rounding to 16 bits.
        measured: the largest difference that the test has seen, relative to the largest element
            of its tensor, in float64; None where it was not measured.
        test: the test, as pytest calls it.
        differs: where the two part, which the settings of the test leave out.
    """

    against: str
    test: str
    within: float | None = None
    measured: float | None = None
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One specification of the library.

    Attributes:
        name: what `optdsl.load` calls it.
        kind: of `KINDS`.
        title: the first line of its documentation, which may be empty outside the library.
        learns: the hyperparameters that it learns.
        needs: what it asks of its user, or of the rule that it modifies.
        parts: its sections.
        references: what it is compared with.
        origin: "library", or how its directory was found, as `optdsl.specifications.search.File`
            says it.
        file: the file, of a specification outside the library.
    """

    name: str
    kind: str
    title: str
    learns: tuple[str, ...]
    needs: tuple[str, ...]
    parts: tuple[Part, ...]
    references: tuple[Reference, ...]
    origin: str = "library"
    file: str = ""


def rows() -> tuple[Row, ...]:
    """The table: rules by name, and then modifiers; from the stored file if it is up to date."""
    place = resources.library_table_path()
    if place.is_file():
        content = json.loads(place.read_text(encoding="utf-8"))
        if content["texts"] == _texts():
            return tuple(map(_row_of, content["rows"]))
    return made()


def made() -> tuple[Row, ...]:
    """The table, made from the specifications."""
    compared = tomllib.loads(resources.references_text())
    measured = json.loads(resources.measured_text())
    found = []
    for name in (*sources.list_specs(), *sources.list_modifiers()):
        own = measured.get(name, {})
        told = ({**r, "measured": own.get(r["test"])} for r in compared.get(name, ()))
        found.append(_row(name, tuple(map(_reference_of, told))))
    return tuple(found)


def others() -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows of specifications outside the library by name, and a sentence about each trouble.

    Troubles are directories, packages and files that cannot be read, and names of several files.
    """
    found = search.everywhere()
    made, troubles = [], list(found.troubles)
    for name in sorted(found.files):
        first = found.files[name][0]
        try:
            sources.elsewhere(first.name, sources.in_library(first.name), thorough=True)
            row = _row(first.name, ())
        except SpecError as error:
            wrong = error.diagnostics[0]
            told = f"{wrong.span.place}: {wrong.message}; `optdsl check` says more"
            troubles.append(f"{first}: {told}")
        except (OSError, ValueError) as error:
            clash = isinstance(error, search.SpecClashError)
            troubles.append(str(error) if clash else f"{first}: {error}")
        else:
            made.append(replace(row, origin=first.origin, file=first.place))
    return tuple(made), tuple(troubles)


def stored_text(found: Sequence[Row]) -> str:
    """What ``specs/library.json`` holds of a table."""
    lines = ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in found)
    return f'{{"texts": "{_texts()}", "rows": [\n{lines}\n]}}\n'


def as_json(found: Iterable[Row]) -> str:
    """A table as JSON: a list with an object for each row, whose keys are the fields of `Row`."""
    return json.dumps([asdict(row) for row in found], indent=2, ensure_ascii=False) + "\n"


def _texts() -> str:
    """A hash of what the table is made from."""
    names = (*sources.list_specs(), *sources.list_modifiers())
    texts = [(name, resources.spec_text(name)) for name in names]
    compared = [resources.references_text(), resources.measured_text()]
    every = [texts, resources.prelude_text(), compared]
    return hashlib.sha256(json.dumps(every).encode()).hexdigest()


def _row_of(values: dict[str, Any]) -> Row:
    """The row that was stored as JSON, which turns tuples into lists."""
    parts = (
        Part(p["tensors"], p["bytes"], tuple(p["beside"]), tuple(p["backends"]))
        for p in values["parts"]
    )
    kept = {
        "parts": tuple(parts),
        "references": tuple(map(_reference_of, values["references"])),
    }
    lists = {key: tuple(values[key]) for key in ("learns", "needs")}
    return Row(**{**values, **kept, **lists})


def _reference_of(values: dict[str, Any]) -> Reference:
    return Reference(**{**values, "differs": tuple(values.get("differs", ()))})


def _row(name: str, compared: tuple[Reference, ...]) -> Row:
    declaration = parse(sources.open_source(name))
    modifier = declaration.modifier
    program = _read(example(name))
    documentation = declaration.documentation or (() if modifier else program.documentation)
    title = documentation[0] if documentation else ""
    needs = _needs(program)
    slots = (s.spelled for s in declaration.slots if s.spelled not in _EVERYWHERE)
    needs = (*(f"{slot} in the rule" for slot in slots), *needs)
    kind = "modifier" if modifier else "blend" if declaration.blend else _kind(program)
    own = _bytes_of(_read_base(example(name).partition(" ")[0])) if modifier else {}
    learns = tuple(x.hyper for x in program.learned)
    return Row(name, kind, title, learns, needs, _parts(program, own), compared)


# The slots that every rule has.
_EVERYWHERE = {"g", "theta'", "eval"}


def example(name: str) -> str:
    """What `optdsl.load` takes to make a rule of a specification: `name`, or a rule with it."""
    declaration = parse(sources.open_source(name))
    if not declaration.modifier:
        return name
    slots = {s.spelled.rstrip("'") for s in declaration.slots if s.spelled not in _EVERYWHERE}
    for base in _BASES:
        program = _read_base(base)
        names = *(h.name for h in program.hypers), *(s.name for s in program.states)
        if slots <= {*program.equations, *names}:
            break
    return f"{base} with {name}"


def _read_base(name: str) -> Program:
    """A rule of the library, whatever else has its name."""
    return library.read(sources.of_library(name), verify=False)


def _read(text: str) -> Program:
    """An `example`."""
    base, _, name = text.partition(" with ")
    if not name:
        return library.read(sources.open_source(text), verify=False)
    modifier = sources.open_source(name)
    rules = ((base, sources.of_library(base)), (f"{references.WITH}{name}", modifier))
    return library.read(replace(sources.combination(text), rules=rules), verify=False)


def _bytes_of(program: Program) -> dict[str, float]:
    """The bytes of state per parameter, for each of the sections, or under no name."""
    kinds = program.sections
    every = ((name_of(k), in_kind(program, kinds, n)) for n, k in enumerate(kinds))
    return {n: state_bytes(p) for n, p in every} or {"": state_bytes(program)}


def _kind(program: Program) -> str:
    if any(map(of_matrices, program.sections)):
        return "matrices"
    stages = {TABLE[o.opcode].stage for o in program.operations}
    return "norms" if stages & {Stage.REDUCTION, Stage.TOTAL} else "elementwise"


def _needs(program: Program) -> tuple[str, ...]:
    """What a rule asks of its user."""
    stages = staged(program)
    found = [f"input {name}" for name in stages.inputs] if stages else []
    found += ["eval()"] if program.evaluation is not None else []
    found += ["sums over all tensors"] if stages and stages.measures else []
    if program.sections and all(map(of_matrices, program.sections)):
        found.append("matrices only")
    return tuple(found)


def _parts(program: Program, without: Mapping[str, float]) -> tuple[Part, ...]:
    """The sections, of which the bytes of a rule without a modifier are taken off."""
    found: dict[str, Part] = {}
    for number in range(len(program.sections) or 1):
        own = in_kind(program, program.sections, number)
        tensors = name_of(program.sections[number]) if program.sections else ""
        beside = tuple(str(s.type) for s in own.states if s.type.extent is Extent.AXES)
        before = without.get(tensors, without.get("", 0))
        found[tensors] = Part(tensors, state_bytes(own) - before, beside, _runs_on(own))
    return tuple(found.values())


def _runs_on(program: Program) -> tuple[str, ...]:
    """The backends that run a program of one section; the engines decide the same."""
    # States that lag by a step cannot be summed over before it is completed.
    late = program.learned and staged(program) is not None
    return ("eager",) if late else ("eager", *compiled_backends(program))
