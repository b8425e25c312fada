"""The eager backend: one readable Python function with torch operations.

Uniform values are Python floats, that is, doubles on the host. Every operation of the program is
done, in its order; nothing is reassociated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from optdsl.backends.base import PIECES, PIECES_OUTSIDE, EntryPoint, SourceModule
from optdsl.backends.branches import ROOT, Region, branches
from optdsl.backends.emitted import WIDTH, EmittedFunction, wrapped
from optdsl.backends.lifetimes import Lifetimes
from optdsl.backends.matrix_expressions import (
    MatrixPrinter,
    spelled_operations as matrix_operations,
)
from optdsl.backends.matrix_helpers import CALLS, MATRIX_HELPERS
from optdsl.backends.naming import Names, identifier
from optdsl.backends.new_parameter import OUT
from optdsl.backends.piece_helpers import PIECE_CALLS, PIECE_HELPERS
from optdsl.backends.pieces import emit_pieces
from optdsl.backends.python_expressions import HELPERS, Printer, spelled_operations
from optdsl.ir.program import Program, Value
from optdsl.ir.sections import of_matrices
from optdsl.ir.types import Extent
from optdsl.plan import Kind
from optdsl.schedule import Kernel, Result, Role

# What functions that are no roles of a step compute, by the first word of their names.
_DOCUMENTATION = {
    "measure": "The tensor's part of sums over all tensors.",
    "begin": "What all tensors share before the first step.",
    "finish": "What all tensors share after a step.",
    "move": "Coefficients after a step, and what is kept for them.",
}
# An unnamed value longer than this gets a line of its own.
_INLINE = 56


class EagerBackend:
    """Emits plain torch code."""

    name = "eager"

    def emit(
        self, kernels: Mapping[str, Kernel], dtype: str = "float32", order: str = "overlapped"
    ) -> SourceModule:
        """The module of a rule, for every dtype; see `optdsl.backends.base.Backend`."""
        emitted = (Role.INITIALIZE, Role.STEP, Role.STEP_OUTSIDE, Role.EVALUATE)
        functions = [emit_function(kernels[name]) for name in emitted if name in kernels]
        by_pieces = {Role.STEP: PIECES, Role.STEP_OUTSIDE: PIECES_OUTSIDE}
        found = [emit_pieces(kernels[r], name) for r, name in by_pieces.items() if r in kernels]
        program = next(iter(kernels.values())).program
        return module_of(program, [*functions, *(f for f in found if f is not None)])

    @staticmethod
    def plans(program: Program) -> tuple[Kind, ...]:
        """Tangents are states."""
        return ("stored",)

    @staticmethod
    def spellings() -> frozenset[str]:
        """The operations that it can emit."""
        return spelled_operations() | matrix_operations()


def module_of(program: Program, functions: Sequence[EmittedFunction]) -> SourceModule:
    """A module of some functions of a program."""
    bodies = [f.text for f in functions]
    helpers = list(helpers_of(functions).values())
    text = "\n\n\n".join([_header(program, "\n".join([*helpers, *bodies])), *helpers, *bodies])
    entries = {f.entry.name: f.entry for f in functions}
    return SourceModule(program.name, "python", text + "\n", entries)


def emit_function(
    kernel: Kernel, name: str | None = None, numbers: bool = False
) -> EmittedFunction:
    """The text of one kernel.

    Args:
        kernel: the kernel.
        name: what the function is called; by default as the kernel.
        numbers: whether it computes numbers only, and takes no tensors.
    """
    function = _Function(kernel, name or kernel.name, numbers)
    text = function.text()
    return EmittedFunction(text, function.entry, frozenset(function.printer.helpers))


def helpers_of(
    functions: Iterable[EmittedFunction], more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The texts of the functions that some functions call, by name.

    Args:
        functions: the functions.
        more: functions that may be called besides those of this backend.
    """
    needed = {name for f in functions for name in f.helpers}
    needed |= {CALLS[name] for name in needed & CALLS.keys()}
    needed |= {called for name in needed for called in PIECE_CALLS.get(name, ())}
    known = HELPERS | MATRIX_HELPERS | PIECE_HELPERS | dict(more or {})
    return {name: text for name, text in known.items() if name in needed}


def _header(program: Program, code: str) -> str:
    documentation = "\n".join([program.name + ".", "", *program.documentation])
    lines = [f'"""{documentation.rstrip()}\n"""'.replace("\\", "\\\\"), ""]
    if "math." in code:
        lines.append("import math")
    abstract = [name for name in ("Callable", "Iterable", "Sequence") if f"{name}[" in code]
    if abstract:
        lines.append(f"from collections.abc import {', '.join(abstract)}")
    if ("math." in code or abstract) and "torch" in code:
        lines.append("")
    if "torch" in code:
        lines.append("import torch")
    if "Tensor" in code:
        lines.append("from torch import Tensor")
    return "\n".join(lines).rstrip()


