"""A compiled class shows a familiar face: betas, signature, help, repr, `optdsl.optimizers`."""

import ast
import contextlib
import copy
import inspect
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import nn

import optdsl
import optdsl.optimizers
from optdsl import stubs
from optdsl.ir.domain import spell_in

pytestmark = pytest.mark.broad(8)

SPECS = optdsl.list_specs()
WITH_BETAS = {spec: names for spec in SPECS if (names := optdsl.load(spec).compiled.betas)}


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes: list[tuple[int, ...]] = [(3, 2), (4,)]
    return [
        nn.Parameter(torch.rand(s, generator=generator, dtype=torch.float64) + 0.5) for s in shapes
    ]


def train(optimizer: torch.optim.Optimizer, steps: int = 3) -> list[float]:
    """Some steps; the numbers to which they lead."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(steps):
        optimizer.zero_grad()
        sum((p - 0.1).pow(2).sum() for p in params).backward()
        optimizer.step()
    return [x for p in params for x in p.detach().reshape(-1).tolist()]


# --- betas --------------------------------------------------------------------------------------


def test_which_rules_have_betas() -> None:
    assert WITH_BETAS["adam"] == ("beta1", "beta2")
    assert WITH_BETAS["adan"] == ("beta1", "beta2", "beta3")
    assert WITH_BETAS["mada"] == ("beta1", "beta2")
    assert "sgd" not in WITH_BETAS
    with pytest.raises(TypeError, match="SGD has no hyperparameter 'betas'"):
        optdsl.load("sgd")(parameters(), betas=(0.9, 0.99))


@pytest.mark.parametrize("spec", WITH_BETAS)
def test_betas_are_the_hyperparameters_one_by_one(spec: str) -> None:
    """In the constructor, in a group of the constructor's, and in a group that is added."""
    cls, names = optdsl.load(spec, learn=False), WITH_BETAS[spec]
    betas = (0.5, 0.6, 0.7)[: len(names)]
    single = dict(zip(names, betas, strict=True))
    expected = train(cls(parameters(), **single))
    assert train(cls(parameters(), betas=betas)) == expected
    assert train(cls(parameters(), betas=list(betas))) == expected
    assert train(cls([{"params": parameters(), "betas": betas}])) == expected
    first, second = parameters()
    late = cls([first], **single)
    late.add_param_group({"params": [second], "betas": betas})
    assert train(late) == expected
    for group in late.param_groups:
        assert group["betas"] == betas == tuple(group[n] for n in names)


@pytest.mark.parametrize("learn", [True, False])
@pytest.mark.parametrize("spec", WITH_BETAS)
def test_betas_in_the_groups_follow_and_lead(spec: str, learn: bool) -> None:
    """They are the current values, learned ones too; what is written into them counts."""
    optimizer, names = optdsl.load(spec, learn=learn)(parameters()), WITH_BETAS[spec]
    (group,) = optimizer.param_groups
    assert optimizer.defaults["betas"] == group["betas"] == tuple(group[n] for n in names)
    train(optimizer)
    assert group["betas"] == tuple(group[n] for n in names)
    group["betas"] = (0.75, *group["betas"][1:])
    train(optimizer, 1)
    assert group["beta1"] == pytest.approx(0.75, abs=1e-2)
    assert group["beta1"] == 0.75 or learn
    group["beta1"] = 0.625
    saved = optimizer.state_dict()["param_groups"][0]
    assert saved["betas"][0] == saved["beta1"] == 0.625


def test_betas_that_are_written_last_survive_copies_and_checkpoints() -> None:
    cls = optdsl.load("adam")
    optimizer = cls(parameters())
    optimizer.param_groups[0]["betas"] = (0.5, 0.75)
    loaded = cls(parameters())
    loaded.load_state_dict(optimizer.state_dict())
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)), loaded]
    for other in copies:
        assert [other.param_groups[0][n] for n in ("beta1", "beta2")] == [0.5, 0.75]
        other.param_groups[0]["betas"] = (0.25, 0.75)
        train(other, 1)
        assert other.param_groups[0]["beta1"] == 0.25


