"""The compiler: from the text of a specification to an optimizer class, one call a stage.

text -> ast.Declaration -> ir.Program -> differentiated -> passes -> kernels -> source -> class
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from optdsl import library
from optdsl.backends.base import DTYPES, Backend, SourceModule
from optdsl.backends.c import CBackend
from optdsl.backends.eager import EagerBackend
from optdsl.backends.triton import TritonBackend
from optdsl.compose import LEARNER, Remark, compose, member_name, summary
from optdsl.diagnostics import Source, SpecWarning, render
from optdsl.differentiate import differentiate
from optdsl.ir.builder import MAX_OPERATIONS, TooManyOperations
from optdsl.ir.program import Learned, Program
from optdsl.ir.text import parse_program, print_program
from optdsl.ir.verify import verify
from optdsl.learners import Learners, Rulebook, paths
from optdsl.learning import Coefficient, scalarized
from optdsl.options import LearnOption, OptionError, canonical, check_keywords, compile_options
from optdsl.passes.pipeline import PREPARATION, run_passes
from optdsl.plan import Plan, plans
from optdsl.references import beside_of, folded
from optdsl.runtime.build.artifact_cache import noted
from optdsl.schedule import cheapest, schedule
from optdsl.selection import check_backend, select
from optdsl.syntax.format import format
from optdsl.syntax.parse import parse

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

BACKENDS: dict[str, Backend] = {b.name: b for b in (EagerBackend(), CBackend(), TritonBackend())}


def load(
    name: str | os.PathLike[str],
    *,
    backend: str = "auto",
    order: str = "overlapped",
    learn: LearnOption = True,
    verify: bool = True,
    **hypers: Never,
) -> type[CompiledOptimizer]:
    """Compile an optimizer of the library, or a ``.opt`` file.

    Args:
        name: a name that `list_specs` lists, or the path of a ``.opt`` file.
        backend: how it runs. "eager" is plain torch, on every device; "c" is compiled kernels for
            the CPU, built by the system's C compiler when they are first needed; "triton" is
            kernels for the GPU; "auto" is the fastest that works for a parameter's device and
            dtype. Without a C compiler or without Triton, these warn and run as "eager".
        order: when learned coefficients move. "exact" is the order of Ozkara et al. (2024): they
            learn from a gradient before the step that uses it. "overlapped" lets them act from
            the next step on, so that a fused kernel needs one pass over memory only.
        learn: True learns what the specification says, False nothing; a list of names learns a
            part of what it says; a dict of `Learn` by name replaces it.
        verify: whether a claim of the specification (``recovers``, ``misses``) that is refuted is
            an error.
        **hypers: none: the class takes hyperparameters.

    Returns:
        A `torch.optim.Optimizer` class: ``cls(params, lr=..., ...)`` takes the hyperparameters
        by their names in the specification. The same arguments give the same class.

    Raises:
        UnknownSpecError: (a LookupError) when the library has no such name.
        OSError: when the file cannot be read.
        SpecError: (a ValueError) with every mistake of the specification.
        OptionError: (a ValueError) for an option that cannot be.
        TypeError: for an option that there is not.

    Warns:
        SpecWarning: for what is doubtful in the specification and no mistake.
    """
    check_keywords("load", hypers)
    return _compile(library.open_source(name), backend, order, learn, verify)


def compile(
    text: str,
    *,
    backend: str = "auto",
    order: str = "overlapped",
    learn: LearnOption = True,
    verify: bool = True,
    **hypers: Never,
) -> type[CompiledOptimizer]:
    """Compile the text of a specification; see `load`."""
    check_keywords("compile", hypers)
    return _compile(Source("<text>", text), backend, order, learn, verify)


def blend(
    *rules: str | os.PathLike[str],
    name: str | None = None,
    backend: str = "auto",
    order: str = "overlapped",
    learn: LearnOption = True,
    **hypers: Never,
) -> type[CompiledOptimizer]:
    """Compile a mixture of any rules: their updates with weights that are learned while training.

    ``blend("adam", "lion")`` is an optimizer with the weights ``w_adam`` and ``w_lion``, which sum
    to one; with one of them at 1 it is that rule, to the bit in eager code. ``optdsl blend`` writes
    the same as a specification to go on from.

    Args:
        *rules: two or more, each a name of the library or the path of a ``.opt`` file.
        name: the class's name; by default the rules' names in a row.
        backend: as of `load`.
        order: as of `load`.
        learn: as of `load`; the weights are called ``w``.
        **hypers: as of `load`.

    Raises:
        UnknownSpecError, OSError, SpecError, OptionError, TypeError: as `load`.

    Warns:
        SpecWarning: for hyperparameters that the rules share and use in different places.
    """
    check_keywords("blend", hypers)
    for rule in rules:
        if not isinstance(rule, str | os.PathLike):
            wrong = type(rule).__name__
            raise TypeError(f"blend takes names and paths, not a {wrong}; of a list: blend(*rules)")
    return _compile(blend_source(rules, name), backend, order, learn, verify=True, composed=True)


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
    opened = [library.open_source(rule) for rule in rules]
    members: dict[str, Source] = {}
    for source in opened:
        stem = Path(source.name).stem
        member = member_name(stem, library.read(source))
        if source.directory is not None and folded(member) != folded(stem):
            raise OptionError(f"{source.name}: a blend cannot write this name; rename the file")
        if member in members:
            raise OptionError(
                f"{member} is listed twice; in a file, `use {member} as A, {member} as B` does that"
            )
        beside = directory is None or source.directory is None
        if not beside and not os.path.samefile(directory or "", source.directory or ""):
            raise OptionError(
                f"{source.name} is in another directory; a blend finds rules beside itself"
            )
        if directory is not None and source.directory is None:
            near = beside_of(directory).get(folded(member), [])
            if near:
                raise OptionError(
                    f"a blend in {directory} would take {near[0]} for {member}, and not the "
                    f"library's; name that file, or write elsewhere"
                )
        members[member] = source
    near = [] if directory is None else beside_of(directory).get(folded(LEARNER), [])
    if near:
        raise OptionError(
            f"a blend in {directory} would learn its weights by {near[0]}, and not by the "
            f"library's {LEARNER}; rename that file, or write elsewhere"
        )
    text = compose({m: library.read(s) for m, s in members.items()}, name)
    text = format(parse(Source("<text>", text)))
    return Source("<text>", text, directory, tuple(members.items()))


def derive(source: Source, learn: LearnOption = True) -> Program:
    """The program that is scheduled: lowered, differentiated, and through all passes."""
    program = select(library.read(source), learn, Rulebook(source))
    return _derive(program)


def emit(
    source: Source,
    backend: str = "eager",
    learn: LearnOption = True,
    order: str = "overlapped",
    dtype: str = "float32",
) -> SourceModule:
    """The source text that a backend makes of a specification; torch is not needed.

    Args:
        source: the specification.
        backend: "eager", "c" or "triton".
        learn: as of `load`.
        order: as of `load`.
        dtype: of the parameters, for a backend whose text depends on it.

    Raises:
        OptionError, SpecError: as `load`.
    """
    options = compile_options(backend, order)
    if options.backend not in BACKENDS:
        raise OptionError(f"backend={backend!r} is no text; there are {', '.join(BACKENDS)}")
    if dtype not in DTYPES:
        raise OptionError(f"dtype={dtype!r} cannot be; there are {', '.join(DTYPES)}")
    chosen = BACKENDS[options.backend]
    check_backend(options.backend, select(library.read(source), learn, Rulebook(source)).learned)
    kernels = schedule(plan(source, options.backend, learn, dtype))
    return chosen.emit(kernels, dtype, options.order)


def plan(
    source: Source, backend: str = "c", learn: LearnOption = True, dtype: str = "float32"
) -> Plan:
    """How steps and hyper-gradients fit together in a backend; see `optdsl.plan`."""
    rounded = dtype in {"bfloat16", "float16"}
    return cheapest(plans(derive(source, learn), rounded, BACKENDS[backend].plans))


def _derive(program: Program) -> Program:
    try:
        # Equal values are one first: each has one derivative then.
        single = run_passes(program, PREPARATION)
        derived = verify(differentiate(single, [x.hyper for x in single.learned]))
        return run_passes(derived)
    except TooManyOperations:
        raise OptionError(
            f"{program.name}: its tangents need more than {MAX_OPERATIONS:,} operations; "
            f"learn fewer hyperparameters"
        ) from None


def _compile(
    source: Source,
    backend: str,
    order: str,
    learn: LearnOption,
    verify: bool,
    composed: bool = False,
) -> type[CompiledOptimizer]:
    """The class; `composed` is for a text that the user has not written and cannot see."""
    options = compile_options(backend, order)
    recipe, learned, files, remarks = _front(source, learn, verify)
    if remarks:
        # The place that matters is the call of `load`, `compile` or `blend`.
        told = summary(remarks) if composed else "\n\n".join(r.text for r in remarks)
        warnings.warn(told, SpecWarning, stacklevel=3)
    check_backend(options.backend, learned)
    # Equal calls give one class: a pickle has no more arguments than are needed.
    arguments = (recipe, options.backend, options.order, learned)
    return make_class(*arguments, files) if files else make_class(*arguments)


def _front(
    source: Source, learn: LearnOption, verify: bool
) -> tuple[library.Recipe, tuple[Learned, ...], Learners, tuple[Remark, ...]]:
    """What makes a class: the recipe, what is learned, and by which files; and what to say of it.

    It comes from a note where there is one.
    """

    def make() -> str:
        specified = library.specification(source, verify)
        rules = Rulebook(source)
        program = select(specified.program, learn, rules)
        files = rules.used(program.learned)
        remarks = [(d.code, d.span.text, render(d)) for d in specified.remarks]
        return json.dumps([library.recipe(source), print_program(program), files, remarks])

    wish = canonical(learn)

    def read(
        text: str,
    ) -> tuple[library.Recipe, tuple[Learned, ...], Learners, tuple[Remark, ...]]:
        values, program, named, remarks = json.loads(text)
        files = tuple((name, library.recipe_of(recipe)) for name, recipe in named)
        learned = _checked(program).learned
        return (
            library.recipe_of(values),
            learned,
            files,
            tuple(Remark(*map(str, r)) for r in remarks),
        )

    if wish is None:
        return read(make())
    key = [json.dumps(library.surroundings(source)), f"learn={wish} {verify=}"]
    try:
        opened = [library.surroundings(library.open_source(path)) for path in paths(learn)]
    except (OSError, ValueError):
        return read(make())  # which says what is wrong
    return noted("front", [*key, json.dumps(opened)], make, read)


@functools.lru_cache(maxsize=256)
def make_class(
    recipe: library.Recipe,
    backend: str,
    order: str,
    learned: tuple[Learned, ...],
    files: Learners = (),
) -> type[CompiledOptimizer]:
    """The optimizer class of a specification; equal arguments give the same class.

    Pickled optimizers name this function and its arguments, the texts of members included, and of
    the files by whose rules it learns.
    """
    from optdsl.runtime.engines.compiled import Compiled
    from optdsl.runtime.engines.selection import Engines
    from optdsl.runtime.torch_api.make import make_optimizer

    def make() -> str:
        # What was verified when the class was first made need not be again.
        specified = library.read(library.from_recipe(recipe), verify=False)
        return print_program(_derive(replace(specified, learned=learned)))

    program = noted("derived", [json.dumps(recipe), repr(learned)], make, _checked)
    arguments = (recipe, backend, order, learned)
    again = (make_class, (*arguments, files) if files else arguments)
    own = {name: library.from_recipe(values) for name, values in files}
    coefficients = tuple(_coefficient(x, own.get(x.rule)) for x in learned)
    engines = Engines(program, backend, order)
    return make_optimizer(Compiled(program, engines, coefficients, order, again))


def _checked(text: str) -> Program:
    """The program of a text that was kept, which may have been changed since."""
    return verify(parse_program(text))


def _identity(source: Source) -> list[Any]:
    """What the program of a rule depends on: of one that came with a class, its own texts."""
    return (
        list(library.recipe(source)) if source.rules is not None else library.surroundings(source)
    )


def _coefficient(learned: Learned, own: Source | None) -> Coefficient:
    """A learned hyperparameter with the rule that runs on it.

    Args:
        learned: how it is learned.
        own: the rule, where it is none of the library's.
    """
    source = own or library.open_source(learned.rule)

    def make() -> str:
        return print_program(scalarized(library.read(source, verify=own is None)))

    key = [json.dumps(_identity(source))]
    return Coefficient(learned, noted("scalar", key, make, _checked))
