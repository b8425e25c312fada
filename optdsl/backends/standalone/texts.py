"""The texts of a standalone file that are the same for every rule that needs them."""

LICENSE = """\

The file is yours to use, change and distribute; nothing updates it. The parts that optdsl wrote
are licensed under the Apache License, Version 2.0 (http://www.apache.org/licenses/LICENSE-2.0),
and come without warranties or conditions of any kind.

SPDX-License-Identifier: Apache-2.0"""

NUMBER = '''\
def number(name: str, value: Any) -> float:
    """The number that a step uses for a hyperparameter.

    A value beyond a bound by rounding alone, as at the end of a schedule, is the bound.
    """
@LABELS@
    if isinstance(value, str | bytes):
        raise TypeError(f"{NAME}: {name} must be a real number, not {value!r}")
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{NAME}: {name} must be a real number, not {value!r}") from None
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(f"{NAME}: {name} is a tensor that requires gradients; detach it")
    start, allowed, ends = HYPERPARAMETERS[name]
    if not inside(found, allowed, ends):
        near = min(ends, key=lambda end: abs(end - found))
        narrow = isinstance(value, Tensor) and value.is_floating_point()
        spacing = min(torch.finfo(value.dtype if narrow else torch.float64).eps, 2**-23)
        scale = max(abs(x) for x in (start, *ends) if math.isfinite(x))
        if not abs(near - found) <= 4 * spacing * scale or not inside(near, allowed, ends):
            shown = f"{found:g}" if float(f"{found:g}") == found else repr(found)
            raise ValueError(
                f"{NAME}: {name} = {shown} is out of bounds, it must lie in {allowed}"
            )
        found = near
    return found'''

INSIDE = '''\
def inside(x: float, allowed: str, ends: tuple[float, ...]) -> bool:
    """Whether a number lies in an interval, whose round brackets exclude an end, or in a set."""
@SETS@
    above = x > ends[0] if allowed[0] == "(" else x >= ends[0]
    return above and (x < ends[1] if allowed[-1] == ")" else x <= ends[1])'''

SETS = """\
    if allowed[0] == "{" and "..." not in allowed:
        return x in ends
    if allowed[0] == "{" and math.isfinite(x) and x != int(x):
        return False"""

LABELS = """\
    if isinstance(value, str) and name in LABELS:
        if value not in LABELS[name]:
            raise TypeError(f"{NAME}: {name} must be one of {LABELS[name]}, not {value!r}")
        value = LABELS[name].index(value)"""

NUMBERS = '''\
def numbers(group: dict[str, Any]) -> dict[str, float]:
    """The hyperparameters of a parameter group, checked."""
    @RETURN@{name: number(name, group[name]) for name in HYPERPARAMETERS}'''

SUMS = """
    for weights in WEIGHTS:
        total = math.fsum(found[name] for name in weights)
        if not abs(total - 1) <= 1e-6:
            raise ValueError(
                f"{NAME}: the weights {', '.join(weights)} sum to {total:g}; "
                f"give all of them, with the sum 1"
            )
    return found"""

CHECK = '''\
def check(p: Tensor) -> None:
    """Refuse a parameter, or its gradient, that no step can be taken with."""
    if p.grad.layout is not torch.strided:
        raise RuntimeError(
            f"{NAME} does not take sparse gradients; make the layer with sparse=False"
        )
    if p.dtype not in PRECISION:
        if p.is_complex():
            raise ValueError(
                f"{NAME} cannot step complex parameters; optimize torch.view_as_real(p), "
                f"or freeze them with requires_grad_(False)"
            )
        raise ValueError(
            f"{NAME} steps parameters of float16, bfloat16, float32 and float64, not {p.dtype}"
        )@WHOLE@'''

WHOLE = """
    if hasattr(p, "device_mesh") or getattr(p, "_fsdp_flattened", False):
        raise ValueError(
            f"{NAME} works on whole tensors, and this rank has a shard of a parameter; optdsl.load "
            f"deals whole tensors out to the ranks"
        )"""

