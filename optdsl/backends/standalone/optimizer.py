"""The optimizer class of a standalone file."""

from __future__ import annotations

import textwrap

from optdsl.backends.emitted import wrapped
from optdsl.backends.naming import Names
from optdsl.backends.standalone import learning, texts, texts_of_draws, texts_of_learning
from optdsl.backends.standalone.checks import default, given
from optdsl.backends.standalone.rule import Rule
from optdsl.ir.domain import Choice
from optdsl.ir.program import Hyper
from optdsl.ir.sections import name_of

_WIDTH = 92


def optimizer(rule: Rule) -> str:
    """The text of the class."""
    parts = [_head(rule), _constructor(rule), _add_param_group(rule), _state(rule)]
    if rule.evaluates:
        part = 'POINT[part_of(p, group.get("kind"), hypers)]' if len(rule.parts) > 1 else "point"
        point = f"p.copy_({part}(p, self.state[p], hypers))"
        parts.append(texts.EVALUATION.replace("@POINT@", point))
    parts.append(_step(rule))
    return "\n".join(parts)


def _head(rule: Rule) -> str:
    program = rule.program
    lines: list[str] = []
    for line in program.documentation or (program.name,):
        lines += textwrap.wrap(line, _WIDTH, break_on_hyphens=False)
    if rule.blocks:
        own = [c.name for c in learning.coefficients(rule)]
        when = "before the step" if rule.order == "exact" else "after the step"
        text = f"It learns {', '.join(own)}, which move {when} that measures their hyper-gradients."
        lines += ["", *textwrap.wrap(text, _WIDTH)]
    if rule.fixed:
        listed = ", ".join(rule.fixed)
        lines += ["", *textwrap.wrap(f"The specification learns {listed}; here they are fixed.")]
    lines += ["", "Args:"]
    lines += _argument("params", "parameters, named parameters, or parameter groups")
    bounds = learning.bounds(rule)
    for hyper in given(rule):
        domain = bounds.get(hyper.name, hyper.domain)
        vector = program.simplex_of(hyper.name)
        text = f"{default(hyper.domain, hyper.default)} by default, in {domain}"
        text += f"; one of the weights {vector.name}, which sum to 1" if vector else ""
        lines += _argument(_names(rule)[hyper.name], text)
    lines += _argument("maximize", "whether to go up the gradients")
    if rule.draws:
        lines += _argument("seed", "of the random numbers, a whole number in [0, 2^64)")
    if program.sections:
        text = f"A parameter group may choose a kind by its entry `kind`: {_listed(rule)}."
        lines += ["", *textwrap.wrap(text, _WIDTH)]
    lines += [
        "",
        "Raises:",
        "    TypeError: for a hyperparameter that is no number.",
        "    ValueError: for one that is out of bounds.",
    ]
    text = "\n".join(f"    {line}".rstrip() for line in lines).replace("\\", "\\\\")
    text = text.replace('"""', "'''")
    return f'class {program.name}(torch.optim.Optimizer):\n    """{text.lstrip()}\n    """'


def _listed(rule: Rule) -> str:
    return ", ".join(map(name_of, rule.program.sections))


def _argument(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{name}: {text}", _WIDTH, initial_indent="    ", subsequent_indent="        "
    )


def _names(rule: Rule) -> dict[str, str]:
    """The arguments of the constructor by hyperparameter."""
    names = Names(["self", "params", "maximize", "param_group"])
    return {h.name: names.fresh(h.name) for h in given(rule)}


def _constructor(rule: Rule) -> str:
    names = _names(rule)
    ordered = sorted(given(rule), key=lambda h: h.name != "lr")

    def argument(hyper: Hyper) -> str:
        label = isinstance(hyper.domain, Choice) and hyper.domain.labels
        kind = "str | float" if label else "float | Tensor"
        return f"{names[hyper.name]}: {kind} = {default(hyper.domain, hyper.default)}"

    first = [argument(h) for h in ordered if h.name == "lr"]
    rest = [argument(h) for h in ordered if h.name != "lr"]
    arguments = ["self", "params: Any", *first, "*", *rest, "maximize: bool = False"]
    arguments += ["seed: int = 0"] if rule.draws else []
    lines = wrapped("def __init__(", arguments, ") -> None:")
    rows = [f'"{h.name}": {names[h.name]}' for h in ordered] + ['"maximize": bool(maximize)']
    rows += ['"seed": check_seed(seed)'] if rule.draws else []
    lines += [f"    {line}" for line in wrapped("defaults = {", rows, "}")]
    if ordered:
        lines.append("    numbers(defaults)")
    if rule.blocks:
        lines.append("    defaults |= LEARNING")
    lines.append("    super().__init__(params, defaults)")
    return "\n" + "\n".join(f"    {line}" for line in lines)


