"""From what the compiler made to an optimizer class with a face: signature and documentation."""

from __future__ import annotations

import inspect

from optdsl.ir.domain import spell
from optdsl.ir.program import Program
from optdsl.runtime.optimizer import Compiled, CompiledOptimizer


def make_optimizer(compiled: Compiled) -> type[CompiledOptimizer]:
    """A subclass of `CompiledOptimizer` for one specification."""
    program = compiled.program
    parameters = [
        inspect.Parameter("params", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        *(
            inspect.Parameter(h.name, inspect.Parameter.KEYWORD_ONLY, default=h.default)
            for h in program.hypers
        ),
    ]
    namespace = {
        "__doc__": _documentation(program),
        "__module__": "optdsl",
        "__signature__": inspect.Signature(parameters),
        "compiled": compiled,
    }
    return type(program.name, (CompiledOptimizer,), namespace)


def _documentation(program: Program) -> str:
    learned = {x.hyper: x for x in program.learned}
    lines = ["\n".join(program.documentation) or program.name, "", "Hyperparameters:"]
    for hyper in program.hypers:
        line = f"    {hyper.name}: {spell(hyper.default)} by default, in {hyper.domain}"
        vector = program.simplex_of(hyper.name)
        if vector is not None:
            line += f"; one of the weights {vector.name}, which sum to 1"
        if hyper.name in learned:
            how = learned[hyper.name]
            line += f"; learned by {'exponentiated ' if how.exponentiated else ''}{how.rule}"
            line += f" in {how.bounds}" if vector is None else ""
        lines.append(line)
    return "\n".join(lines)
