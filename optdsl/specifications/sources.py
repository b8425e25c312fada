"""The texts of specifications: of the library, of files, and of combinations such as `a with b`.

Nothing is parsed here. What a class needs whose program is in the cache is in this module; the rest
of the package, which reads the texts, is imported where they have to be read.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from optdsl import resources
from optdsl.diagnostics import Source
from optdsl.resources import UnknownSpecError


def list_specs() -> tuple[str, ...]:
    """The names of the library's specifications, sorted."""
    return resources.spec_names()


# The names of the library's modifiers, sorted.
list_modifiers = resources.modifier_names


def find(name: str) -> str:
    """The library's own spelling of a name, without regard to case and underscores.

    Raises:
        UnknownSpecError: when the library has no specification or modifier of that name.
    """
    known = {folded(spec): spec for spec in known_names()}
    if folded(name) not in known:
        raise UnknownSpecError(name, list_specs())
    return known[folded(name)]


def known_names() -> tuple[str, ...]:
    """The names of the specifications and the modifiers of the library, each sorted."""
    return (*list_specs(), *list_modifiers())


def is_path(name: str) -> bool:
    """Whether a name is the path of a file, and not one of the library's."""
    return name.endswith(".opt") or os.sep in name


def open_source(name: str | os.PathLike[str]) -> Source:
    """The text of a specification of the library, of a ``.opt`` file, or of a combination.

    A combination such as ``adamw with cautious`` is the text of a file that names it.

    Raises:
        UnknownSpecError: when the library has no specification of that name.
        OSError: when the file cannot be read.
        ValueError: when the file is not UTF-8 text, or a combination has a comment.
    """
    text = os.fspath(name)
    if isinstance(name, str) and is_combination(text):
        return combination(text)
    if isinstance(name, str) and not is_path(name):
        found = find(text)
        return Source(f"{found}.opt", resources.spec_text(found))
    try:
        # A byte order mark is dropped; line ends are kept, for the formatter to change.
        content = Path(text).read_bytes().decode("utf-8-sig")
        return Source(text, content, directory=os.path.dirname(text) or os.curdir)
    except UnicodeDecodeError as error:
        raise ValueError(f"{text} is not UTF-8 text (byte {error.start})") from None


def folded(name: str) -> str:
    """A name in lower case and without signs between words, which do not count in look-ups."""
    return re.sub(r"[\W_]", "", name.lower())


# A name, perhaps with options, and `with`: no path begins like this unless it has spaces.
_COMBINED = re.compile(r"\s*\w+\s*(\(.*\)\s*$|(\(.*?\)\s*|\s)with(\s|$))", flags=re.DOTALL)


def is_combination(text: str) -> bool:
    """Whether a text names a rule with options or modifiers, and not a specification or a file."""
    return _COMBINED.match(text) is not None and not text.endswith(".opt")


def combination(text: str) -> Source:
    """``adamw with cautious`` as a file: ``optimizer AdamwWithCautious = adamw with cautious``."""
    if "#" in text:
        raise ValueError(f"{text!r} names a rule and its modifiers, and has no comments")
    text = " ".join(text.split())
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\([^)]*\)", "", text))
    title = "".join(part[:1].upper() + part[1:] for name in names for part in name.split("_"))
    return Source(text, f"optimizer {title} = {text}\n")


def beside_of(directory: str | None) -> dict[str, list[str]]:
    """The specifications in a directory: their paths by their folded names."""
    if directory is None:
        return {}
    try:
        with os.scandir(directory) as entries:
            names = sorted(e.name for e in entries if e.name.endswith(".opt") and e.is_file())
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    for name in names:
        if not name.startswith("."):
            place = os.path.join(directory, name)
            found.setdefault(folded(name.removesuffix(".opt")), []).append(place)
    return found


# A source as plain values: its name, text and directory, and the recipes of the rules it refers to.
Recipe = tuple[str, str, str | None, tuple[tuple[str, Any], ...]]
# Files by whose rules something is learned: their names in programs, and their recipes.
RuleFiles = tuple[tuple[str, Recipe], ...]


def from_recipe(values: Recipe) -> Source:
    """The source of a recipe."""
    name, text, directory, rules = values
    return Source(name, text, directory, tuple((n, from_recipe(r)) for n, r in rules))


def recipe_of(values: list[Any]) -> Recipe:
    """A recipe that was stored as JSON, which turns tuples into lists."""
    name, text, directory, rules = values
    return name, text, directory, tuple((n, recipe_of(r)) for n, r in rules)


def surroundings(source: Source) -> list[Any]:
    """Everything that the meaning of a source can depend on, found without parsing it."""
    beside = []
    if source.directory is not None:
        for path in sorted(Path(source.directory).glob("*.opt")):
            with contextlib.suppress(OSError):
                beside.append((path.name, path.read_bytes().hex()))
    rules = [(name, surroundings(rule)) for name, rule in source.rules or ()]
    own = (source.name, source.text, source.directory)
    return [own, rules, beside, list(resources.spec_texts().items())]
