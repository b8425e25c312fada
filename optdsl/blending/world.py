"""The hyperparameters of a blend: its own, shared and bound ones, and those of single members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optdsl.blending.members import Member
from optdsl.diagnostics import Note, Span, nearest
from optdsl.ir.builder import Builder
from optdsl.ir.domain import Choice, Domain, relabelled
from optdsl.ir.program import Hyper, Simplex, Value, upstream
from optdsl.lower.declarations import Declared
from optdsl.lower.expressions import Lowering
from optdsl.lower.resolve import resolve_expression
from optdsl.lower.scope import Scope, component, reserved_hyper
from optdsl.syntax import ast

# A member's hyperparameter: (member, name).
Key = tuple[str, str]


@dataclass(frozen=True, eq=False)
class World:
    """What every hyperparameter of every member is in the blend.

    Attributes:
        declared: the hyperparameters of the blend, in order.
        names: those that belong to one member alone, by their spelling in the blend.
        bound: for each hyperparameter of a member, the hyperparameter of the blend that it is, or
            the equation that gives its value.
    """

    declared: Declared
    names: Mapping[str, tuple[str, ...]]
    bound: Mapping[Key, str | ast.Binding]

    @property
    def learnable(self) -> dict[str, tuple[str, ...]]:
        """The hyperparameters behind each name that can be learned or set: several for weights."""
        parts = {h for s in self.declared.simplexes for h in s.hypers}
        own = {n: h for n, h in self.names.items() if len(h) > 1 or h[0] not in parts}
        flat = {h for hypers in self.names.values() for h in hypers}
        dotted = {s.name for s in self.declared.simplexes if "." in s.name}
        others = self.declared.learnable.items()
        return own | {n: h for n, h in others if n not in flat and n not in dotted}

    def value(self, lowering: Lowering, member: str, hyper: str) -> Value | None:
        """The value of a member's hyperparameter, made where `lowering` makes operations."""
        bound = self.bound[member, hyper]
        if isinstance(bound, str):
            return lowering.builder.emit("hyper", attribute=bound, hint=bound)
        value = lowering.expression(bound.value, self.environment(lowering.builder))
        # `check_bindings` reports a condition.
        wrong = value is None or lowering.builder[value].type.condition
        return None if wrong else self.known(lowering.builder, value)

    def known(self, builder: Builder, value: Value | None) -> Value | None:
        """A value; None where it uses a hyperparameter whose declaration has a mistake."""
        used = () if value is None else upstream(builder.operations, (value,))
        hypers = (builder[v].attribute for v in used if builder[v].opcode == "hyper")
        return value if all(h in self.declared.hypers for h in hypers) else None

    def environment(self, builder: Builder) -> dict[str, Value | None]:
        """The blend's hyperparameters under all their spellings."""
        return {
            name: builder.emit("hyper", attribute=hyper, hint=hyper)
            for name, hyper in self.spellings.items()
        }

    @property
    def spellings(self) -> dict[str, str]:
        """The hyperparameter behind each name that an equation may use."""
        alone = {name: hypers[0] for name, hypers in self.names.items() if len(hypers) == 1}
        parts = {h for s in self.declared.simplexes for h in s.hypers}
        hidden = {*alone.values(), *parts}
        return {h: h for h in self.declared.hypers if h not in hidden} | alone


def world(scope: Scope, members: Mapping[str, Member], own: Declared) -> World:
    """Decide what each hyperparameter of each member is.

    Args:
        scope: the blend.
        members: its members, by name.
        own: the hyperparameters that it declares.
    """
    gathering = _Gathering(scope, members, own)
    # The blend's own hyperparameters in the order in which the file first mentions them.
    order: list[str] = []
    for statement in scope.declaration.statements:
        match statement:
            case ast.Share(names=names):
                gathering.share(statement)
                order += [name.text for name in names]
            case ast.Binding():
                gathering.bind(statement)
            case ast.Hyper(name=name):
                order.append(name.text)
            case ast.Weights(name=name, labels=labels):
                order += [component(name.text, label.text) for label in labels]
    return gathering.world(order)


