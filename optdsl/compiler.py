"""The compiler: from the text of a specification to the source text of kernels, one call a stage.

The front half ends with a differentiated program: text, tree, program, blend, derivatives, passes.
It runs when a class is made (`elaborate`). The back half goes on to a plan, kernels and source
text (`artifact`); it runs for each backend and dtype when an engine is first asked for.

`optdsl.classes` makes an optimizer class of the results, and keeps them in the cache on disk; it
imports this module, and with it the front half, only for what is not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optdsl.artifact import Artifact, Target
from optdsl.backends import interleaved
from optdsl.backends.base import DTYPES, Backend, SourceModule, check_backend
from optdsl.backends.c import CBackend
from optdsl.backends.capabilities import chosen_backends, compiled_backends
from optdsl.backends.eager import EagerBackend
from optdsl.backends.tiled_passes import runs
from optdsl.backends.triton import TritonBackend
from optdsl.costs import fastest, state_bytes
from optdsl.diagnostics import Source, render
from optdsl.differentiate import differentiate
from optdsl.elaboration import Elaboration, Remark, Stores
from optdsl.ir.builder import MAX_OPERATIONS, TooManyOperations
from optdsl.ir.derivatives import NoDerivative
from optdsl.ir.program import Learned, Program
from optdsl.ir.sections import of_matrices
from optdsl.ir.storage import stored
from optdsl.ir.verify import verify
from optdsl.learn_option import LearnOption
from optdsl.learning import Block, Coefficient, scalarized
from optdsl.options import OptionError, compile_options
from optdsl.passes.pipeline import PREPARATION, run_passes
from optdsl.passes.specialize import specialize
from optdsl.passes.totals import TOTAL, staged
from optdsl.plan import Kind, Plan, cuts, plans
from optdsl.schedule import cheapest, evaluating, schedule
from optdsl.selection import select, with_storage
from optdsl.specifications import library, sources
from optdsl.specifications.learners import Rulebook

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
        return artifact(divided[0][1], target).module
    mark = "//" if backend == "c" else "#"
    texts = []
    for title, part in divided:
        text = f"{mark} The {backend} backend does not run this part; eager code does.\n"
        if options.backend in {"eager", *compiled_backends(part)}:
            text = _text(artifact(part, target), mark)
        texts.append(f"{mark} --- {title} ---\n\n{text}")
    return SourceModule(selected.name, options.backend, "\n\n".join(texts), {})


def _text(artifact: Artifact, mark: str) -> str:
    """The text of an artifact; what torch runs between the parts of steps is in comments."""
    if artifact.beside is None:
        return artifact.module.text
    lines = [f"{mark} {line}".rstrip() for line in artifact.beside.text.splitlines()]
    title = f"{mark} PyTorch code that runs before, between and after these parts:"
    return "\n".join([artifact.module.text, title, "", *lines, ""])


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


def elaborate(
    source: Source,
    learn: LearnOption = True,
    verify: bool = True,
    store: Mapping[str, str] | None = None,
) -> Elaboration:
    """The front half of the compiler.

    Args:
        source: the specification.
        learn: as of `load`.
        verify: as of `load`.
        store: as of `load`.

    Raises:
        OptionError, SpecError: as `load`.
    """
    specified = library.specification(source, verify)
    rules = Rulebook(source)
    program = select(with_storage(specified.program, store), learn, rules)
    remarks = tuple(Remark(d.code, d.span.text, render(d)) for d in specified.remarks)
    kept = tuple(sorted(store.items())) if store else ()
    files = rules.used(program.learned)
    return _elaborated(library.recipe(source), program, files, kept, remarks)


def elaborate_again(
    recipe: sources.Recipe, learned: tuple[Learned, ...], files: sources.RuleFiles, store: Stores
) -> Elaboration:
    """The same elaboration as when a class was first made, from its arguments in a pickle."""
    program = library.read(sources.from_recipe(recipe), verify=False)
    program = with_storage(replace(program, learned=learned), dict(store))
    return _elaborated(recipe, program, files, store)


def variant(found: Elaboration, structure: Mapping[str, float]) -> Program:
    """The program of an elaboration for other values of what decides what its operations are."""
    source = sources.from_recipe(found.recipe)
    program = library.read(source, verify=False, choices=tuple(sorted(structure.items())))
    program = with_storage(program, dict(found.store))
    return _derived(replace(program, learned=found.learned))


def _elaborated(
    recipe: sources.Recipe,
    program: Program,
    files: sources.RuleFiles,
    store: Stores,
    remarks: tuple[Remark, ...] = (),
) -> Elaboration:
    """The end of the front half: derivatives, and the rules that move what is learned."""
    own = {name: sources.from_recipe(values) for name, values in files}
    # The claims of the user's own files were decided when the files were selected.
    rules = (
        library.read(own[x.rule], verify=False)
        if x.rule in own
        else library.read(sources.open_source(x.rule))
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


def artifact(program: Program, target: Target) -> Artifact:
    """The back half of the compiler.

    Args:
        program: differentiated, through all passes.
        target: what it is compiled for.
    """
    planned = _planned(program, target)
    kernels = schedule(planned)
    if target.backend == "c" and of_matrices(program.kind) and not runs(program):
        return Artifact(target, program, planned, *interleaved.emit(kernels, target.dtype))
    module = BACKENDS[target.backend].emit(kernels, target.dtype, target.order)
    return Artifact(target, program, planned, module)


def _planned(program: Program, target: Target) -> Plan:
    if target.state_bytes is None:
        return cheapest(_plans(program, target))
    bound, found = target.state_bytes, candidates(program, target)
    return fastest(found, target.balance, bound, target.order, program.name)


def _plans(program: Program, target: Target) -> tuple[Plan, ...]:
    """The plans with names that a target has."""
    return plans(program, target.rounded, _kinds(program, target))


def candidates(program: Program, target: Target) -> tuple[Plan, ...]:
    """All plans that are considered for a target, those that keep values of their own included."""
    found = _plans(program, target)
    return (
        found if _kinds(program, target) == ("stored",) else found + cuts(program, target.rounded)
    )


def _kinds(program: Program, target: Target) -> tuple[Kind, ...]:
    # What a codec rounds cannot be computed again, nor tangents from it.
    return ("stored",) if stored(program) else BACKENDS[target.backend].plans(program)


def least_state(program: Program, backend: str) -> float:
    """The least bytes of state with which a rule runs, of its parts the one that needs most.

    Args:
        program: differentiated, through all passes.
        backend: as of `load`; "auto" is what it takes where all backends are there.

    Returns:
        Bytes for each parameter in float32.
    """
    most = 0.0
    for _, part in parts(program):
        known = chosen_backends(part) if backend == "auto" else {backend}
        target = Target("c" if "c" in known else "triton" if "triton" in known else "eager")
        most = max(most, min(map(state_bytes, candidates(part, target))))
    return most


def evaluation(program: Program) -> SourceModule:
    """What computes the point at which the model is evaluated, on any device.

    Args:
        program: through all passes; it has such a point.
    """
    return BACKENDS["eager"].emit(evaluating(program), "float64")


def learning(blocks: Sequence[Block]) -> tuple[SourceModule, ...]:
    """What moves coefficients on the host: a module for each block, to be run on floats."""
    kernels = [schedule(Plan("none", block.program)) for block in blocks]
    return tuple(BACKENDS["eager"].emit(k, "float64") for k in kernels)
