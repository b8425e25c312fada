"""The parser, from the grammar's parse tables where they are stored.

Lark takes about a third of a second to make the tables of ``grammars/optdsl.lark``, a fifth of what
it takes to load a blend for the first time. ``grammars/optdsl.tables.json`` holds them, with the
version of Lark and the text of the grammar from which they came; with others the tables are made
anew, so that a stored file that is out of date is slow and not wrong.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from optdsl import resources


@functools.cache
def parser() -> Lark:
    """The parser of statements and headers."""
    grammar = resources.grammar_text()
    tables = _stored(grammar)
    return made(grammar) if tables is None else Lark.load(tables)


def made(grammar: str) -> Lark:
    """The parser of a grammar, whose parse tables are made."""
    return Lark(
        grammar,
        parser="lalr",
        lexer="basic",
        start=["header", "statement"],
        propagate_positions=True,
        maybe_placeholders=True,
    )


def up_to_date() -> bool:
    """Whether the stored tables are those of the grammar and of this version of Lark."""
    return _stored(resources.grammar_text()) is not None


def write() -> Path:
    """Store the parse tables, unless they are up to date; where they are."""
    grammar, place = resources.grammar_text(), resources.parse_tables_path()
    if not up_to_date():
        data, memo = made(grammar).memo_serialize([TerminalDef, Rule])
        tables = {**_origin(grammar), "data": data, "memo": memo}
        place.write_text(json.dumps(tables, separators=(",", ":")) + "\n", encoding="utf-8")
    return place


def _stored(grammar: str) -> Any:
    place = resources.parse_tables_path()
    if not place.is_file():
        return None
    # Keys of objects are strings in JSON; those of Lark's tables are numbers or names.
    tables = json.loads(place.read_text(encoding="utf-8"), object_pairs_hook=_with_numbers)
    return tables if _origin(grammar).items() <= tables.items() else None


def _origin(grammar: str) -> dict[str, str]:
    """What the tables are made from."""
    return {"lark": lark.__version__, "grammar": hashlib.sha256(grammar.encode()).hexdigest()}


def _with_numbers(pairs: list[tuple[str, Any]]) -> dict[str | int, Any]:
    return {int(key) if key.isdigit() else key: value for key, value in pairs}