def test_a_state_from_before_there_were_betas_is_loaded() -> None:
    optimizer = optdsl.load("adam")(parameters(), betas=(0.5, 0.75))
    content = optimizer.state_dict()
    for key in ("betas", "maximize"):
        del content["param_groups"][0][key]
    loaded = optdsl.load("adam")(parameters())
    loaded.load_state_dict(content)
    assert loaded.param_groups[0]["betas"] == (0.5, 0.75)
    assert loaded.param_groups[0]["maximize"] is False


WRONG_BETAS = [
    ((0.9,), ValueError, "betas must have 2 numbers, for beta1, beta2, not 1"),
    ((0.9, 0.99, 0.999), ValueError, "betas must have 2 numbers, for beta1, beta2, not 3"),
    (0.9, TypeError, "betas must be a tuple of 2 numbers, for beta1, beta2, not 0.9"),
    ("0.9", TypeError, "betas must be a tuple of 2 numbers, for beta1, beta2, not '0.9'"),
    ((0.9, "0.99"), TypeError, "beta2 must be a real number, not '0.99'"),
    ((0.9, 1.0), ValueError, r"beta2 = 1 is out of bounds, it must lie in \[0, 1\)"),
    ((-0.1, 0.9), ValueError, r"beta1 = -0.1 is out of bounds, it must lie in \[0, 1\)"),
]


@pytest.mark.parametrize(("betas", "kind", "words"), WRONG_BETAS)
def test_wrong_betas_are_told_wherever_they_are_given(
    betas: Any, kind: type[Exception], words: str
) -> None:
    cls = optdsl.load("adam")
    with pytest.raises(kind, match=f"Adam: {words}"):
        cls(parameters(), betas=betas)
    with pytest.raises(kind, match=f"Adam: {words}"):
        cls([{"params": parameters(), "betas": betas}])
    params = parameters()
    optimizer = cls(params[:1])
    with pytest.raises(kind, match=f"Adam: {words}"):
        optimizer.add_param_group({"params": params[1:], "betas": betas})
    assert len(optimizer.param_groups) == 1
    optimizer.param_groups[0]["betas"] = betas
    before = [p.detach().clone() for p in params]
    with pytest.raises(kind, match=f"Adam: {words}"):
        train(optimizer, 1)
    torch.testing.assert_close(params, before, rtol=0, atol=0)


def test_betas_and_one_of_them_are_too_much() -> None:
    cls = optdsl.load("adam")
    with pytest.raises(TypeError, match="Adam: give betas or beta1, not both"):
        cls(parameters(), betas=(0.9, 0.99), beta1=0.8)
    with pytest.raises(TypeError, match="Adam: give betas or beta2, not both"):
        cls([{"params": parameters(), "betas": (0.9, 0.99), "beta2": 0.8}])
    assert cls(parameters(), betas=None, beta1=0.8).param_groups[0]["betas"] == (0.8, 0.999)


@pytest.mark.parametrize("name", ["betas", "maximize"])
def test_a_hyperparameter_may_not_take_these_names(name: str) -> None:
    with pytest.raises(optdsl.SpecError, match=f"`{name}`"):
        optdsl.compile(f"optimizer R\nhyper {name} = 0.5\ntheta' = theta - {name} * g\n")


# --- signature, help, repr ----------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_the_signature_shows_defaults_and_bounds(spec: str) -> None:
    cls = optdsl.load(spec)
    found = inspect.signature(cls).parameters
    for hyper in cls.compiled.program.hypers:
        own = found[hyper.name]
        by_position = own.kind is not inspect.Parameter.KEYWORD_ONLY
        assert by_position == (hyper.name == "lr")
        assert own.default == hyper.default
        assert str(hyper.domain) in str(own)
    assert ("betas" in found) == (spec in WITH_BETAS)
    assert found["maximize"].default is False
    # All of it as it stands makes the default optimizer, as tools that read signatures expect.
    given = {name: p.default for name, p in found.items() if name != "params"}
    assert cls(parameters(), **given).defaults == cls(parameters()).defaults


