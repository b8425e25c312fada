"""The texts of specifications: of the library, of files, and of combinations such as `a with b`.

A name is one of the library, or of a directory that `optdsl.specifications.search` finds. Nothing
is parsed here. What a class needs whose program is in the cache is in this module; the rest
of the package, which reads the texts, is imported where they have to be read.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from optdsl import resources
from optdsl.diagnostics import Source
from optdsl.resources import UnknownSpecError
from optdsl.specifications import search
from optdsl.specifications.search import SpecClashError, folded


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


def in_library(name: str) -> bool:
    """Whether the library has a specification or a modifier of a name."""
    return folded(name) in map(folded, known_names())


def elsewhere(name: str, own: bool, thorough: bool = False) -> str | None:
    """The file outside the library that a name stands for; None where there is none.

    What installed packages bring along is looked at only if the library has no such name, because
    that takes milliseconds; `optdsl list` names packages that repeat a name of the library.

    Args:
        name: the name.
        own: whether the library has it.
        thorough: whether packages are looked at in any case.

    Raises:
        SpecClashError: when several files have the name, or a file and the library.
    """
    found = search.everywhere() if thorough or not own else search.given()
    files = found.files.get(folded(name), ())
    places = [*map(str, files), *(["the library"] if own and files else [])]
    if len(places) > 1:
        raise SpecClashError(name, places)
    return files[0].place if files else None


def names_elsewhere() -> list[str]:
    """The names of all specifications outside the library, sorted."""
    return sorted({file.name for own in search.everywhere().files.values() for file in own})


def is_path(name: str) -> bool:
    """Whether a name is the path of a file, and not one of the library's."""
    return name.endswith(".opt") or os.sep in name


def open_source(name: str | os.PathLike[str]) -> Source:
    """The text of a specification by its name, of a ``.opt`` file, or of a combination.

    A combination such as ``adamw with cautious`` is the text of a file that names it. One of a
    file, as in ``my_rule.opt with cautious``, is that of a file beside it.

    Raises:
        UnknownSpecError: when there is no specification of that name.
        SpecClashError: when there are several.
        OSError: when the file cannot be read.
        ValueError: when the file is not UTF-8 text, or a combination has a comment or its file
            a name that no specification could refer to.
    """
    text = os.fspath(name)
    if isinstance(name, str) and is_combination(text):
        return combination(text)
    of_file = _of_file(text) if isinstance(name, str) else None
    if of_file is not None:
        return combination(text, *of_file)
    if isinstance(name, str) and not is_path(name):
        own = in_library(text)
        place = elsewhere(text, own)
        if own:
            return of_library(text)
        if place is None:
            known = sorted({*list_specs(), *names_elsewhere()})
            raise UnknownSpecError(text, tuple(known), search.everywhere().troubles)
        text = place
    try:
        # A byte order mark is dropped; line ends are kept, for the formatter to change.
        content = Path(text).read_bytes().decode("utf-8-sig")
        return Source(text, content, directory=os.path.dirname(text) or os.curdir)
    except FileNotFoundError:
        if isinstance(name, str) and re.search(r"\swith\s.*\.opt$", text):
            raise ValueError(
                f"there is no file {text!r}, and modifiers have names: write `with cautious` for "
                f"cautious.opt beside the rule, or in a directory of `path`"
            ) from None
        raise
    except UnicodeDecodeError as error:
        raise ValueError(f"{text} is not UTF-8 text (byte {error.start})") from None


def of_library(name: str) -> Source:
    """The text of a specification or a modifier of the library.

    Raises:
        UnknownSpecError: when the library has none of that name.
    """
    found = find(name)
    return Source(f"{found}.opt", resources.spec_text(found))


# A name, perhaps with options, and `with`: no path begins like this unless it has spaces.
_COMBINED = re.compile(r"\s*\w+\s*(\(.*\)\s*$|(\(.*?\)\s*|\s)with(\s|$))", flags=re.DOTALL)


def is_combination(text: str) -> bool:
    """Whether a text names a rule with options or modifiers, and not a specification or a file."""
    return _COMBINED.match(text) is not None and not text.endswith(".opt")


# A file, and the options or modifiers after it.
_OF_FILE = re.compile(
    r"\s*(?P<file>\S.*?\.opt)(?P<rest>\s*\(.*\)\s*|\s*(\(.*?\)\s*|\s)with(\s.*)?)",
    flags=re.DOTALL,
)


def _of_file(text: str) -> tuple[str, str] | None:
    """The file of a combination, and what is made of it; None for other texts.

    A file may be called like a combination; it is a file, then.
    """
    match = _OF_FILE.fullmatch(text)
    if match is None or text.endswith(".opt") or os.path.isfile(text):
        return None
    return match["file"], match["rest"]


def combination(text: str, file: str | None = None, rest: str = "") -> Source:
    """``adamw with cautious`` as a file: ``optimizer AdamwWithCautious = adamw with cautious``.

    Args:
        text: the combination.
        file: the file that it begins with, if it does. The combination is read as if it lay
            beside this file, so that it refers to it, and to other files there, by their names.
        rest: what follows the file.

    Raises:
        OSError: when there is no such file.
        ValueError: for a comment, or a file whose name is not one of the language.
    """
    if "#" in (rest if file is not None else text):
        raise ValueError(f"{text!r} names a rule and its modifiers, and has no comments")
    directory, rule = None, text
    if file is not None:
        os.stat(file)
        directory, stem = os.path.dirname(file) or os.curdir, Path(file).stem
        if not re.fullmatch(r"[A-Za-z_]\w*", stem, flags=re.ASCII):
            raise ValueError(
                f"{text!r}: a rule with options or modifiers is named by letters, digits and "
                f"underscores; rename {os.path.basename(file)}"
            )
        rule = stem + rest
    rule = " ".join(rule.split())
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\([^)]*\)", "", rule))
    title = "".join(part[:1].upper() + part[1:] for name in names for part in name.split("_"))
    title_text = f"optimizer {title} = {rule}\n"
    return Source(rule if file is None else " ".join(text.split()), title_text, directory)


def beside_of(directory: str | None) -> dict[str, list[str]]:
    """The specifications in a directory: their paths by their folded names."""
    if directory is None:
        return {}
    try:
        return search.files_in(directory)
    except OSError:
        return {}


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
    texts = resources.spec_texts()
    far: list[tuple[str, str]] = []
    if source.rules is None and not is_of_library(source, texts):
        known = {folded(name) for name in texts}
        named = _names_in(source.name) if is_combination(source.name) else None
        closed = named is not None and known.issuperset(map(folded, named))
        far = search.texts(search.given() if closed else search.everywhere())
    return [own, rules, beside, far, list(texts.items())]


def is_of_library(source: Source, known: Collection[str]) -> bool:
    """Whether a source is a specification of the library, whose names are given."""
    return source.directory is None and source.name.removesuffix(".opt") in known


def _names_in(text: str) -> list[str]:
    """The names of the rule and its modifiers in a combination."""
    names = re.findall(r"[A-Za-z_]\w*", re.sub(r"\([^)]*\)", "", text))
    return [name for name in names if name != "with"]
