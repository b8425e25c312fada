"""Broken texts give diagnostics and nothing else: every specification of the library, mutated."""

import random
import re
import time
from pathlib import Path

import pytest

from optdsl.compiler import derive
from optdsl.diagnostics import Source, SpecError
from optdsl.options import OptionError
from optdsl.specifications import library

BAD = Path(__file__).parent / "bad"
TEXTS = [library.open_source(name).text for name in library.list_specs()]
# What is wrong in a new way each time, and what the library does not say.
OTHERS = [p.read_text() for p in sorted(BAD.glob("*.opt")) if p.stat().st_size < 3_000]
TOKEN = re.compile(r"\w+(?:\.\w+)?['′]?|[ \t]+|\n|.", re.DOTALL)
STRANGE = [
    "1e308", "inf", "t", "g", "theta'", "where", "debias(g, 0.9)", "norm(g)", "^", "(", ")", "'",
    "scalar", "uniform", "state x = g\n", "hyper x = 0 in {0, 1}\n", "on simplex(a, b)", "\t",
    "\x00", "𝜃", "“", "by", "learn lr by", "recovers SGD", "Adam.", "#", '"', "-", "== 0", "0 / 0",
]  # fmt: skip
# Far beyond what any of these texts takes on a busy machine: it bounds a hang.
SECONDS = 60


def mutated(text: str, choose: random.Random) -> str:
    """The text after one to four small changes to its tokens, characters or lines."""
    for _ in range(choose.randint(1, 4)):
        pieces = (
            TOKEN.findall(text)
            if choose.random() < 0.6
            else list(text)
            if choose.random() < 0.5
            else text.splitlines(keepends=True)
        )
        if not pieces:
            return choose.choice(STRANGE)
        here, there = choose.randrange(len(pieces)), choose.randrange(len(pieces))
        match choose.randrange(6):
            case 0:
                del pieces[here]
            case 1:
                pieces.insert(here, pieces[here])
            case 2:
                pieces[here], pieces[there] = pieces[there], pieces[here]
            case 3:
                pieces[here] = choose.choice(STRANGE)
            case 4:
                pieces.insert(here, choose.choice(STRANGE))
            case 5:
                words = TOKEN.findall(choose.choice(TEXTS))
                pieces[here] = choose.choice(words)
        text = "".join(pieces)
    return text


def look(text: str) -> bool:
    """Whether the text is a specification; anything but a result or diagnostics is raised."""
    source = Source("mutated.opt", text)
    began = time.monotonic()
    try:
        program = library.read(source, verify=False)
        derive(source)
    except SpecError as error:
        found = error.diagnostics
        sound = all(0 <= d.span.start <= d.span.end <= len(d.span.source.text) for d in found)
        if not (found and sound and str(error)):
            raise AssertionError("an error without a place") from error
        return False
    except OptionError:
        return False  # a rule whose tangents are too large
    finally:
        assert time.monotonic() - began < SECONDS
    assert program.operations
    return True


def found_in(texts: list[str], seed: int, count: int) -> int:
    choose = random.Random(seed)
    good = 0
    for number in range(count):
        text = mutated(choose.choice(texts), choose)
        try:
            good += look(text)
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}:\n{text}") from error
    return good


def test_mutations_of_the_library_are_diagnosed() -> None:
    good = found_in(TEXTS, seed=0, count=60)
    assert 0 < good < 60  # a few changes mean nothing or make another rule


def test_mutations_of_bad_programs_are_diagnosed() -> None:
    found_in(OTHERS, seed=1, count=60)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(2, 22))
def test_many_mutations_are_diagnosed(seed: int) -> None:
    found_in([*TEXTS, *OTHERS], seed, count=1_000)
