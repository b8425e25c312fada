"""The grammar, the prelude and the specs that travel with optdsl.

In a checkout, and so in an editable install, ``grammars/`` and ``specs/`` lie next to the package;
in a wheel they lie inside it, as ``_grammars`` and ``_specs``. Both are plain directories on disk:
importing optdsl from a zip archive is not supported.

Nothing is cached, so an edited spec is seen at once. The module imports nothing heavy, for it is on
the path of every command.
"""

from pathlib import Path

from optdsl.diagnostics import nearest

PACKAGE = Path(__file__).resolve().parent


class UnknownSpecError(LookupError):
    """No spec of the library has the requested name.

    Attributes:
        name: The name that was asked for.
        known: The names that exist, sorted.
        troubles: A sentence about each directory that could not be searched.
    """

    def __init__(self, name: str, known: tuple[str, ...], troubles: tuple[str, ...] = ()) -> None:
        super().__init__(name, known, troubles)
        self.name = name
        self.known = known
        self.troubles = troubles

    def __str__(self) -> str:
        hint = nearest(self.name, self.known) or f"the specs are {', '.join(self.known)}"
        words = self.name.split()
        if len(words) > 2 and words[0] in self.known and nearest(words[1], ["with"]):
            words[1] = "with"
            hint = f"did you mean {' '.join(words)!r}?"
        if Path(f"{self.name}.opt").is_file():
            hint = f"for the file write {self.name}.opt"
        return f"no spec is named {self.name!r}: {'; '.join((hint, *self.troubles))}"


def grammar_text() -> str:
    """Return the definition of the syntax, ``grammars/optdsl.lark``."""
    return _read(_directory("grammars") / "optdsl.lark")


def parse_tables_path() -> Path:
    """Return the file of the grammar's parse tables, ``grammars/optdsl.tables.json``."""
    return _directory("grammars") / "optdsl.tables.json"


def prelude_text() -> str:
    """Return the functions that every spec can use, ``grammars/prelude.opt``."""
    return _read(_directory("grammars") / "prelude.opt")


def spec_names() -> tuple[str, ...]:
    """Return the name of every spec, the stem of its file, sorted."""
    names = (path.stem for path in _directory("specs").glob("*.opt"))
    return tuple(sorted(name for name in names if not name.startswith(".")))


def modifier_names() -> tuple[str, ...]:
    """Return the name of every modifier, the stem of its file in ``specs/modifiers``, sorted."""
    return tuple(sorted(path.stem for path in (_directory("specs") / "modifiers").glob("*.opt")))


def spec_path(name: str) -> Path:
    """Return the file of the spec or modifier called ``name``.

    Only a name that ``spec_names`` or ``modifier_names`` lists is accepted: a path, with or without
    ``.opt``, is not one.

    Raises:
        UnknownSpecError: There is no such spec.
    """
    known = spec_names()
    if name in known:
        return _directory("specs") / f"{name}.opt"
    if name in modifier_names():
        return _directory("specs") / "modifiers" / f"{name}.opt"
    raise UnknownSpecError(name, known)


def spec_text(name: str) -> str:
    """Return the text of the spec called ``name``.

    Raises:
        UnknownSpecError: There is no such spec.
    """
    return _read(spec_path(name))


def spec_texts() -> dict[str, str]:
    """Return the texts of all specs and modifiers by their names: first the specs, both sorted."""
    directory = _directory("specs")
    specs = {name: directory / f"{name}.opt" for name in spec_names()}
    modifiers = {name: directory / "modifiers" / f"{name}.opt" for name in modifier_names()}
    return {name: _read(path) for name, path in (specs | modifiers).items()}


def references_text() -> str:
    """Return what the specs are compared with in tests, ``specs/references.toml``."""
    return _read(_directory("specs") / "references.toml")


def measured_path() -> Path:
    """Return the file of the differences that tests measured, ``specs/measured.json``."""
    return _directory("specs") / "measured.json"


def measured_text() -> str:
    """Return how far the specs are from what they are compared with: by spec and test."""
    return _read(measured_path())


def library_table_path() -> Path:
    """Return the file of the library's table, ``specs/library.json``."""
    return _directory("specs") / "library.json"


def _directory(name: str) -> Path:
    # The inside comes first: what lies next to an installed package belongs to someone else.
    inside = PACKAGE / f"_{name}"
    return inside if inside.is_dir() else PACKAGE.parent / name


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
