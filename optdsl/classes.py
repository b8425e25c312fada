"""Optimizer classes, from what the compiler makes, or has made for an earlier process.

Each result of `optdsl.compiler` has an entry in the cache on disk. The compiler is imported by what
makes an entry that is missing, and by nothing else: importing it takes longer than reading them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from optdsl import resources
from optdsl.artifact import Artifact, BackHalf, Target, parse_artifact, print_artifact
from optdsl.backends.base import SourceModule
from optdsl.backends.text import parse_module, print_module
from optdsl.costs import check_bound
from optdsl.diagnostics import Source
from optdsl.elaboration import Elaboration, Stores, parse_elaboration, print_elaboration
from optdsl.ir.program import Learned, Program
from optdsl.ir.text import print_program
from optdsl.learning import Block
from optdsl.passes.totals import staged
from optdsl.runtime.build.artifact_cache import noted
from optdsl.specifications.sources import (
    Recipe,
    RuleFiles,
    elsewhere,
    in_library,
    is_path,
    open_source,
    surroundings,
)

if TYPE_CHECKING:
    from optdsl.learn_option import LearnOption
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer


def elaborate(
    source: Source,
    learn: LearnOption = True,
    verify: bool = True,
    store: Mapping[str, str] | None = None,
) -> Elaboration:
    """The front half of the compiler, from its cache entry if there is one.

    Args, errors: as of `optdsl.compiler.elaborate`.
    """

    def make() -> Elaboration:
        from optdsl import compiler

        return compiler.elaborate(source, learn, verify, store)

    def files() -> tuple[str, list[str]] | None:
        """What is learned, with what is in all files that the result depends on; see `_wish`."""
        wish = _wish(learn)
        if wish is None:
            return None
        named = [surroundings(open_source(path)) for path in wish[1]]
        return wish[0], [json.dumps(surroundings(source)), json.dumps(named)]

    def hold() -> bool:
        """Whether the files are what they were before the compiler read them."""
        try:
            return files() == before
        except (OSError, ValueError):
            return False

    kept = _stores(store)
    try:
        before = files()
    except (OSError, ValueError):
        before = None  # the compiler says what is wrong
    if before is None or kept is None:
        return make()
    key = [f"learn={before[0]} {verify=} {kept=}", *before[1]]
    return noted("rule", key, lambda: print_elaboration(make()), parse_elaboration, hold)


def _wish(learn: LearnOption) -> tuple[str, list[str]] | None:
    """What the user wants to learn as text, equal for equal options, and the files that it names.

    None for an option that cannot be compared so.
    """
    if isinstance(learn, bool | str):
        return repr(learn), []
    paths: list[str] = []
    plain: Iterable[str] | None = learn if isinstance(learn, list | tuple) else None
    if isinstance(learn, Mapping):
        from optdsl import learn_option

        plain = learn_option.plain(learn)
        rules = [how["rule"] for how in (plain or {}).values()]
        paths = [rule for rule in rules if is_path(rule) or elsewhere(rule, in_library(rule))]
    try:
        return None if plain is None else (json.dumps(plain), paths)
    except (TypeError, ValueError):
        return None


def _stores(store: Mapping[str, str] | None) -> Stores | None:
    """The codecs that the user has chosen, sorted; None for what is no mapping of names."""
    if store is None:
        return ()
    if not isinstance(store, Mapping):
        return None
    if not all(isinstance(text, str) for item in store.items() for text in item):
        return None
    return tuple(sorted(store.items()))


def artifact(program: Program, target: Target) -> Artifact:
    """The back half of the compiler, from its cache entry if there is one.

    Args:
        program: differentiated, through all passes.
        target: what it is compiled for.
    """

    def make() -> str:
        from optdsl import compiler

        return print_artifact(compiler.artifact(program, target))

    key = [print_program(program), repr(target)]
    return noted("artifact", key, make, lambda text: parse_artifact(text, program, target))


def evaluation(program: Program) -> SourceModule:
    """What computes the point at which the model is evaluated, from its cache entry.

    Args:
        program: through all passes; it has such a point.
    """

    def make() -> str:
        from optdsl import compiler

        return print_module(compiler.evaluation(program))

    return noted("evaluation", [print_program(program)], make, parse_module)


def learning(blocks: Sequence[Block]) -> tuple[SourceModule, ...]:
    """What moves coefficients on the host, a module for each block, from its cache entry."""

    def make() -> str:
        from optdsl import compiler

        return json.dumps([*map(print_module, compiler.learning(blocks))])

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


def _device_learning(
    rule: str, blocks: Sequence[Block], measured: Sequence[str], order: str
) -> SourceModule:
    """What moves coefficients on a device; see `optdsl.artifact.BackHalf`."""
    from optdsl.backends.triton.learning import emit_learning

    return emit_learning(rule, blocks, measured, order)


def make_class(
    recipe: Recipe,
    backend: str,
    order: str,
    learned: tuple[Learned, ...],
    files: RuleFiles = (),
    store: Stores = (),
    state_bytes: float | None = None,
) -> type[CompiledOptimizer]:
    """The optimizer class of a specification; equal arguments give the same class.

    Pickled optimizers name this function and its arguments, the texts of members included, and of
    the files by whose rules it learns.
    """
    found = _elaborated_again(recipe, learned, files, store)
    return optimizer_class(found, backend, order, state_bytes)


@functools.lru_cache(maxsize=256)
def _elaborated_again(
    recipe: Recipe, learned: tuple[Learned, ...], files: RuleFiles, store: Stores
) -> Elaboration:
    """The same elaboration as when the class was first made."""

    def make() -> str:
        from optdsl import compiler

        return print_elaboration(compiler.elaborate_again(recipe, learned, files, store))

    specs = [*resources.spec_texts().values()]
    key = [json.dumps([recipe, files, specs, store]), repr(learned)]
    return noted("rule", key, make, parse_elaboration)


def elaboration_of(optimizer: type[CompiledOptimizer]) -> Elaboration:
    """What the front half made of the specification of a class of `optimizer_class`."""
    recipe, _, _, learned, *more = optimizer.compiled.recipe[1]
    files, store = more[0] if more else (), more[1] if len(more) > 1 else ()
    return _elaborated_again(recipe, learned, files, store)


def _variant(found: Elaboration, structure: Mapping[str, float]) -> Program:
    """The program for other values of what decides what its operations are."""
    from optdsl import compiler

    return compiler.variant(found, structure)


def _backend(found: Elaboration, program: Program, backend: str) -> str:
    """The backend of a part of a rule, where another one was asked for, perhaps."""
    # States that lag by a step cannot be summed over before it is completed.
    return "eager" if program.tangents and staged(found.program) else backend


def check_state_bytes(found: Elaboration, backend: str, state_bytes: float) -> None:
    """Refuse a bound of state that no plan of a backend keeps; see `load`.

    Raises:
        OptionError: with the least that the rule needs.
    """

    def make() -> str:
        from optdsl import compiler

        own = _backend(found, found.program, backend)
        return json.dumps(compiler.least_state(found.program, own))

    key = [print_program(found.program), backend]
    check_bound(state_bytes, noted("least_state", key, make, json.loads), found.program.name)


@functools.lru_cache(maxsize=256)
def optimizer_class(
    found: Elaboration, backend: str, order: str, state_bytes: float | None = None
) -> type[CompiledOptimizer]:
    """The optimizer class of an elaborated specification; equal arguments give the same class."""
    from optdsl.runtime.engines.compiled import Compiled
    from optdsl.runtime.engines.parts import Parts
    from optdsl.runtime.engines.selection import Engines
    from optdsl.runtime.torch_api.make import make_optimizer

    # Equal calls give one class: a pickle has no more arguments than are needed.
    arguments = (found.recipe, backend, order, found.learned)
    more: list[object] = [found.files, found.store, state_bytes]
    while more and more[-1] in ((), None):
        more.pop()
    recipe = (make_class, (*arguments, *more))
    back = BackHalf(artifact, learning, _device_learning, evaluation)

    def engines(program: Program) -> Engines:
        own = _backend(found, program, backend)
        return Engines(program, own, order, back.kernels, state_bytes)

    parts = Parts(found.program, engines, functools.partial(_variant, found))
    return make_optimizer(Compiled(found.program, parts, found.coefficients, order, recipe, back))