@pytest.mark.parametrize("spec", SPECS)
def test_help_shows_the_citation_and_every_hyperparameter(spec: str) -> None:
    cls, page = optdsl.load(spec), io.StringIO()
    with contextlib.redirect_stdout(page):
        help(cls)
    text = " ".join(page.getvalue().replace("|", " ").split())
    program = cls.compiled.program
    assert program.documentation
    assert all(" ".join(line.split()) in text for line in program.documentation)
    for hyper in program.hypers:
        default = spell_in(hyper.domain, hyper.default)
        assert f"{hyper.name}: {default} by default, in {hyper.domain}" in text


def test_repr_reads_as_torchs_does() -> None:
    mine = optdsl.load("adamw")(parameters(), lr=0.25, betas=(0.5, 0.75))
    theirs = torch.optim.AdamW(parameters(), lr=0.25, betas=(0.5, 0.75))
    ours = repr(mine).splitlines()
    assert ours[0] == "AdamW ("
    assert set(ours) <= set(repr(theirs).splitlines())
    assert {line.split(":")[0].strip() for line in ours[2:-1]} == {
        *("betas", "eps", "lr", "maximize", "weight_decay")
    }


@pytest.mark.parametrize("spec", SPECS)
def test_repr_shows_what_was_learned_and_no_bookkeeping(spec: str) -> None:
    # A learning rate that is learned for all groups is not set by one of them.
    cls = optdsl.load(spec, learn=spec not in {"sgd_hd", "adam_hd"})
    first, second = parameters()
    optimizer = cls([{"params": [first]}, {"params": [second], "lr": 0.5}])
    train(optimizer, 5)
    text = repr(optimizer)
    assert text.splitlines()[1] == "Parameter Group 0"
    assert "Parameter Group 1" in text
    assert "    lr: 0.5\n" in text
    assert "/" not in text
    for learned in cls.compiled.program.learned:
        value = optimizer.param_groups[0][learned.hyper]
        line = f"    {learned.hyper}: {value} (learned in {learned.bounds})"
        assert text.splitlines().count(line) == 2
    for hyper in cls.compiled.program.hypers:
        assert re.search(rf"^    {hyper.name}: ", text, re.M) or hyper.name in cls.compiled.betas


def test_repr_says_what_has_a_coefficient_of_its_own() -> None:
    for scope, words in (
        ("group", ", for each group"),
        ("tensor", ", for each tensor, starting here"),
    ):
        learn = {"lr": optdsl.Learn("sgd", lr=1e-4, bounds=(0, 1), scope=scope)}
        first, second = parameters()
        optimizer = optdsl.load("sgd", learn=learn)([{"params": [first]}, {"params": [second]}])
        train(optimizer)
        rates = [group["lr"] for group in optimizer.param_groups]
        lines = repr(optimizer).splitlines()
        assert [line for line in lines if line.startswith("    lr: ")] == [
            f"    lr: {rate} (learned in [0, 1]{words})" for rate in rates
        ]
        assert (rates[0] != rates[1]) == (scope == "group")


# --- optdsl.optimizers ---------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_every_optimizer_of_the_library_can_be_imported_by_its_name() -> None:
    from optdsl.optimizers import MADA, Adam

    assert Adam is optdsl.load("adam")
    assert MADA is optdsl.load("mada")
    assert set(optdsl.optimizers.names().values()) == set(SPECS)
    for name, spec in optdsl.optimizers.names().items():
        cls = getattr(optdsl.optimizers, name)
        assert cls is optdsl.load(spec)
        assert cls.__name__ == name
    shown = {name for name in dir(optdsl.optimizers) if not name.startswith("_")}
    assert shown == {*optdsl.optimizers.names(), "names"}