class _Function:
    """The text of one kernel as a Python function; `printer` spells its values."""

    def __init__(self, kernel: Kernel, name: str, numbers: bool = False) -> None:
        self._kernel, self._name, self._numbers = kernel, name, numbers
        self._program = kernel.program
        read = set(kernel.reads("state"))
        states = tuple(s.name for s in self._program.states if s.name in read)
        used = set(kernel.reads("hyper"))
        hypers = tuple(h.name for h in self._program.hypers if h.name in used)
        results = tuple(r.name for r in kernel.results)
        takes_step = bool(kernel.reads("step"))
        matrices = of_matrices(self._program.kind)
        own = [OUT] if matrices else []
        own += ["draws"] if kernel.draws else []
        self._names = Names(["theta", "g", "t", *own, *HELPERS, *MATRIX_HELPERS])
        keywords = tuple(self._names.fresh(identifier(h)) for h in hypers)
        self._states = {s: self._names.fresh(identifier(s)) for s in states}
        self.entry = EntryPoint(
            name, states, hypers, keywords, takes_step, results, draws=kernel.draws
        )
        named = dict(zip(hypers, keywords, strict=True))
        make = MatrixPrinter if matrices else Printer
        self.printer = make(self._program, named, self._states)
        self._uses = kernel.uses()
        self._absorbed = self.printer.absorbed(self._uses)
        self._branches = branches(kernel, self.printer)
        self._lifetimes: Lifetimes | None = None
        self._variables: dict[str, list[tuple[str, Value]]] = {}
        self._spare: list[str] = []
        if isinstance(self.printer, MatrixPrinter):
            host = self.printer
            self._lifetimes = Lifetimes(kernel, lambda v: host.extent(v) is Extent.UNIFORM)
            host.lifetimes = self._lifetimes
            if kernel.name == Role.STEP:
                found = (r.value for r in kernel.results if r.name == "theta")
                operations = self._program.operations
                host.parameter = next((v for v in found if operations[v].hint is not None), None)

    def text(self) -> str:
        lines = [f"    {line}" for line in self._assignments(ROOT)]
        results = [self._result(r) for r in self._kernel.results]
        returned = [f"    return {', '.join(results) or '()'}"]
        if len(results) == 1:
            returned = [f"    return ({results[0]},)"]
        elif len(returned[0]) > WIDTH:
            returned = wrapped("    return (", results, ")")
        writes = any(line.endswith(f", {OUT}={OUT})") for line in lines)
        self.entry = replace(self.entry, writes=writes)
        documentation = "The parameter after the step, then the states."
        if self.entry.writes:
            documentation = "The parameter after the step, in the memory out, then the states."
        if self._kernel.name == Role.INITIALIZE:
            documentation = "The states before the first step, whose gradient is g."
        elif self._kernel.name == Role.EVALUATE:
            documentation = "The point at which the model is evaluated, after the last step."
        elif self._kernel.name not in set(Role):
            documentation = str(_DOCUMENTATION.get(self._kernel.name.partition("_")[0], ""))
        return "\n".join([*self._signature(), f'    """{documentation}"""', *lines, *returned])

    def _signature(self) -> list[str]:
        uniform = self._program.parameter_type.extent is Extent.UNIFORM
        kind = "float" if uniform or self._numbers else "Tensor"
        inputs = () if self._numbers else ("theta", "g")
        positional = [f"{name}: {kind}" for name in (*inputs, *self._states.values())]
        keywords = ["t: float"] if self.entry.takes_step else []
        keywords += [f"{name}: float" for name in self.entry.keywords]
        keywords += [f"{OUT}: Tensor | None = None"] if self.entry.writes else []
        keywords += ["draws: object"] if self.entry.draws else []
        arguments = [*positional, *(["*", *keywords] if keywords else [])]
        return wrapped(f"def {self._name}(", arguments, f") -> tuple[{kind}, ...]:")

    def _assignments(self, region: Region, last: Value | None = None) -> list[str]:
        """The statements of a region: of the function, or of a branch of an `if`.

        Args:
            region: the region.
            last: a choice that is left out, for it is the branch's own value.
        """
        lines: list[str] = []
        for value in self._branches.get(region, ()):
            if value == last:
                continue
            if self._chooses(value):
                lines += self._choice(value)
                continue
            text = self._statement(value)
            hint = self._program.operations[value].hint
            named = hint is not None or self._uses[value] > 1 or len(text) > _INLINE
            named = named or value in self.printer.alone
            if named and value not in self._absorbed and not self.printer.leaf(value):
                lines += self._named(value, text)
                if region is ROOT:
                    self._look_for_memory()
        return lines

    def _statement(self, value: Value) -> str:
        """The expression of a value that gets a statement."""
        if isinstance(self.printer, MatrixPrinter):
            self.printer.statement = value
        text = self.printer.text(value)
        if isinstance(self.printer, MatrixPrinter):
            self.printer.statement = None
        return text

    def _named(self, value: Value, text: str) -> list[str]:
        """The statement that gives a value a variable; of matrices, those for long parts before."""
        hint = self._program.operations[value].hint
        wanted = self.printer.description(value) if hint is None else identifier(hint)
        lines: list[str] = []
        for part in self._parts(value):
            long = max(map(len, self._lines(wanted, text, value))) > WIDTH - 12
            if long or part == self.printer.overwritten(value):
                lines += self._named(part, self._statement(part))
                text = self._statement(value)
        before, text = self._reusing(value, text)
        lines += before
        name = self._variable(wanted, value)
        lines += self._lines(name, text, value)
        self.printer.bind(value, name)
        return lines

    def _reusing(self, value: Value, text: str) -> tuple[list[str], str]:
        """The expression of a value, in memory that nothing needs, or a statement that frees it."""
        if not isinstance(self.printer, MatrixPrinter) or not self._spare:
            return [], text
        if not self.printer.like_the_parameter(value):
            return [], text
        spare, self._spare = self._spare, []
        self.printer.statement = value
        written = self.printer.into(value, spare[0])
        self.printer.statement = None
        rest = spare if written is None else spare[1:]
        return [f"del {', '.join(rest)}"] if rest else [], written or text

    def _look_for_memory(self) -> None:
        """Note the variables, shaped as the parameter, that nothing needs any more."""
        if self._lifetimes is None or not isinstance(self.printer, MatrixPrinter):
            return
        always = set(self._branches[ROOT])
        for known in self._variables.values():
            for name, value in [*known]:
                if value not in always:
                    continue
                unused = self._lifetimes.unused(value) and value not in self.printer.reused
                if unused and self.printer.like_the_parameter(value):
                    known.remove((name, value))
                    self._spare.append(name)

    def _parts(self, value: Value) -> list[Value]:
        """What a statement may have statements of its own for, the longest first."""
        if self._lifetimes is None or value in self.printer.alone:
            return []
        inline = [x for x in self.printer.inline(value) if x not in self._absorbed]
        return sorted(inline, key=lambda x: -len(self.printer.text(x)))

    def _variable(self, wanted: str, value: Value) -> str:
        """A new variable for a value; of matrices, one whose value is needed no more."""
        if self._lifetimes is None:
            return self._names.fresh(wanted)
        self._lifetimes.compute(value)
        known = self._variables.setdefault(wanted, [])
        for place, (name, before) in enumerate(known):
            if self._lifetimes.dead(before):
                known[place] = name, value
                return name
        known.append((self._names.fresh(wanted), value))
        return known[-1][0]

    def _chooses(self, value: Value) -> bool:
        """Whether a value is a choice of which only one side is computed."""
        return (value, 1) in self._branches or (value, 2) in self._branches

    def _choice(self, value: Value, name: str | None = None) -> list[str]:
        """A choice of which only one side is computed, in a variable."""
        operation = self._program.operations[value]
        wanted = "chosen" if operation.hint is None else identifier(operation.hint)
        name = self._names.fresh(wanted) if name is None else name
        lines = [f"if {self.printer.text(operation.arguments[0])}:"]
        for side in (1, 2):
            chosen = operation.arguments[side]
            # A choice that is nothing else has no variable of its own.
            nested = (
                chosen in self._branches.get((value, side), ())
                and self._chooses(chosen)
                and self._program.operations[chosen].hint is None
                and self._program.type(chosen) == operation.type
            )
            inner = self._assignments((value, side), chosen if nested else None)
            if nested:
                own = self._choice(chosen, name)
                if side == 2 and not inner:
                    lines += [f"el{own[0]}", *own[1:]]
                    break
                inner += own
            else:
                inner.append(f"{name} = {self.printer.extended(chosen, operation.type)}")
            lines += [*(["else:"] if side == 2 else []), *(f"    {line}" for line in inner)]
        self.printer.bind(value, name)
        if self._lifetimes is not None:
            self._lifetimes.compute(value)
        return lines

    def _lines(self, name: str, text: str, value: Value) -> list[str]:
        parts = self.printer.parts(value)
        if len(name) + len(text) + 7 <= WIDTH or parts is None:
            return [f"{name} = {text}"]
        return [f"{name} = (", *(f"    {part}" for part in parts), ")"]

    def _result(self, result: Result) -> str:
        text = self.printer.extended(result.value, result.type)
        # A new state must not share memory with the gradient or the parameter.
        leaf = self.printer.leaf(result.value) and self._kernel.name == Role.INITIALIZE
        tensor = self.printer.extent(result.value) is not Extent.UNIFORM
        return f"{text}.clone()" if leaf and tensor else text