KINDS = '''\
def kind_of(p: Tensor, kind: str | None) -> str:
    """The kind of a tensor: the one that its parameter group chose, or the first that takes it."""
    listed, shape = ", ".join(DIMENSIONS), tuple(p.shape)
    if kind is None:
        for name, (least, most, by_shape) in DIMENSIONS.items():
            if by_shape and least <= p.dim() <= most:
                return name
        raise ValueError(f"{NAME} is for {listed}, and a parameter has the shape {shape}")
    if kind not in DIMENSIONS:
        raise ValueError(f"{NAME} has no kind {kind!r}; its kinds are {listed}")
    least, most, _ = DIMENSIONS[kind]
    if not least <= p.dim() <= most:
        raise ValueError(f"{NAME} cannot read a parameter of shape {shape} as {kind}")
    return kind'''

PRECISION = """\
# In which precision the parameters of a dtype are updated, and their states are kept.
PRECISION = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}"""

WIDER_PRECISION = PRECISION.replace(
    "torch.float32: torch.float32", "torch.float32: torch.float64"
).replace("and their states are kept.", "which is more than its own.")

PRECISE = '''\
def precise(x: Tensor, p: Tensor) -> Tensor:
    """x in the precision of the steps of p, which is float32 for 16-bit parameters."""
    return x.to(PRECISION[p.dtype])'''

ALL_PRECISE = '''\
def all_precise(tensors: list[Tensor], like: Tensor) -> list[Tensor]:
    """The tensors in the precision of the steps of a parameter."""
    dtype = PRECISION[like.dtype]
    if all(x.dtype is dtype for x in tensors):
        return tensors
    return [x.to(dtype) for x in tensors]'''

ALL_KEPT = '''\
def all_kept(tensors: list[Any], name: str) -> list[Tensor]:
    """A state of all tensors."""
    try:
        found = [state[name] for _, _, state in tensors]
    except KeyError:
        for p, _, state in tensors:
            kept(p, state, name)
        raise
    return all_precise(found, tensors[0][0])'''

KEPT = '''\
def kept(p: Tensor, state: dict[str, Any], *names: str) -> list[Tensor]:
    """The states of a parameter by their names."""
    missing = [name for name in names if name not in state]
    if missing:
        raise ValueError(
            f"{NAME}: a parameter of shape {tuple(p.shape)} has taken steps without the states "
            f"{', '.join(missing)}; set back what was changed since, or delete its state"
        )
    return [precise(state[name], p) for name in names]'''

OWN = '''\
def own(x: Tensor, *others: Tensor) -> Tensor:
    """x, or a copy of it where it shares memory with others."""
    shared = any(x.data_ptr() == other.data_ptr() for other in others)
    return x.clone(memory_format=torch.contiguous_format) if shared else x'''

ALIKE = '''\
def alike(work: list[Any], states: dict[Tensor, dict[str, Any]]) -> Any:
    """What there is to do@FOR@, by hyperparameters, device, dtype and number of steps.

    One call works on all tensors of a list, which have their gradients and states with them.
    """
    found: dict[Any, Any] = {}
    for @PART@p, g, hypers in work:
        state = states[p]
        steps = state["step"].item() if state else 0.0
        key = (@PART@id(hypers), p.device, p.dtype, steps)
        if key not in found:
            found[key] = (@PART@hypers, [])
        found[key][-1].append((p, g, state))
    return found.values()'''

BATCHES = '''\
# From how many small tensors of one shape a batch is made, and how many elements one has at most.
FEWEST, SMALL = @FEWEST@, @ELEMENTS@


def batches(tensors: list[Any], *names: str) -> Iterator[tuple[Tensor, Tensor, Any, int]]:
    """The tensors, with their gradients and states: small ones of equal shapes as one batch.

    A batch has one dimension more, in front, which the last number says. When its step has been
    taken, each of its tensors gets its part of the parameters and states.
    """
    found: dict[Any, Any] = {}
    for p, g, state in tensors:
        fits = p.dim() == 2 and p.numel() <= SMALL and all(name in state for name in names)
        shapes = [tuple(state[name].shape) for name in names if fits]
        found.setdefault((tuple(p.shape), *shapes) if fits else id(p), []).append((p, g, state))
    for some in found.values():
        if len(some) < FEWEST:
            yield from ((*one, 0) for one in some)
            continue
        held, gradients, states = zip(*some, strict=True)
        whole = {name: torch.stack([state[name] for state in states]) for name in names}
        whole["step"] = states[0]["step"].clone()
        p = torch.stack(held)
        yield p, torch.stack(gradients), whole, 1
        torch._foreach_copy_(held, p.unbind())
        torch._foreach_add_([state["step"] for state in states], 1)
        for name in whole.keys() - {"step"}:
            for state, x in zip(states, whole[name], strict=True):
                state[name] = x.clone()'''

