"""The functions of a standalone file that work on the tensors of one kind."""

from __future__ import annotations

from optdsl.backends.base import EntryPoint
from optdsl.backends.eager import emit_function
from optdsl.backends.emitted import WIDTH, EmittedFunction, wrapped
from optdsl.backends.naming import Names, identifier
from optdsl.backends.standalone import reading, storage
from optdsl.backends.standalone.rule import Part, Rule
from optdsl.ir.program import Program, State, Value
from optdsl.ir.sections import of_matrices
from optdsl.ir.types import TAPS, Extent
from optdsl.plan.keys import is_added
from optdsl.schedule import Kernel, Role

# Operations whose result may share memory with an argument.
_PASSING = {"where", "mix", "transpose", "bfloat16", "float32", "spread", "define"}
_PASSING |= {"stop_gradient", "diagonal_rows", "diagonal_cols"}
# What the functions around the emitted ones call their own.
_OWN = (
    "tensors",
    "held",
    "steps",
    "states",
    "x",
    "p",
    "g",
    "t",
    "state",
    "hypers",
    "theta",
    "theta_next",
    "point",
    "precise",
    "kept",
    "own",
    "lead",
)
_FUNCTIONS = ("begin", "initialize", "step", "evaluate")
_LEAVES = {"parameter", "gradient", "state"}


def functions_of(rule: Rule, part: Part) -> tuple[list[EmittedFunction], list[str]]:
    """The emitted functions of a part, and those that call them for its tensors."""
    emitted = {
        role: emit_function(part.kernels[role], f"{role}{part.name}")
        for role in (Role.INITIALIZE, Role.STEP, Role.EVALUATE)
        if role in part.kernels
    }
    grouped = rule.grouped.get(part.name)
    if grouped is not None:
        emitted[Role.STEP] = grouped
    found = list(emitted.values())
    driving = [_begin(part, emitted[Role.INITIALIZE].entry)]
    step = emitted[Role.STEP].entry
    if grouped is not None:
        driving.append(_update_all(part, step))
    else:
        driving.append(_update(part, step, rule))
    for kernel in part.measures:
        if kernel is not None:
            found.append(emit_function(kernel, f"{kernel.name}{part.name}"))
            driving.append(_measured(part, kernel, found[-1].entry))
    if rule.evaluates:
        driving.append(_point(part, emitted.get(Role.EVALUATE)))
    return found, driving


def _begin(part: Part, entry: EntryPoint) -> str:
    # The first step makes the derivatives that a rule that learns keeps.
    states = [(s, name) for s, name in _pairs(part) if not is_added(s.name)]
    head = f"def begin{part.name}(\n    p: Tensor, g: Tensor, state: dict[str, Any], "
    head += 'hypers: dict[str, float]\n) -> None:\n    """The states of a tensor before its first '
    head += 'step."""'
    lines: list[str] = []
    if states:
        lines += _read(part, storage.theta(part, begins=True))
        lines += _call(
            part, [name for _, name in states], f"initialize{part.name}", entry, "theta", "g"
        )
        lines += [f'state["{s.name}"] = {_written(part, s.name, n, "0.0")}' for s, n in states]
    lines += storage.begun(part)
    lines.append('state["step"] = torch.zeros((), dtype=torch.float64, device="cpu")')
    return "\n".join([head, *(f"    {line}" for line in lines)])


_MANY = "tensors: list[tuple[Tensor, Tensor, dict[str, Any]]]"


def _update_all(part: Part, entry: EntryPoint) -> str:
    """A step of tensors that are alike, by the function that takes lists of them."""
    head = _defined(f"update{part.name}") + (
        f'\n    """A step of tensors that are alike{_of(part)}, with their gradients and states."""'
    )
    pairs = {s.name: name for s, name in _pairs(part)}
    lines = [
        "for p, g, state in tensors:",
        "    if not state:",
        f"        begin{part.name}(p, g, state, hypers)",
        'held, steps = [p for p, _, _ in tensors], [state["step"] for _, _, state in tensors]',
        "theta = all_precise(held, held[0])",
        "g = all_precise([g for _, g, _ in tensors], held[0])",
    ]
    lines += [f'{pairs[name]} = all_kept(tensors, "{name}")' for name in entry.states]
    lines.append("t = steps[0].item() + 1")
    results = ["theta_next", *(pairs[r] for r in entry.results[1:])]
    lines += _call(part, results, entry.name, entry, "theta", "g")
    for name, variable in pairs.items():
        lines += [f"for (_, _, state), x in zip(tensors, {variable}, strict=True):"]
        lines += [f'    state["{name}"] = x']
    lines += ["if theta_next[0] is not held[0]:", "    torch._foreach_copy_(held, theta_next)"]
    lines.append("torch._foreach_add_(steps, 1)")
    return "\n".join([head, *(f"    {line}" for line in lines)])


