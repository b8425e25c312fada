"""The functions that users call: optimizers from the library, files, texts and blends."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Never

from optdsl.backends.base import check_backend
from optdsl.classes import check_state_bytes, elaborate, optimizer_class
from optdsl.diagnostics import Source, SpecWarning
from optdsl.elaboration import summary
from optdsl.options import check_keywords, compile_options
from optdsl.specifications.search import Paths, searching
from optdsl.specifications.sources import open_source

if TYPE_CHECKING:
    from optdsl.learn_option import LearnOption
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer


def load(
    name: str | os.PathLike[str],
    *,
    backend: str = "auto",
    order: str = "overlapped",
    learn: LearnOption = True,
    verify: bool = True,
    store: Mapping[str, str] | None = None,
    state_bytes: float | None = None,
    path: Paths = None,
    **hypers: Never,
) -> type[CompiledOptimizer]:
    """Compile an optimizer of the library, of another directory or package, or a ``.opt`` file.

    Args:
        name: a name that `list_specs` lists, or of a file in ``path``, in the directories of the
            environment variable ``OPTDSL_PATH``, or of an installed package with specifications;
            or the path of a ``.opt`` file.
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
        store: how states, or the parameters, lie in memory, by name: ``{"m": "bfloat16"}``; in
            place of what the specification says. "states" stands for all states with a number for
            each element, row or column, and "theta" for the parameters.
        state_bytes: the most bytes of state for each parameter, for parameters in float32. Within
            them, compiled kernels learn by the fastest plan, estimated for this machine: values
            are kept that would otherwise be computed again. None takes the plan that keeps least;
            ``optdsl show NAME --plan`` lists them.
        path: a directory, or several, whose specifications are found by their names, here and by
            the specification itself.
        **hypers: not accepted; hyperparameters are arguments of the class.

    Returns:
        A `torch.optim.Optimizer` class: ``cls(params, lr=..., ...)`` takes the hyperparameters
        by their names in the specification. The same arguments give the same class.

    Raises:
        UnknownSpecError: (a LookupError) when there is no such name.
        SpecClashError: (a ValueError) when there are several of it, the library's included.
        OSError: when the file cannot be read.
        SpecError: (a ValueError) with every mistake of the specification.
        OptionError: (a ValueError) for an invalid value of an option.
        TypeError: for an unknown option.

    Warns:
        SpecWarning: for a valid specification with something doubtful.
    """
    check_keywords("load", hypers)
    with searching(path):
        return _compile(open_source(name), backend, order, learn, verify, store, state_bytes)


def compile(
    text: str,
    *,
    backend: str = "auto",
    order: str = "overlapped",
    learn: LearnOption = True,
    verify: bool = True,
    store: Mapping[str, str] | None = None,
    state_bytes: float | None = None,
    path: Paths = None,
    **hypers: Never,
) -> type[CompiledOptimizer]:
    """Compile the text of a specification; see `load`."""
    check_keywords("compile", hypers)
    with searching(path):
        source = Source("<text>", text)
        return _compile(source, backend, order, learn, verify, store, state_bytes)


def blend(
    *rules: str | os.PathLike[str],
    name: str | None = None,
    backend: str = "auto",
    order: str = "overlapped",
    learn: LearnOption = True,
    store: Mapping[str, str] | None = None,
    state_bytes: float | None = None,
    path: Paths = None,
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
        store: as of `load`.
        state_bytes: as of `load`.
        path: as of `load`.
        **hypers: as of `load`.

    Raises:
        UnknownSpecError, SpecClashError, OSError, SpecError, OptionError, TypeError: as `load`.

    Warns:
        SpecWarning: for hyperparameters that the rules share and use in different places.
    """
    from optdsl.compose import blend_source

    check_keywords("blend", hypers)
    for rule in rules:
        if not isinstance(rule, str | os.PathLike):
            wrong = type(rule).__name__
            raise TypeError(f"blend takes names and paths, not a {wrong}; of a list: blend(*rules)")
    with searching(path):
        source = blend_source(rules, name)
        return _compile(source, backend, order, learn, True, store, state_bytes, composed=True)


def _compile(
    source: Source,
    backend: str,
    order: str,
    learn: LearnOption,
    verify: bool,
    store: Mapping[str, str] | None,
    state_bytes: float | None,
    composed: bool = False,
) -> type[CompiledOptimizer]:
    """The class; `composed` is for a text that the user has not written and cannot see."""
    options = compile_options(backend, order, state_bytes)
    found = elaborate(source, learn, verify, store)
    if found.remarks:
        # The place that matters is the call of `load`, `compile` or `blend`.
        texts = [r.text for r in found.remarks]
        told = summary(found.remarks) if composed else "\n\n".join(texts)
        warnings.warn(told, SpecWarning, stacklevel=3)
    check_backend(options.backend, found.program, found.learned)
    if options.state_bytes is not None:
        check_state_bytes(found, options.backend, options.state_bytes)
    return optimizer_class(found, options.backend, options.order, options.state_bytes)
