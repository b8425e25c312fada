"""The compiler: from the text of a specification to an optimizer class, one call a stage.

The front half ends with a differentiated program: text, tree, program, blend, derivatives, passes.
It runs when a class is made (`elaborate`). The back half goes on to a plan, kernels and source
text (`artifact`); it runs for each backend and dtype when an engine is first asked for.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from optdsl import resources
from optdsl.artifact import Artifact, BackHalf, Target, parse_artifact, print_artifact
from optdsl.backends.base import DTYPES, Backend, SourceModule
from optdsl.backends.c import CBackend
from optdsl.backends.eager import EagerBackend
from optdsl.backends.text import parse_module, print_module
from optdsl.backends.triton import TritonBackend
from optdsl.backends.triton.learning import emit_learning
from optdsl.compose import Remark
from optdsl.diagnostics import Source, render
from optdsl.differentiate import differentiate
from optdsl.ir.builder import MAX_OPERATIONS, TooManyOperations
from optdsl.ir.derivatives import NoDerivative
from optdsl.ir.program import Learned, Program
from optdsl.ir.sections import of_matrices
from optdsl.ir.text import parse_program, print_program
from optdsl.ir.verify import verify
from optdsl.learning import Block, Coefficient, scalarized
from optdsl.options import LearnOption, OptionError, canonical, compile_options
from optdsl.passes.pipeline import PREPARATION, run_passes
from optdsl.passes.specialize import specialize
from optdsl.passes.totals import TOTAL, staged
from optdsl.plan import Plan, plans
from optdsl.runtime.build.artifact_cache import noted
from optdsl.schedule import cheapest, evaluating, schedule
from optdsl.selection import check_backend, select, with_storage
from optdsl.specifications import library
from optdsl.specifications.learners import Learners, Rulebook, paths

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

BACKENDS: dict[str, Backend] = {b.name: b for b in (EagerBackend(), CBackend(), TritonBackend())}


def derive(source: Source, learn: LearnOption = True) -> Program:
    """The program that is scheduled: lowered, differentiated, and through all passes."""
    return _derived(select(library.read(source), learn, Rulebook(source)))


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

    Returns:
        The module; of a rule with sections, the texts for all of them, which have no entries.

    Raises:
        OptionError, SpecError: as `load`.
    """
    options = compile_options(backend, order)
    if options.backend not in BACKENDS:
        raise OptionError(f"backend={backend!r} is no text; there are {', '.join(BACKENDS)}")
    if dtype not in DTYPES:
        raise OptionError(f"dtype={dtype!r} cannot be; there are {', '.join(DTYPES)}")
    selected = select(library.read(source), learn, Rulebook(source))
    check_backend(options.backend, selected, selected.learned)
    target = Target(options.backend, dtype, options.order)
    divided = parts(_derived(selected))
    if len(divided) == 1:
        return _compiled(divided[0][1], target).module
    mark = "//" if backend == "c" else "#"
    texts = []
    for title, part in divided:
        text = f"{mark} The {backend} backend takes no matrices; eager code runs here.\n"
        if BACKENDS[options.backend].matrices or not of_matrices(part.kind):
            text = _compiled(part, target).module.text
        texts.append(f"{mark} --- {title} ---\n\n{text}")
    return SourceModule(selected.name, options.backend, "\n\n".join(texts), {})


def parts(program: Program) -> list[tuple[str, Program]]:
    """The programs of a rule, through all passes, with what each is for.

    There is one for each section, and where steps have stages (see `optdsl.passes.totals`), one
    for each stage and section; most rules are one program.
    """
    stages = staged(program)
    steps = [("", program)]
    if stages is not None:
        measured = zip(stages.totals, stages.measures, strict=True)
        steps = [*((f"{', '.join(n)} of ", p) for n, p in measured), ("", stages.program)]
    found = []
    for title, step in steps:
        for section in range(len(step.sections) or 1):
            part = run_passes(specialize(step, section))
            if not title or any(s.name.startswith(TOTAL) for s in part.states):
                found.append((f"{title}{part.kind or 'a step'}", part))
    return found


