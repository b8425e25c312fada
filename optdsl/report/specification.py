"""The page on a specification, and the list of the library."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from optdsl.backends.capabilities import COMPILED, chosen_backends
from optdsl.backends.tiled_passes import runs
from optdsl.costs import BYTES, bytes_of
from optdsl.diagnostics import Source
from optdsl.differentiate import held
from optdsl.ir.domain import spell, spell_in
from optdsl.ir.ops import DRAWS
from optdsl.ir.program import Operation, Program, State
from optdsl.ir.sections import OTHERWISE, name_of, of_matrices
from optdsl.ir.storage import added, stored
from optdsl.ir.types import Extent
from optdsl.passes.specialize import in_kind
from optdsl.plan.keys import tangent
from optdsl.prove.equations import equation, sizes, spelled_value
from optdsl.report.functions import named
from optdsl.report.layout import WIDTH, table, unit_of
from optdsl.syntax import ast
from optdsl.syntax.format import combination, expression, reference, statement
from optdsl.syntax.parse import parse


def describe(source: Source, program: Program, separate: Sequence[State] = ()) -> str:
    """The page that ``optdsl show NAME`` prints.

    Args:
        source: the specification.
        program: its program, with what is learned.
        separate: for a blend, the states of its members before equal ones are merged.
    """
    declaration = parse(source)
    documentation = declaration.documentation or program.documentation
    blocks = [[declaration.name.text, *(f"  {line}" for line in documentation)]]
    if declaration.combination is not None:
        blocks.append(["Made of", f"  {combination(declaration.combination)}"])
    if declaration.blend:
        kinds = (ast.Use, ast.Share, ast.Binding)
        settled = [s for s in declaration.statements if isinstance(s, kinds)]
        blocks.append(["Members", *(f"  {statement(s)}" for s in settled)])
    for kind, found in _sections(declaration, program).items():
        if found:
            title = f"Equations, {kind}" if kind else "Equations"
            blocks.append([title, *_aligned(found)])
    blocks.append(["Hyperparameters", *_hypers(program)])
    if program.learned:
        blocks.append(["Learned by hyper-gradient descent", *_learned(program)])
    blocks.append(_states(program, declaration, separate))
    blocks += _eager(program) or _compiled(program)
    claims = [statement(s) for s in declaration.statements if isinstance(s, ast.Claim)]
    if claims:
        lines = [line for claim in claims for line in _wrapped(claim, "    ")]
        blocks.append(["Claims (`optdsl verify` decides them)", *lines])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def state_bytes(program: Program) -> float:
    """Bytes of state per parameter in float32, tangents of learned hyperparameters included.

    Of a rule with sections, those of the section that has most. Tangents of a sample count as
    their part of a large tensor.
    """
    own = (s for s in _most(program, program.states) if s.type.extent is Extent.TENSOR)
    beside = BYTES * len(added(program))
    tangents = BYTES * len(program.learned) / program.sample
    found = sum(bytes_of(s.codec) for s in own) + beside + tangents
    return int(found) if found == int(found) else found


def _most(program: Program, states: Sequence[State]) -> list[State]:
    """The states of a tensor; with sections, of the one that has most."""
    kinds = range(len(program.sections) or 1)
    own = ([s for s in states if not s.sections or n in s.sections] for n in kinds)
    return max(own, key=lambda found: (_tensors(found), len(found)))


def _sections(declaration: ast.Declaration, program: Program) -> dict[str, dict[str, str]]:
    """The equations as the file has them, by sections; of modifiers, those of the program."""
    found: dict[str, dict[str, str]] = {"": {}}
    kind = ""
    for node in declaration.statements:
        if isinstance(node, ast.Section):
            kind = statement(node)
            found[kind] = {}
            if node.rule is not None:
                found[kind]["all"] = f"those of {reference(node)}"
        if isinstance(node, ast.Equation):
            found[kind][node.spelled] = expression(node.value)
    return found if declaration.combination is None else _of_program(program)


def _of_program(program: Program) -> dict[str, dict[str, str]]:
    """The equations of a program, by sections; those first that hold for every tensor."""
    kinds = program.sections
    every = [_equations(in_kind(program, kinds, n)) for n in range(len(kinds) or 1)]
    common = {
        name: text for name, text in every[0].items() if all(e.get(name) == text for e in every)
    }
    found = {"": common}
    for kind, own in zip(kinds, every, strict=False):
        title = kind if kind == OTHERWISE else f"for {kind}"
        found[title] = {name: text for name, text in own.items() if name not in common}
    return found


def _equations(program: Program) -> dict[str, str]:
    spelled = sizes(program)
    lines = (equation(program, value, spelled, named) for value in program.equations.values())
    return dict(line.split(" = ", 1) for line in lines)


def _aligned(found: Mapping[str, str]) -> list[str]:
    width = max(map(len, found), default=0)
    return [
        line
        for name, text in found.items()
        for line in _wrapped(f"{name:<{width}} = {text}", " " * (width + 5))
    ]


def _wrapped(text: str, continued: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent=continued)


def _hypers(program: Program) -> list[str]:
    rows = []
    for hyper in program.hypers:
        simplex = program.simplex_of(hyper.name)
        where = f"in {hyper.domain}" if simplex is None else f"on the simplex {simplex.name}"
        rows.append((hyper.name, f"= {spell_in(hyper.domain, hyper.default)}", where))
    return table(rows)


def _learned(program: Program) -> list[str]:
    rows, notes = [], list[str]()
    for learned in program.learned:
        options = [f"{name} = {spell(value)}" for name, value in learned.options]
        options += [] if learned.clip is None else [f"clip = {spell(learned.clip)}"]
        rest = [f"after {learned.after} steps"] if learned.after else []
        rest += [] if learned.horizon == 0 else [f"horizon {spell(learned.horizon)}"]
        rest += [] if learned.sample == 1 else [f"sample 1/{learned.sample}"]
        way = "exponentiated " if learned.exponentiated else ""
        rule = f"by {way}{learned.rule}({', '.join(options)})"
        rule += "" if learned.signal == "raw" else f" on {learned.signal}"
        scope = "" if learned.scope == "optimizer" else f"per {learned.scope} "
        rows.append((learned.hyper, f"{scope}in {learned.bounds}", rule, " ".join(rest)))
        constant = held(program, learned.hyper)
        if constant:
            notes.append(
                f"The hyper-gradient of {learned.hyper} holds the argument of "
                f"{' and of '.join(constant)} constant, as states are."
            )
    return [*table(rows), *notes]


def _states(program: Program, declaration: ast.Declaration, separate: Sequence[State]) -> list[str]:
    initial = {
        s.name.text: f"= {expression(s.initial)}"
        for s in declaration.statements
        if isinstance(s, ast.State)
    }
    rows = []
    for s in program.states:
        start = initial.get(s.name, f"for {', '.join(s.origins)}")
        if s.name not in initial and not s.origins:
            start = f"= {spelled_value(program, s.initial)}"
        unit = unit_of(s.type)
        unit += f", {' and '.join(program.sections[n] for n in s.sections)}" if s.sections else ""
        how = f", {s.codec}" if s.codec else ""
        rows.append((s.name, start, str(s.type), f"{bytes_of(s.codec)} bytes per {unit}{how}"))
    for key in added(program):
        rows.append((key, "", "tensor", f"{BYTES} bytes per parameter, as large as the parameter"))
    for x in program.learned:
        of = f", of 1 in {x.sample} elements" if x.sample > 1 else ""
        each = f"{BYTES / x.sample:g} bytes per parameter{of}"
        rows.append((tangent(x.hyper), "", "tensor", each))
    total = f"State: {state_bytes(program)} bytes per parameter in float32"
    if program.learned:
        tangents = BYTES * len(program.learned) / program.sample
        total += f" in eager code, {tangents:g} of them tangents"
        total += "; --plan tells those of compiled code"
    if separate:
        merged, apart = (_most(program, states) for states in (program.states, separate))
        total += (
            f". For the members {len(merged)} buffers, {BYTES * _tensors(merged)} bytes; without "
            f"sharing it would be {len(apart)} buffers, {BYTES * _tensors(apart)} bytes"
        )
    return [*textwrap.wrap(total, WIDTH), *table(rows)]


def _eager(program: Program) -> list[list[str]]:
    """What not all compiled kernels do, and what runs it; nothing where they do all."""
    found = [f"{name} is stored as {codec.name}" for name, codec in stored(program).items()]
    found += ["random numbers are drawn"] if any(map(_draws, program.operations)) else []
    if not found:
        return []
    where = "C runs this on the CPU, and PyTorch code on GPUs"
    if any(map(of_matrices, program.sections)):
        where = "C runs this on the CPU, and PyTorch code for matrices and on GPUs"
    text = f"{', and '.join(found)}: {where}."
    return [textwrap.wrap(text[0].upper() + text[1:], WIDTH)]


def _compiled(program: Program) -> list[list[str]]:
    """What is compiled of the sections of a rule; nothing where it is all of them."""
    parts = [in_kind(program, program.sections, n) for n in range(len(program.sections))]
    if all(chosen_backends(part) == COMPILED for part in parts):
        return []
    named = zip(map(name_of, program.sections), parts, strict=True)
    rows = [(kind, _where(part)) for kind, part in named]
    return [['Where steps run (`backend="auto"`)', *table(rows)]]


def _where(program: Program) -> str:
    """Where the steps of a section run."""
    found = chosen_backends(program)
    if not found:
        return "PyTorch code"
    if found == COMPILED:
        return "C on the CPU, Triton on GPUs"
    if runs(program):
        return 'C on the CPU; PyTorch code elsewhere, or Triton with backend="triton"'
    return "C on the CPU, products between them by PyTorch; PyTorch code elsewhere"


def _draws(operation: Operation) -> bool:
    return operation.opcode in DRAWS


def _tensors(states: Sequence[State]) -> int:
    return sum(s.type.extent is Extent.TENSOR for s in states)