def _add_param_group(rule: Rule) -> str:
    checked = ["numbers(param_group)"] if given(rule) else []
    checked += texts_of_draws.SAME_SEED.splitlines() if rule.draws else []
    shared = learning.common(rule)
    checked += ["agree(self.param_groups)"] if shared else []
    kinds = ""
    if rule.program.sections:
        checked += ['for p in param_group["params"]:']
        checked += ['    kind_of(p, param_group.get("kind"))']
        kinds = ", or a parameter that is of no kind"
    if not checked:
        return ""
    text = texts.ADD_PARAM_GROUP.replace("@KINDS@", kinds)
    text = text.replace("@JOIN@\n", texts_of_learning.JOIN if shared else "")
    return text.replace("@CHECKS@", f"\n{' ' * 12}".join(checked))


def _state(rule: Rule) -> str:
    restored = texts_of_learning.RESTORED if rule.blocks else ""
    restored += texts.SEED_RESTORED if rule.draws else ""
    return texts.STATE.replace("@RESTORED@", restored)


def _step(rule: Rule) -> str:
    head = _STEP_HEAD
    if rule.inputs:
        head = head.replace("= None) ->", "= None, *, inputs: Any = None) ->")
        head = head.replace(_RETURNS, f"{_RETURNS}{_INPUTS}")
    lines = head.splitlines()
    if rule.evaluates:
        lines += _IN_EVAL.splitlines()
    lines += _CLOSURE.splitlines()
    hypers = "numbers(group)" if given(rule) else "{}"
    if rule.draws:
        lines += ["        drawn = drawing(self.param_groups)"]
        hypers += ' | {"draws": drawn}'
    lines += ["        work = []"]
    if rule.shared or rule.blocks:
        lines += [f"        groups = [{hypers} for group in self.param_groups]"]
        lines += ["        agree(self.param_groups)"] if learning.common(rule) else []
        lines += ["        share(self.param_groups, groups)"] if rule.shared else []
        lines += ["        for group, hypers in zip(self.param_groups, groups, strict=True):"]
    else:
        lines += ["        for group in self.param_groups:", f"            hypers = {hypers}"]
    lines += _GATHER.splitlines()
    kind = 'part_of(p, group.get("kind"), hypers), ' if len(rule.parts) > 1 else ""
    lines.append(f"                    work.append(({kind}p, g, hypers))")
    if rule.inputs:
        lines.append("        give(work, self.state, inputs)")
    names = "part, p, g, hypers" if kind else "p, g, hypers"
    moved = [f"        {line}" for line in learning.learning(rule)]
    lines += [f"        {line}" for line in learning.measuring(rule)]
    lines += moved if rule.order == "exact" else []
    for level, totals in enumerate(rule.totals):
        call = f"MEASURED_{level}[part]" if kind else f"measured_{level}"
        listed = "{" + ", ".join(f'"{name}": 0.0' for name in totals) + "}"
        lines += [
            f"        totals = {listed}",
            f"        for {names} in work:",
            f"            parts = {call}(p, g, self.state.get(p, {{}}), hypers)",
            "            for name, value in parts.items():",
            "                totals[name] += value",
            f"        for {'*' if kind else ''}_, hypers in work:"
            if kind
            else "        for _, _, hypers in work:",
            "            hypers.update(totals)",
        ]
    call = "UPDATE[part]" if kind else "update"
    if rule.gathers:
        names = "part, hypers, tensors" if kind else "hypers, tensors"
        lines += [f"        for {names} in alike(work, self.state):"]
        lines += [f"            {call}(tensors, hypers)"]
    else:
        lines += [f"        for {names} in work:"]
        lines += [f"            {call}(p, g, self.state[p], hypers)"]
    lines += moved if rule.order != "exact" else []
    if rule.shared:
        lines += ["        if work:", "            advance(self.param_groups, work[0][-1])"]
    lines.append("        return loss")
    return "\n" + "\n".join(lines)


_RETURNS = "            closure: evaluates the model again and returns the loss.\n"
_INPUTS = """\
            inputs: by the name of an input, and by parameter, a tensor like the parameter.
"""
_STEP_HEAD = '''\
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step with the gradients that the parameters hold.

        Args:
            closure: evaluates the model again and returns the loss.

        Raises:
            RuntimeError: for a sparse gradient; nothing has changed.
            ValueError: for a hyperparameter that was set out of bounds, or a parameter of a
                dtype that is not updated; nothing has changed.
        """'''
_IN_EVAL = """\
        if self._evaluating:
            raise RuntimeError(f"{NAME} is in eval mode; call train() before step()")"""
_CLOSURE = """\
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()"""
_GATHER = """\
            for p in group["params"]:
                if p.grad is not None:
                    check(p)
                    g = -p.grad if group["maximize"] else p.grad"""