def plan(
    source: Source, backend: str = "c", learn: LearnOption = True, dtype: str = "float32"
) -> Plan:
    """How steps and hyper-gradients fit together in a backend; see `optdsl.plan`."""
    return _planned(derive(source, learn), Target(backend, dtype))


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

    recipe: library.Recipe
    learned: tuple[Learned, ...]
    files: Learners
    store: Stores
    program: Program = field(compare=False)
    coefficients: tuple[Coefficient, ...] = field(compare=False)
    remarks: tuple[Remark, ...] = field(default=(), compare=False)


def elaborate(
    source: Source,
    learn: LearnOption = True,
    verify: bool = True,
    store: Mapping[str, str] | None = None,
) -> Elaboration:
    """The front half of the compiler, from its cache entry if there is one.

    Args:
        source: the specification.
        learn: as of `load`.
        verify: as of `load`.
        store: as of `load`.

    Raises:
        OptionError, SpecError: as `load`.
    """
    kept: Stores = ()

    def make() -> str:
        specified = library.specification(source, verify)
        rules = Rulebook(source)
        program = select(with_storage(specified.program, store), learn, rules)
        remarks = tuple(Remark(d.code, d.span.text, render(d)) for d in specified.remarks)
        files = rules.used(program.learned)
        return _printed(_elaborated(library.recipe(source), program, files, kept, remarks))

    wish = canonical(learn)
    if store is not None:
        with_storage(library.specification(source, verify).program, store)
        kept = tuple(sorted(store.items()))
    if wish is None:
        return _parsed(make())
    try:
        named = [library.surroundings(library.open_source(path)) for path in paths(learn)]
    except (OSError, ValueError):
        return _parsed(make())  # which says what is wrong
    key = [
        json.dumps(library.surroundings(source)),
        f"learn={wish} {verify=} {kept=}",
        json.dumps(named),
    ]
    return noted("rule", key, make, _parsed)


def _elaborated(
    recipe: library.Recipe,
    program: Program,
    files: Learners,
    store: Stores,
    remarks: tuple[Remark, ...] = (),
) -> Elaboration:
    """The end of the front half: derivatives, and the rules that move what is learned."""
    own = {name: library.from_recipe(values) for name, values in files}
    # The claims of the user's own files were decided when the files were selected.
    rules = (
        library.read(own[x.rule], verify=False)
        if x.rule in own
        else library.read(library.open_source(x.rule))
        for x in program.learned
    )
    coefficients = tuple(
        Coefficient(x, scalarized(rule)) for x, rule in zip(program.learned, rules, strict=True)
    )
    derived = _derived(program)
    return Elaboration(recipe, program.learned, files, store, derived, coefficients, remarks)


def _derived(program: Program) -> Program:
    """The program with the tangents of what it learns, through all passes."""
    try:
        # Equal values are one first: each has one derivative then.
        single = run_passes(program, PREPARATION)
        derived = verify(differentiate(single, [x.hyper for x in single.learned]))
        return run_passes(derived)
    except NoDerivative as error:
        raise OptionError(
            f"{program.name}: the function {error} has no derivative, so that nothing can be "
            f"learned that moves the parameter through it alone"
        ) from None
    except TooManyOperations:
        raise OptionError(
            f"{program.name}: its tangents need more than {MAX_OPERATIONS:,} operations; "
            f"learn fewer hyperparameters"
        ) from None


def _printed(found: Elaboration) -> str:
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


def _parsed(text: str) -> Elaboration:
    """Read what `_printed` wrote, which may have been changed since."""
    recipe, files, store, remarks, printed, rules = json.loads(text)
    program = verify(parse_program(printed))
    coefficients = tuple(
        Coefficient(x, verify(parse_program(rule)))
        for x, rule in zip(program.learned, rules, strict=True)
    )
    return Elaboration(
        library.recipe_of(recipe),
        program.learned,
        tuple((name, library.recipe_of(values)) for name, values in files),
        tuple((str(name), str(codec)) for name, codec in store),
        program,
        coefficients,
        tuple(Remark(*map(str, r)) for r in remarks),
    )


def artifact(program: Program, target: Target) -> Artifact:
    """The back half of the compiler, from its cache entry if there is one.

    Args:
        program: differentiated, through all passes.
        target: what it is compiled for.
    """
    return noted(
        "artifact",
        [print_program(program), repr(target)],
        lambda: print_artifact(_compiled(program, target)),
        lambda text: parse_artifact(text, program, target),
    )


