"""The texts of a standalone file that learns."""

COMMENT = "# What is learned, and what each parameter group keeps for that at the start."

HYPERGRADIENTS = '''\
def hypergradients(
    work: list[Any], states: dict[Tensor, dict[str, Any]], every: bool = True
) -> dict[str, float]:
    """The products of gradients with the derivatives of the step before, over all tensors.

    If some are no numbers, elements count no more whose gradient is 0 and whose derivative is not
    finite (`every`). Without a step before there is nothing.
    """
    sums: dict[Any, list[Tensor]] = {}
    for @PART@p, g, _ in work:
        state = states.get(p, {})
        if "@TANGENT@" not in state:
            continue
        accurate = torch.float32 if p.device.type == "mps" else torch.float64
        x = g.reshape(-1).to(accurate)
        for name in LEARNED:
            y = state[f"tangent/{name}"].reshape(-1).to(accurate)
            if not every:
                y = torch.where((x == 0) & ~y.isfinite(), 0, y)
            sums.setdefault((name, p.device), []).append(torch.dot(x, y))
@COSINES@
    found: dict[str, float] = {}
    for (name, _), products in sums.items():
        found[name] = found.get(name, 0.0) + torch.stack(products).sum().item()
    if every and any(map(math.isnan, found.values())):
        return hypergradients(work, states, every=False)
    return found'''

COSINES = """\
            if name in COSINES:
                for key, z in (("gradient", x), ("tangent", y)):
                    square = (f"square/{name}/{key}", p.device)
                    sums.setdefault(square, []).append(torch.dot(z, z))
"""

SQUARE = """\
        sums.setdefault(("square/gradient", p.device), []).append(torch.dot(x, x))
"""

AGREE = '''\
def agree(groups: list[Any]) -> None:
    """Refuse coefficients that groups share and have different values of."""
    for name in LEARNED:
        values = {float(group[name]) for group in groups} if name in COMMON else set()
        if len(values) > 1:
            raise ValueError(
                f"{NAME}: {name} is learned for the whole optimizer, but its groups have "
                f"{sorted(values)}; give all groups one value"
            )'''

STEPS = '''\
def steps_of(states: dict[Tensor, dict[str, Any]], tensors: Any) -> float:
    """The largest number of steps that one of some tensors has taken."""
    held = (states[p] for p in tensors if p in states)
    return max((state["step"].item() for state in held if "step" in state), default=0.0)'''

LEARN = '''\
def @NAME@(groups: list[dict[str, Any]], sums: dict[str, float], taken: float) -> None:
    """Move @WHAT@ by the hyper-gradients that were measured."""
    if not sums:
        return
    group, moved = groups[0], dict[str, float]()
    @MOVES@
    for group in groups:
        group.update(moved)'''

MOVED = "moved.update(zip(names, map(float, found), strict=True))"

TOTAL = '''\
def total(sums: list[dict[str, float]]) -> dict[str, float]:
    """Sums added up, by name."""
    names = dict.fromkeys(name for some in sums for name in some)
    return {name: sum(some.get(name, 0.0) for some in sums) for name in names}'''

# What a group that is added later shares with the others.
JOIN = """\
        if self.state:
            for name in COMMON:
                param_group.setdefault(name, self.param_groups[0][name])
"""

RESTORED = """
            for name, value in LEARNING.items():
                group.setdefault(name, value)"""