IN_ITS_PRECISION = '''\
def in_its_precision(p: Tensor) -> contextlib.AbstractContextManager[object]:
    """Within, products on the device of a parameter are not taken in what autocast chooses."""
    device = p.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return contextlib.nullcontext()
    return torch.autocast(device, enabled=False)'''

GIVEN = '''\
def give(work: list[Any], states: dict[Tensor, dict[str, Any]], inputs: Any) -> None:
    """Set the states that hold what is given to a step."""
    found = dict(inputs or {})
    for name in found:
        if name not in INPUTS:
            raise ValueError(f"{NAME} has no input {name!r}; its inputs are {', '.join(INPUTS)}")
    for name in REQUIRED:
        if name not in found:
            raise ValueError(f"{NAME} needs its input {name!r} at every step: step(inputs=...)")
    for name, values in found.items():
        for @SKIPPED@p, _, _ in work:
            value = values.get(p)
            if not isinstance(value, Tensor) or value.shape != p.shape:
                raise ValueError(
                    f"{NAME}: inputs[{name!r}] must have, for each parameter with a gradient, a "
                    f"tensor of its shape, such as {tuple(p.shape)}"
                )
            if not value.is_floating_point():
                raise ValueError(f"{NAME}: inputs[{name!r}] must be floating tensors")
    for @PART@p, g, hypers in work:
        hypers.update({f"given/{name}": float(name in found) for name in INPUTS})
        if found and not states[p]:
            @BEGIN@(p, g, states[p], hypers)
        for name, values in found.items():
            if name in states[p]:
                states[p][name] = precise(values[p].detach(), p).clone()'''

ADD_PARAM_GROUP = '''
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; what it does not set is as in the constructor.

        Raises:
            TypeError: for a hyperparameter that is no number.
            ValueError: for one that is out of bounds@KINDS@.
        """
@JOIN@
        super().add_param_group(param_group)
        try:
            @CHECKS@
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise'''

STATE = '''
    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state that was pickled or loaded."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("maximize", False)@RESTORED@

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state, every tensor in the dtype in which it was saved."""
        super().load_state_dict(state_dict)
        # torch has rounded the states of 16-bit parameters, which are float32, to 16 bits.
        indices = [i for group in state_dict["param_groups"] for i in group["params"]]
        held = [p for group in self.param_groups for p in group["params"]]
        for index, p in zip(indices, held, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                if isinstance(value, Tensor):
                    device = "cpu" if name == "step" else p.device
                    self.state[p][name] = value.detach().to(device, copy=True)'''

SEED_RESTORED = """
            group.setdefault("seed", self.defaults.get("seed", 0))"""

EVALUATION = '''
    @property
    def _evaluating(self) -> bool:
        return any("trained/theta" in state for state in self.state.values())

    @torch.no_grad()
    def eval(self) -> None:
        """Put the parameters where the model is evaluated; `train` puts them back.

        A parameter that has taken no step stays as it is.
        """
        if self._evaluating:
            return
        checked = [(group, numbers(group)) for group in self.param_groups]
        for p, state in self.state.items():
            if "step" in state and state["step"] > 0:
                state["trained/theta"] = p.detach().clone()
        for group, hypers in checked:
            for p in group["params"]:
                if "trained/theta" in self.state.get(p, {}):
                    @POINT@

    @torch.no_grad()
    def train(self) -> None:
        """Put the parameters back as they are trained, after `eval`; otherwise nothing happens."""
        for p, state in self.state.items():
            if "trained/theta" in state:
                p.copy_(state.pop("trained/theta"))'''