def _compiled(program: Program, target: Target) -> Artifact:
    planned = _planned(program, target)
    kernels = schedule(planned)
    module = BACKENDS[target.backend].emit(kernels, target.dtype, target.order)
    return Artifact(target, program, planned, module)


def _planned(program: Program, target: Target) -> Plan:
    return cheapest(plans(program, target.rounded, BACKENDS[target.backend].plans))


def evaluation(program: Program) -> SourceModule:
    """What computes the point at which the model is evaluated, on any device, from its cache entry.

    Args:
        program: through all passes; it has such a point.
    """
    return noted(
        "evaluation",
        [print_program(program)],
        lambda: print_module(BACKENDS["eager"].emit(evaluating(program), "float64")),
        parse_module,
    )


def learning(blocks: Sequence[Block]) -> tuple[SourceModule, ...]:
    """What moves coefficients on the host: a module for each block, to be run on floats."""

    def make() -> str:
        kernels = [schedule(Plan("none", block.program)) for block in blocks]
        return json.dumps([print_module(BACKENDS["eager"].emit(k, "float64")) for k in kernels])

    def read(text: str) -> tuple[SourceModule, ...]:
        modules = tuple(map(parse_module, json.loads(text)))
        if len(modules) != len(blocks):
            raise ValueError("another number of blocks")
        return modules

    if not blocks:
        return ()
    parts = [(repr(c.learned), print_program(c.rule)) for b in blocks for c in b.coefficients]
    shape = [(len(b.coefficients), b.vector) for b in blocks]
    return noted("learning", [json.dumps([parts, shape])], make, read)


def make_class(
    recipe: library.Recipe,
    backend: str,
    order: str,
    learned: tuple[Learned, ...],
    files: Learners = (),
    store: Stores = (),
) -> type[CompiledOptimizer]:
    """The optimizer class of a specification; equal arguments give the same class.

    Pickled optimizers name this function and its arguments, the texts of members included, and of
    the files by whose rules it learns.
    """
    return optimizer_class(_elaborated_again(recipe, learned, files, store), backend, order)


@functools.lru_cache(maxsize=256)
def _elaborated_again(
    recipe: library.Recipe, learned: tuple[Learned, ...], files: Learners, store: Stores
) -> Elaboration:
    """The same elaboration as when the class was first made."""

    def make() -> str:
        program = library.read(library.from_recipe(recipe), verify=False)
        program = with_storage(replace(program, learned=learned), dict(store))
        return _printed(_elaborated(recipe, program, files, store))

    specs = [resources.spec_text(name) for name in library.list_specs()]
    return noted("rule", [json.dumps([recipe, files, specs, store]), repr(learned)], make, _parsed)


def _variant(found: Elaboration, structure: Mapping[str, float]) -> Program:
    """The program of an elaboration for other values of what decides what its operations are."""
    source = library.from_recipe(found.recipe)
    program = library.read(source, verify=False, choices=tuple(sorted(structure.items())))
    program = with_storage(program, dict(found.store))
    return _derived(replace(program, learned=found.learned))


@functools.lru_cache(maxsize=256)
def optimizer_class(found: Elaboration, backend: str, order: str) -> type[CompiledOptimizer]:
    """The optimizer class of an elaborated specification; equal arguments give the same class."""
    from optdsl.runtime.engines.compiled import Compiled
    from optdsl.runtime.engines.parts import Parts
    from optdsl.runtime.engines.selection import Engines
    from optdsl.runtime.torch_api.make import make_optimizer

    # Equal calls give one class: a pickle has no more arguments than are needed.
    arguments = (found.recipe, backend, order, found.learned)
    more = (found.files, found.store) if found.store else (found.files,) if found.files else ()
    recipe = (make_class, (*arguments, *more))
    back = BackHalf(artifact, learning, emit_learning, evaluation)

    def engines(program: Program) -> Engines:
        # States that lag by a step cannot be summed over before it is completed.
        own = "eager" if program.tangents and staged(found.program) else backend
        return Engines(program, own, order, back.kernels)

    parts = Parts(found.program, engines, functools.partial(_variant, found))
    return make_optimizer(Compiled(found.program, parts, found.coefficients, order, recipe, back))