def _defined(name: str) -> str:
    arguments = [_MANY, "hypers: dict[str, float]"]
    return "\n".join(wrapped(f"def {name}(", arguments, ") -> None:"))


def _of(part: Part) -> str:
    return f" for {part.kind}" if part.kind else ""


def _update(part: Part, entry: EntryPoint, rule: Rule) -> str:
    """A step of a tensor, or of each of some tensors, in batches where a batch is as good."""
    given = "\n    p: Tensor, g: Tensor, state: dict[str, Any], hypers: dict[str, float]\n"
    head, what, ending = f"def update{part.name}({given}) -> None:", "a tensor", ""
    many, batched = rule.gathers, part.name in rule.batched
    if many:
        head, what, ending = _defined(f"update{part.name}"), "tensors", ", one after the other"
    if batched:
        ending = ", small ones of equal shapes as one batch"
    head += f'\n    """A step of {what}{_of(part)}{ending}."""'
    if batched:
        return "\n".join([head, *(f"    {line}" for line in _batched(part, entry))])
    lines = []
    if of_matrices(part.kind):
        lines += ["if not p.numel():", "    continue" if many else "    return"]
    lines += ["if not state:", f"    begin{part.name}(p, g, state, hypers)"]
    lines += _stepped(part, entry)
    if many:
        lines = ["for p, g, state in tensors:", *(f"    {line}" for line in lines)]
    return "\n".join([head, *(f"    {line}" for line in lines)])


def _batched(part: Part, entry: EntryPoint) -> list[str]:
    """The statements of a step of tensors, and of batches of them."""
    lead = "lead" if reading.is_read(part.kind) else "_"
    named = ["tensors", *(f'"{name}"' for name in entry.states)]
    return [
        "tensors = [x for x in tensors if x[0].numel()]",
        "for p, g, state in tensors:",
        "    if not state:",
        f"        begin{part.name}(p, g, state, hypers)",
        *wrapped(f"for p, g, state, {lead} in batches(", named, "):"),
        *(f"    {line}" for line in _stepped(part, entry, "lead")),
    ]


def _stepped(part: Part, entry: EntryPoint, lead: str = "") -> list[str]:
    """The statements of a step of a tensor that has states, or of a batch."""
    lines = _read(part, lead=lead)
    lines += _kept(part, entry, lead)
    lines += ['t = state["step"].item() + 1']
    names = {s.name: name for s, name in _pairs(part)}
    results = ["theta_next", *(names[r] for r in entry.results[1:])]
    lines += _call(part, results, f"step{part.name}", entry, "theta", "g")
    kernel = part.kernels[Role.STEP]
    shared = {r.name for r in kernel.results if _passes(part.program, r.value)}
    for state, name in _pairs(part):
        text = f"own({name}, theta, g)" if state.name in shared else name
        lines.append(f'state["{state.name}"] = {_written(part, state.name, text, "t")}')
    lines += storage.written(part, reading.written(part.kind, "theta_next"))
    return [*lines, 'state["step"].fill_(t)']


def _measured(part: Part, kernel: Kernel, entry: EntryPoint) -> str:
    head = (
        f"def {kernel.name.replace('measure', 'measured')}{part.name}(\n"
        f"    p: Tensor, g: Tensor, state: dict[str, Any], hypers: dict[str, float]\n"
        f') -> dict[str, float]:\n    """The tensor\'s part of sums over all tensors, by name."""'
    )
    lines = []
    lines += ["if not p.numel():", "    return {}"]
    if entry.states:
        lines += ["if not state:", "    state = {}", f"    begin{part.name}(p, g, state, hypers)"]
    lines += _read(part)
    lines += _kept(part, entry)
    if entry.takes_step:
        lines += ['t = state["step"].item() + 1 if state else 1.0']
    names = [identifier(r.replace("/", "_")) for r in entry.results]
    lines += _call(part, names, entry.name, entry, "theta", "g")
    rows = [
        f'"{r}": {n}.sum(dtype=torch.float64).item()'
        for r, n in zip(entry.results, names, strict=True)
    ]
    lines += wrapped("return {", rows, "}")
    return "\n".join([head, *(f"    {line}" for line in lines)])


