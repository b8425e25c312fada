"""Optimizer classes of compiled rules, with signatures and documentation."""

from __future__ import annotations

import inspect
import types
from dataclasses import dataclass
from typing import Annotated, Any

from optdsl.ir.domain import Domain, spell, spell_in
from optdsl.ir.program import Program
from optdsl.ir.storage import draws
from optdsl.runtime.core.hints import HINTS
from optdsl.runtime.core.hyperparameters import beta_names
from optdsl.runtime.engines.compiled import Compiled
from optdsl.runtime.torch_api.optimizer import CompiledOptimizer


@dataclass(frozen=True)
class Within:
    """The domain of a hyperparameter, in its annotation."""

    domain: Domain

    def __repr__(self) -> str:
        return str(self.domain)


def make_optimizer(compiled: Compiled) -> type[CompiledOptimizer]:
    """A subclass of `CompiledOptimizer` for one specification."""
    program = compiled.program
    namespace = {
        "__doc__": documentation(program),
        "__module__": "optdsl",
        "__signature__": signature(program),
        "compiled": compiled,
    }
    return type(program.name, (CompiledOptimizer,), namespace)


def signature(program: Program) -> inspect.Signature:
    """The signature of the constructor: every hyperparameter with its default and its domain."""

    def keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
        # Only the learning rate may be given by position, as is usual.
        first = inspect.Parameter.POSITIONAL_OR_KEYWORD
        how = first if name == "lr" else inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, how, default=default, annotation=kind)

    ordered = sorted(program.hypers, key=lambda h: h.name != "lr")
    parameters = [
        inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(keyword(h.name, Annotated[float, Within(h.domain)], h.default) for h in ordered),
    ]
    betas = beta_names(h.name for h in program.hypers)
    if betas:
        kind: Any = types.GenericAlias(tuple, (float,) * len(betas))
        parameters.append(keyword("betas", kind | None, None))
    parameters.append(keyword("maximize", bool, False))
    parameters.append(keyword("process_group", Any, None))
    parameters += [keyword("seed", int, 0)] if draws(program) else []
    names = {h.name for h in program.hypers}
    parameters += [keyword(n, bool | None, v) for n, v in HINTS.items() if n not in names]
    return inspect.Signature(parameters)


# What follows the names of signals in a sentence.
_OF_SIGNAL = {"normalized": " hyper-gradient"}


def documentation(program: Program) -> str:
    """The class's docstring: the specification's citation, and every hyperparameter."""
    learned = {x.hyper: x for x in program.learned}
    betas = beta_names(h.name for h in program.hypers)
    lines = ["\n".join(program.documentation) or program.name, ""]
    if betas:
        lines.append(f"`betas` may be given for {', '.join(betas)}.")
    hints = [f"`{n}`" for n in HINTS if n != "differentiable"]
    lines += [
        "With `maximize` it goes up the gradients.",
        "Optimizers of one `process_group` learn as one.",
        *(["Random numbers are functions of `seed`, a whole number."] if draws(program) else []),
        f"{', '.join(hints[:-1])} and {hints[-1]} are kept and change nothing.",
        "`differentiable=True` is refused.",
        "",
        "Hyperparameters:",
    ]
    for hyper in program.hypers:
        default = spell_in(hyper.domain, hyper.default)
        line = f"    {hyper.name}: {default} by default, in {hyper.domain}"
        vector = program.simplex_of(hyper.name)
        if vector is not None:
            line += f"; one of the weights {vector.name}, which sum to 1"
        if hyper.name in learned:
            how = learned[hyper.name]
            line += f"; learned by {'exponentiated ' if how.exponentiated else ''}{how.rule}"
            line += f" in {how.bounds}" if vector is None else ""
            signal = f"{how.signal}{_OF_SIGNAL.get(how.signal, '')}"
            line += "" if how.signal == "raw" else f", on its {signal}"
            line += "" if how.horizon == 0 else f", with the horizon {spell(how.horizon)}"
            line += "" if how.sample == 1 else f", from 1/{how.sample} of large tensors"
            line += "" if how.scope == "optimizer" else f", for each {how.scope}"
        lines.append(line)
    return "\n".join(lines)