class _Gathering:
    def __init__(self, scope: Scope, members: Mapping[str, Member], own: Declared) -> None:
        self._scope, self._members, self._own = scope, members, own
        self._report = scope.report
        self._shared: dict[str, list[tuple[Member, Span]]] = {}
        self._bound: dict[Key, str | ast.Binding] = {}
        self._places: dict[Key, Span] = {}

    def share(self, node: ast.Share) -> None:
        found = [(self._member(name), name.span) for name in node.among]
        chosen = [(member, span) for member, span in found if member is not None]
        for name in node.names:
            sharing = [m for m, _ in chosen] or list(self._members.values())
            having = [m for m in sharing if m.hyper(name.text) is not None]
            for member, span in chosen:
                if member not in having:
                    self._no_hyper(member, name.text, span)
            if not chosen and not having and self._members:
                every = {h.name for m in sharing for h in m.program.hypers}
                self._report.error(
                    "unknown-name",
                    f"no member has a hyperparameter `{name.text}`",
                    name.span,
                    hint=nearest(name.text, every),
                )
            for member in having:
                if self._claim(member, name.text, name.span):
                    self._bound[member.name, name.text] = name.text
                    self._shared.setdefault(name.text, []).append((member, name.span))

    def bind(self, node: ast.Binding) -> None:
        member = self._member(node.owner)
        if member is None:
            return
        if node.name.text.endswith("'"):
            self._report.error(
                "prime",
                f"`{member.name}.{node.name.text}` cannot be bound",
                node.name.span,
                label="what a blend binds are members' hyperparameters",
                hint=f"write `{node.name.text} = ...` for a mixture of the members' own",
            )
        elif member.hyper(node.name.text) is None:
            self._no_hyper(member, node.name.text, node.name.span)
        elif self._claim(member, node.name.text, node.name.span):
            self._bound[member.name, node.name.text] = node

    def _member(self, name: ast.Identifier) -> Member | None:
        if name.text not in self._members and name.text not in self._scope.broken:
            self._report.error(
                "unknown-member",
                f"`{name.text}` is not a member",
                name.span,
                label="not listed in `use`",
                hint=nearest(name.text, self._members) or f"write `use {name.text}`",
            )
        return self._members.get(name.text)

    def _no_hyper(self, member: Member, name: str, span: Span) -> None:
        names = [h.name for h in member.program.hypers]
        self._report.error(
            "unknown-name",
            f"`{member.name}` has no hyperparameter `{name}`",
            span,
            hint=nearest(name, names) or f"it has {', '.join(names)}",
        )

    def _claim(self, member: Member, name: str, span: Span) -> bool:
        """Whether nothing else has settled the member's hyperparameter already."""
        if member.program.simplex_of(name) is not None:
            self._report.error(
                "unknown-name",
                f"`{name}` of `{member.name}` is a part of a weight vector",
                span,
                label="a member's weights are its own",
            )
            return False
        first = self._places.setdefault((member.name, name), span)
        if first is not span:
            self._report.error(
                "duplicate",
                f"`{member.name}.{name}` is settled twice",
                span,
                notes=[Note("first settled here", first)],
                hint="it is shared once, or bound once",
            )
        return first is span

    def world(self, order: Sequence[str]) -> World:
        hypers = dict(self._own.hypers)
        declared = {*self._scope.hypers, *self._scope.components.values()}
        for member in self._members.values():
            if member.name in self._scope.weights:
                self._report.error(
                    "duplicate",
                    f"`{member.name}` is a member and a weight vector",
                    member.span,
                    label=f"what would `{member.name}.x` be?",
                    hint="rename one of the two",
                )
        for name, sharing in self._shared.items():
            if name in self._scope.broken:
                continue
            if name in self._scope.hypers:
                self._check_domains(name, sharing)
            elif name in self._scope.weights:
                self._collision(name, name, sharing[0][1])
            else:
                hypers[name] = self._common(name, sharing)
                declared.add(name)
            self._compare(name, sharing)
        hypers = {name: hypers[name] for name in order if name in hypers}
        names: dict[str, tuple[str, ...]] = {}
        simplexes = list(self._own.simplexes)
        for member in self._members.values():
            for hyper in member.program.hypers:
                if (member.name, hyper.name) in self._places:
                    continue
                flat = member.flat(hyper.name)
                reason = reserved_hyper(flat)
                if reason is not None:
                    self._report.error(
                        "reserved",
                        f"`{member.name}.{hyper.name}` would be called {flat}",
                        member.span,
                        label=reason,
                        hint="give the member another name with `as`",
                    )
                if flat in declared:
                    self._collision(f"{member.name}.{hyper.name}", flat, member.span)
                declared.add(flat)
                self._bound[member.name, hyper.name] = flat
                names[f"{member.name}.{hyper.name}"] = (flat,)
                hypers[flat] = Hyper(flat, hyper.default, hyper.domain)
            for simplex in member.program.simplexes:
                name = f"{member.name}.{simplex.name}"
                flats = tuple(map(member.flat, simplex.hypers))
                names[name] = flats
                simplexes.append(Simplex(name, simplex.labels, flats))
        found = World(Declared(hypers, tuple(simplexes)), names, self._bound)
        for bound in self._bound.values():
            if isinstance(bound, ast.Binding):
                allowed = {*found.spellings, *self._scope.components, "t"}
                resolve_expression(bound.value, self._scope, allowed)
        return found

    def _collision(self, spelled: str, flat: str, span: Span) -> None:
        self._report.error(
            "duplicate",
            f"`{spelled}` would be called {flat}, and so is another hyperparameter",
            span,
            hint="rename the other one, or give the member another name with `as`",
        )

    def _common(self, name: str, sharing: list[tuple[Member, Span]]) -> Hyper:
        """The hyperparameter that members share without a declaration: that of the first one.

        Members that do not have the same default and domain for it are reported.
        """
        found = {m.name: m.program.hyper(name) for m, _ in sharing}
        first, *others = found.values()
        wanted = first.default, str(first.domain)
        if all((h.default, str(h.domain)) == wanted for h in others):
            return first
        notes = [
            Note(f"`{member}` has {name} = {h.default:g} in {h.domain}")
            for member, h in found.items()
        ]
        self._report.error(
            "share",
            f"the members that share `{name}` disagree about it",
            sharing[0][1],
            label="which default and bounds shall it have?",
            notes=notes,
            hint=f"declare it: `hyper {name} = {first.default:g} in {first.domain}`",
        )
        return first

    def _compare(self, name: str, sharing: list[tuple[Member, Span]]) -> None:
        """Note a shared hyperparameter that different equations of the members use.

        For instance, a weight decay may be added to the gradient in one member, and shrink the
        parameter in another.
        """
        places = {m.name: tuple(m.reading(name)) for m, _ in sharing}
        if len(set(places.values())) < 2:
            return
        notes = []
        for member, _ in sharing:
            for equation in member.reading(name):
                span = member.span_of(equation)
                text = " ".join(span.text.split()) if span else equation
                notes.append(Note(f"`{member.name}` has {text}"))
        self._report.remark(
            "note",
            "share",
            f"`{name}` acts in different places in the members that share it",
            sharing[0][1],
            label=acting(places),
            notes=notes,
            hint=f"if that is not meant, take `{name}` out of `share`: each member has its own "
            f"then; if it is meant, declare `hyper {name} = ...` and bind each member, "
            f"`{sharing[0][0].name}.{name} = {name}`, in place of `share`",
        )

    def _check_domains(self, name: str, sharing: list[tuple[Member, Span]]) -> None:
        hyper = self._own.hypers.get(name)
        for member, _ in sharing:
            allowed = member.program.hyper(name).domain
            if hyper is not None and not includes(allowed, hyper.domain):
                self._report.error(
                    "share",
                    f"`{name}` can leave the bounds that `{member.name}` gives it",
                    self._scope.hypers[name].span,
                    label=f"must lie within {allowed}",
                    hint="narrow the bounds",
                )


def acting(places: Mapping[str, Sequence[str]]) -> str:
    """Where each member has a hyperparameter, in words: ``in h of Adam, in theta' of Adan``."""
    return ", ".join(f"in {' and '.join(found)} of {member}" for member, found in places.items())


def includes(outer: Domain, inner: Domain) -> bool:
    """Whether a domain holds every number of another one."""
    if isinstance(inner, Choice):
        return all(v in outer for v in inner.values) and not relabelled(inner, outer)
    return not isinstance(outer, Choice) and outer.includes(inner)
