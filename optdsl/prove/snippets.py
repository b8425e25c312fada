"""Python code that takes the steps of a counterexample with both optimizers."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

from optdsl.ir.arrays import Shape
from optdsl.ir.domain import Choice, Domain, spell_in
from optdsl.ir.evaluate import number
from optdsl.ir.lengths import reads_taps
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices, read_as, section_of, unread
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
    bound = _bound(settlement, hypers)
    gradients = str([list(g) for g in found.run.gradients])
    if len(steps) > 2 and len(set(found.run.gradients)) == 1:
        gradients = f"[{list(found.run.gradients[0])}] * {len(steps)}"
    source, rule = claim.source or claim.span.source.loadable, claim.rule_source
    domains = {h.name: h.domain for h in program.hypers}
    outcome = [
        f"# x is {', '.join(map(repr, found.left))}",
        f"# y is {', '.join(map(repr, found.right))}",
        f"torch.testing.assert_close(x, y, rtol={found.tolerance:g}, atol={found.tolerance:g})",
    ]
    evaluating = ["    optimizer.eval()"] if found.evaluated else []
    inputs = [tuple(s.name for s in p.states if s.input) for p in (program, claim.reference)]
    numbers = {
        s.name
        for s in (*program.states, *claim.reference.states)
        if s.input and s.type.extent is not Extent.TENSOR
    }
    if found.run.mixed:
        groups = [hypers | dict(part.hypers) for part in found.run.mixed]
        return [
            *_mixed(program, settlement, numbers, evaluating),
            *_groups("x", (source, inputs[0]), groups, domains),
            *_groups(
                "y", (rule, inputs[1]), [_bound(settlement, g) for g in groups], claim.domains
            ),
            *outcome,
        ]
    shape, chosen = _tensor(program, settlement)
    reshaped = f".reshape{shape}" if shape else ""
    if found.run.tensors > 1 or found.run.inputs:
        kind = settlement.kind if chosen else ""
        return [
            *_several(found.run, shape, kind, gradients, numbers, evaluating),
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
        *evaluating,
        f"    return p.detach(){'.flatten()' if reshaped else ''}",
        "",
        *_called("x", (source,), hypers, domains),
        *_called("y", (rule,), bound, claim.domains),
        *outcome,
    ]


def _several(
    run: Run,
    shape: tuple[int, ...],
    kind: str,
    gradients: str,
    numbers: Container[str],
    evaluating: Sequence[str],
) -> list[str]:
    """The function that takes the steps of several tensors, or of a rule with inputs.

    `numbers` has the names of the inputs that are one number.
    """
    given = _given(run, numbers)
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
        *evaluating,
        "    return torch.cat([q.detach().flatten() for q in p])",
        "",
    ]


def _given(run: Run, numbers: Container[str]) -> list[dict[str, object]]:
    """What is given to each step; see `_several`."""
    steps = range(len(run.gradients))
    return [
        {name: x[0] if name in numbers else list(x) for name, x in run.given(step).items()}
        for step in steps
    ]


def _bound(settlement: Settlement, hypers: Mapping[str, float]) -> dict[str, object]:
    """The hyperparameters of the rule; what changes from step to step is a list of numbers."""
    claim, bound = settlement.claim, dict[str, object]()
    assert settlement.difference is not None
    steps = range(1, len(settlement.difference.run.gradients) + 1)
    for name, value in claim.bindings:
        values = [number(claim.reference, value, hypers, t) for t in steps]
        bound[name] = values[0] if len(set(values)) == 1 else values
    return bound


def _mixed(
    program: Program, settlement: Settlement, numbers: Container[str], evaluating: Sequence[str]
) -> list[str]:
    """The function that takes the steps of tensors that are not alike; see `_several`."""
    assert settlement.difference is not None
    run = settlement.difference.run
    kinds = program.sections or settlement.claim.reference.sections
    taps = reads_taps(program) or reads_taps(settlement.claim.reference)
    shapes, own = [], []
    for part in run.mixed:
        kind = kinds[part.section] if kinds else ""
        matrix = part.shape if of_matrices(kind) else None
        shape, chosen = _shape_of(kinds, kind, matrix, part.size, taps) if kinds else ((), False)
        shapes.append(shape or (part.size,))
        own.append({"kind": kind} if chosen else {})
    return [
        "import optdsl",
        "import torch",
        "",
        f"shapes = {shapes}",
        "",
        "def tensors(numbers):",
        "    x = torch.tensor(numbers, dtype=torch.float64)",
        f"    parts = x.split({[part.size for part in run.mixed]})",
        "    return [y.clone().reshape(shape) for y, shape in zip(parts, shapes)]",
        "",
        "def run(name, inputs, *groups):",
        "    def at(hypers, t):",
        "        return {k: v[t] if isinstance(v, list) else v for k, v in hypers.items()}",
        "",
        f"    p = [torch.nn.Parameter(x) for x in tensors({list(run.theta)})]",
        f"    own = {own}",
        '    own = [{"params": q, **k, **at(h, 0)} for q, k, h in zip(p, own, groups)]',
        "    optimizer = optdsl.load(name, learn=False, verify=False)(own)",
        f"    missing = {[part.missing for part in run.mixed]}",
        f"    given = {_given(run, numbers)}",
        f"    for t, g in enumerate({[list(g) for g in run.gradients]}):",
        "        for group, h in zip(optimizer.param_groups, groups):",
        "            group.update(at(h, t))",
        "        for q, x, steps in zip(p, tensors(g), missing):",
        "            q.grad = None if t in steps else x",
        "        inputs_now = {",
        "            n: x if isinstance(x, float) else dict(zip(p, tensors(x)))",
        "            for n, x in given[t].items()",
        "            if n in inputs",
        "        }",
        "        optimizer.step(inputs=inputs_now)",
        *evaluating,
        "    return torch.cat([q.detach().flatten() for q in p])",
        "",
    ]


def _groups(
    result: str,
    given: tuple[object, ...],
    groups: Sequence[Mapping[str, object]],
    domains: Mapping[str, Domain],
) -> list[str]:
    """The call of the function for the hyperparameters of each tensor."""
    written = [
        f"dict({', '.join(f'{h}={_spelled(x, domains[h])}' for h, x in hypers.items())})"
        for hypers in groups
    ]
    if len(set(written)) == 1:
        written = [f"*[{written[0]}] * {len(written)}"]
    indented = [
        line
        for own in written
        for line in textwrap.wrap(f"{own},", 80, initial_indent="    ", subsequent_indent="    ")
    ]
    return [f"{result} = run(", f"    {', '.join(map(repr, given))},", *indented, ")"]


def _spelled(value: object, domain: Domain) -> str:
    """The value of a hyperparameter in Python, where labels are strings."""
    if isinstance(value, float) and math.isinf(value):
        return f"float({str(value)!r})"
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
    taps = reads_taps(program) or reads_taps(settlement.claim.reference)
    return _shape_of(kinds, settlement.kind, run.shape, len(run.theta) // run.tensors, taps)


def _shape_of(
    kinds: Sequence[str], kind: str, matrix: Shape | None, size: int, taps: bool = False
) -> tuple[tuple[int, ...], bool]:
    """A shape for a tensor of a kind; see `_tensor`.

    Args:
        kinds: the kinds of the rule.
        kind: that of the tensor.
        matrix: as which shape it is read, if it is one of matrices.
        size: how many numbers it has.
        taps: whether a rule depends on the number of positions of a kernel, which it has.
    """
    shapes: list[tuple[int, ...]] = [(size,), (size, 1), (size, 1, 1)]
    if matrix is not None:
        rows, cols = matrix[1:]
        shapes = [*([unread(kind, matrix)] if taps else []), (rows, cols), matrix, (rows, cols, 1)]
    wanted = kinds.index(kind)
    for shape in shapes:
        read = read_as(kind, shape)[-2:]
        fits = matrix is None or (math.prod(shape) == size and read == matrix[1:])
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