def _point(part: Part, emitted: EmittedFunction | None) -> str:
    head = (
        f"def point{part.name}(p: Tensor, state: dict[str, Any], hypers: dict[str, float]) -> "
        f'Tensor:\n    """Where the model is evaluated, of a tensor as it is trained."""'
    )
    if emitted is None:
        return f"{head}\n    return p"
    lines = _read(part)[:1]
    lines += _kept(part, emitted.entry)
    if emitted.entry.takes_step:
        lines += ['t = state["step"].item()']
    lines += _call(part, ["point"], emitted.entry.name, emitted.entry, "theta", "theta")
    lines.append(f"return {reading.written(part.kind, 'point')}")
    return "\n".join([head, *(f"    {line}" for line in lines)])


def _read(part: Part, theta: str = "", lead: str = "") -> list[str]:
    names = ("theta", theta or storage.theta(part)), ("g", "precise(g, p)")
    return [f"{x} = {reading.read(part.kind, y, lead)}" for x, y in names]


def _kept(part: Part, entry: EntryPoint, lead: str = "") -> list[str]:
    """The statements that take the states that a function reads from those that are kept."""
    if not entry.states:
        return []
    names = {s.name: n for s, n in _pairs(part)}
    listed = [f'"{name}"' for name in entry.states]
    assigned = ", ".join(names[name] for name in entry.states)
    assigned += "," if len(entry.states) == 1 else ""
    lines = wrapped(f"{assigned} = kept(p, state, ", listed, ")")
    if reading.is_read(part.kind):
        whole = {s.name for s in part.program.states if s.type.extent is Extent.TENSOR}
        names = {n: x for n, x in names.items() if n in whole and n in entry.states}
        lines += [f"{x} = {reading.read(part.kind, x, lead)}" for x in names.values()]
    return lines


def _call(
    part: Part, results: list[str], name: str, entry: EntryPoint, theta: str, gradient: str
) -> list[str]:
    """The statement that calls an emitted function."""
    known = {s.name: name for s, name in _pairs(part)}
    states = [known[name] for name in entry.states]
    keywords = ["t=t"] if entry.takes_step else []
    keywords += [
        f"{keyword}={reading.TAPS_OF_TENSOR}" if hyper == TAPS else f'{keyword}=hypers["{hyper}"]'
        for keyword, hyper in zip(entry.keywords, entry.hypers, strict=True)
    ]
    keywords += [f"draws={storage.OF_TENSOR}"] if entry.draws else []
    assigned = ", ".join(results) + ("," if len(results) == 1 else "")
    lines = wrapped(f"{assigned} = {name}(", [theta, gradient, *states, *keywords], ")")
    if len(lines) > 1 and len(lines[0]) > WIDTH - 8:
        lines = [*wrapped("(", results, f") = {name}("), *lines[1:]]
    if of_matrices(part.kind):
        # Nothing else has products, which autocast would take in 16 bits.
        return ["with in_its_precision(p):", *(f"    {line}" for line in lines)]
    return lines


def _pairs(part: Part) -> list[tuple[State, str]]:
    """The states of a part with the variables that hold them."""
    names = Names([*_OWN, *(f"{word}{part.name}" for word in _FUNCTIONS)])
    return [(s, names.fresh(identifier(s.name))) for s in part.program.states]


def _written(part: Part, name: str, text: str, t: str) -> str:
    """A state as it is kept: in the shape of the parameter if it is read in its place."""
    whole = {s.name for s in part.program.states if s.type.extent is Extent.TENSOR}
    if name in whole:
        again = storage.kept(part, name, reading.written(part.kind, text), t)
        return f"{again}.contiguous()" if reading.is_read(part.kind) else again
    again = storage.kept(part, name, text, t)
    # A transposed matrix, say, is laid out in memory as it is read.
    return f"{again}.contiguous()" if of_matrices(part.kind) else again


def _passes(program: Program, value: Value) -> bool:
    """Whether a result may be the parameter or the gradient, or share its memory."""
    operation = program.operations[value]
    if operation.opcode in _LEAVES:
        return operation.opcode != "state"
    return operation.opcode in _PASSING and any(_passes(program, a) for a in operation.arguments)