def test_another_name_is_an_attribute_error_with_the_nearest_one() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Adamm': did you mean `Adam`"):
        _ = optdsl.optimizers.Adamm  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'adam'"):
        from optdsl.optimizers import adam  # type: ignore[attr-defined]  # noqa: F401


def test_the_stub_is_up_to_date() -> None:
    place = Path(optdsl.optimizers.__file__).with_suffix(".pyi")
    assert place.read_text(encoding="utf-8") == stubs.text(), "run `make stubs`"


@pytest.mark.exhaustive
def test_editors_complete_what_the_signatures_say() -> None:
    tree = ast.parse(stubs.text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert classes.keys() == optdsl.optimizers.names().keys()
    for name, node in classes.items():
        real = inspect.signature(getattr(optdsl.optimizers, name)).parameters
        (init,) = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        taken = [*init.args.args[1:], *init.args.kwonlyargs]
        assert [a.arg for a in taken] == list(real)
        given = [*init.args.defaults, *init.args.kw_defaults]
        defaults = [ast.literal_eval(d) for d in given if d is not None]
        assert defaults == [p.default for p in list(real.values())[1:]]


def test_the_learning_rate_may_come_by_position() -> None:
    cls = optdsl.load("adamw")
    assert cls(parameters(), 0.25).param_groups[0]["lr"] == 0.25
    with pytest.raises(TypeError, match="takes params and lr by position, and all others by name"):
        cls(parameters(), 0.1, 0.9)
    with pytest.raises(TypeError, match="AdamW: lr is given by position and by name"):
        cls(parameters(), 0.1, lr=0.1)


def test_a_beta_by_its_name_is_kept_where_a_scheduler_writes_the_others() -> None:
    optimizer = optdsl.load("adamw")(parameters())
    (group,) = optimizer.param_groups
    group["beta2"] = 0.5
    group["betas"] = (0.8, group["betas"][1])
    for p in group["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert (group["beta1"], group["beta2"], group["betas"]) == (0.8, 0.5, (0.8, 0.5))


def test_annotations_can_be_resolved() -> None:
    """Tools that build command lines ask for them."""
    hints = get_type_hints(optdsl.load("adam").__init__)
    assert hints["maximize"] is bool


def test_hyperparameters_given_to_a_function_of_the_library_are_refused_with_the_place() -> None:
    calls: dict[Callable[[], object], str] = {
        lambda: optdsl.load("adam", lr=0.1): r"load has no option 'lr': .*\(params, lr=\.\.\.\)",  # type: ignore[arg-type]
        lambda: optdsl.load("adam", bakend="c"): "did you mean `backend`",  # type: ignore[arg-type]
        lambda: optdsl.compile("", lr=0.1): "compile has no option 'lr'",  # type: ignore[arg-type]
        lambda: optdsl.blend("adam", "lion", lr=0.1): "blend has no option 'lr'",  # type: ignore[arg-type]
        lambda: optdsl.blend(["adam", "lion"]): r"of a list: blend\(\*rules\)",  # type: ignore[arg-type]
    }
    for call, words in calls.items():
        with pytest.raises(TypeError, match=words):
            call()


def test_help_is_free_of_the_program() -> None:
    assert repr(optdsl.load("adam").compiled) == "<Adam, order='overlapped'>"
    assert "`differentiable=True` is refused." in (optdsl.load("adam").__doc__ or "")


def test_betas_are_shown_together_or_one_by_one() -> None:
    def text(cls: Any) -> str:
        return repr(cls([torch.nn.Parameter(torch.zeros(2))]))

    assert "betas: (0.9, 0.999)" in text(optdsl.load("adam"))
    assert "beta1" not in text(optdsl.load("adam"))
    how = optdsl.Learn("sgd", lr=1e-3, bounds=(0.5, 0.99), sample=8)
    learned = text(optdsl.load("adam", learn={"beta1": how}))
    told = "learned in [0.5, 0.99], from 1 in 8 elements of large tensors"
    assert f"    beta1: 0.9 ({told})\n    beta2: 0.999\n" in learned
    assert "betas" not in learned
