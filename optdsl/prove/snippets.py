"""Python code that takes the steps of a counterexample with both optimizers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

from optdsl.ir.domain import Choice, Domain, spell_in
from optdsl.ir.evaluate import number
from optdsl.ir.program import Program
from optdsl.ir.sections import read_as, section_of
from optdsl.ir.trajectories import Run
from optdsl.ir.types import Extent

if TYPE_CHECKING:
    from optdsl.prove import Settlement


def snippet(program: Program, settlement: Settlement) -> list[str]:
    """Python that takes the steps of a counterexample with both optimizers, ready to be run."""
    claim, found = settlement.claim, settlement.difference
    assert found is not None
    hypers = dict(found.run.hypers)
    steps = range(1, len(found.run.gradients) + 1)
    bound: dict[str, object] = {}
    for name, value in claim.bindings:
        values = [number(claim.reference, value, hypers, t) for t in steps]
        # A value that changes from step to step is given as a list.
        bound[name] = values[0] if len(set(values)) == 1 else values
    gradients = str([list(g) for g in found.run.gradients])
    if len(steps) > 2 and len(set(found.run.gradients)) == 1:
        gradients = f"[{list(found.run.gradients[0])}] * {len(steps)}"
    source, rule = claim.source or claim.span.source.loadable, claim.rule_source
    shape, chosen = _tensor(program, settlement)
    reshaped = f".reshape{shape}" if shape else ""
    group = f'{{"params": [p], "kind": {settlement.kind!r}}}' if chosen else "p"
    domains = {h.name: h.domain for h in program.hypers}
    outcome = [
        f"# x is {', '.join(map(repr, found.left))}",
        f"# y is {', '.join(map(repr, found.right))}",
        f"torch.testing.assert_close(x, y, rtol={found.tolerance:g}, atol={found.tolerance:g})",
    ]
    if found.run.tensors > 1 or found.run.inputs:
        inputs = [tuple(s.name for s in p.states if s.input) for p in (program, claim.reference)]
        numbers = {
            s.name
            for s in (*program.states, *claim.reference.states)
            if s.input and s.type.extent is not Extent.TENSOR
        }
        return [
            *_several(found.run, shape, settlement.kind if chosen else "", gradients, numbers),
            *_called("x", (source, inputs[0]), hypers, domains),
            *_called("y", (rule, inputs[1]), bound, claim.domains),
            *outcome,
        ]
    group = f'{{"params": [p], "kind": {settlement.kind!r}}}' if chosen else "p"
    return [
        "import optdsl",
        "import torch",
        "",
        "def run(name, **hypers):",
        "    def at(t):",
        "        return {k: v[t] if isinstance(v, list) else v for k, v in hypers.items()}",
        "",
        *_parameter(list(found.run.theta), reshaped),
        f"    optimizer = optdsl.load(name, learn=False, verify=False)([{group}], **at(0))",
        f"    for t, g in enumerate({gradients}):",
        "        optimizer.param_groups[0].update(at(t))",
        f"        p.grad = torch.tensor(g, dtype=torch.float64){reshaped}",
        "        optimizer.step()",
        f"    return p.detach(){'.flatten()' if reshaped else ''}",
        "",
        *_called("x", (source,), hypers, domains),
        *_called("y", (rule,), bound, claim.domains),
        *outcome,
    ]


def _several(
    run: Run, shape: tuple[int, ...], kind: str, gradients: str, numbers: Container[str]
) -> list[str]:
    """The function that takes the steps of several tensors, or of a rule with inputs.

    `numbers` has the names of the inputs that are one number.
    """
    steps = range(len(run.gradients))
    given = [
        {name: x[0] if name in numbers else list(x) for name, x in run.given(step).items()}
        for step in steps
    ]
    shape = shape or (len(run.theta) // run.tensors,)
    group = f'[{{"params": p, "kind": {kind!r}}}]' if kind else "p"
    return [
        "import optdsl",
        "import torch",
        "",
        "def tensors(numbers):",
        "    x = torch.tensor(numbers, dtype=torch.float64)",
        f"    return [y.clone() for y in x.reshape{(run.tensors, *shape)}]",
        "",
        "def run(name, inputs, **hypers):",
        "    def at(t):",
        "        return {k: v[t] if isinstance(v, list) else v for k, v in hypers.items()}",
        "",
        f"    p = [torch.nn.Parameter(x) for x in tensors({list(run.theta)})]",
        f"    optimizer = optdsl.load(name, learn=False, verify=False)({group}, **at(0))",
        f"    given = {given}",
        f"    for t, g in enumerate({gradients}):",
        "        optimizer.param_groups[0].update(at(t))",
        "        for q, x in zip(p, tensors(g)):",
        "            q.grad = x",
        "        own = {",
        "            n: x if isinstance(x, float) else dict(zip(p, tensors(x)))",
        "            for n, x in given[t].items()",
        "            if n in inputs",
        "        }",
        "        optimizer.step(inputs=own)",
        "    return torch.cat([q.detach().flatten() for q in p])",
        "",
    ]


def _spelled(value: object, domain: Domain) -> str:
    """The value of a hyperparameter in Python, where labels are strings."""
    labelled = isinstance(domain, Choice) and domain.labels and isinstance(value, float)
    return repr(spell_in(domain, value) if labelled else value)  # type: ignore[arg-type]


def _parameter(numbers: list[float], reshaped: str) -> list[str]:
    """The lines that make the parameter."""
    if not reshaped:
        return [f"    p = torch.nn.Parameter(torch.tensor({numbers}, dtype=torch.float64))"]
    return [
        f"    x = torch.tensor({numbers}, dtype=torch.float64)",
        f"    p = torch.nn.Parameter(x{reshaped})",
    ]


def _tensor(program: Program, settlement: Settlement) -> tuple[tuple[int, ...], bool]:
    """A shape for the parameter of a counterexample, () for a row of numbers.

    The second result is whether its group must choose the kind, which no shape alone is of.
    """
    assert settlement.difference is not None
    run, kinds = settlement.difference.run, program.sections or settlement.claim.reference.sections
    if not kinds:
        return (), False
    shapes: list[tuple[int, ...]] = [(n := len(run.theta) // run.tensors,), (n, 1), (n, 1, 1)]
    if run.shape is not None:
        rows, cols = run.shape[1:]
        shapes = [(rows, cols), run.shape, (rows, cols, 1)]
    wanted = kinds.index(settlement.kind)
    for shape in shapes:
        read = read_as(settlement.kind, shape)[-2:]
        fits = run.shape is None or (math.prod(shape) == n and read == run.shape[1:])
        if fits and section_of(kinds, shape) == wanted:
            return (shape if len(shape) > 1 else ()), False
    return (shapes[0] if len(shapes[0]) > 1 else ()), True


def _called(
    result: str,
    given: tuple[object, ...],
    hypers: Mapping[str, object],
    domains: Mapping[str, Domain],
) -> list[str]:
    arguments = ", ".join(f"{h}={_spelled(x, domains[h])}" for h, x in hypers.items())
    indented = textwrap.wrap(f"{arguments},", 80, initial_indent="    ", subsequent_indent="    ")
    first = ", ".join(map(repr, given))
    return [f"{result} = run(", f"    {first},", *indented, ")"]
