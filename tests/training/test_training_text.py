"""Reading and encoding texts, and cutting windows from them."""

import math
from collections import Counter
from pathlib import Path

import pytest
import torch

from optdsl.training import TrainingError, text as module
from optdsl.training.text import (
    MAXIMUM_VOCABULARY,
    UNKNOWN,
    Corpus,
    encode,
    load_corpus,
    random_windows,
    read_standard_library,
    spaced_windows,
)

BLOCK = 8


def decode(corpus: Corpus) -> str:
    symbols = torch.cat([corpus.train, corpus.validation]).tolist()
    return "".join(corpus.vocabulary[symbol] or "?" for symbol in symbols)


def test_encoding_can_be_undone() -> None:
    text = "naïve 𝄞 text\n" * 20
    corpus = encode(text)
    assert decode(corpus) == text
    assert len(corpus) == len(text)
    assert len(corpus.train) == len(text) * 9 // 10
    assert corpus.vocabulary[UNKNOWN] == ""
    assert list(corpus.vocabulary) == sorted(corpus.vocabulary)


def test_rare_characters_become_the_unknown_symbol() -> None:
    corpus = encode("é" + "ab" * 100_000)
    assert corpus.vocabulary == ("", "a", "b")
    assert corpus.train[0] == UNKNOWN
    assert decode(corpus).startswith("?abab")


def test_a_vocabulary_is_bounded_and_keeps_the_most_frequent() -> None:
    text = "".join(chr(0x4E00 + i) * (1 + (i >= 200)) for i in range(500))
    corpus = encode(text)
    assert len(corpus.vocabulary) == MAXIMUM_VOCABULARY
    kept = set(corpus.vocabulary[1:])
    assert kept <= {chr(0x4E00 + i) for i in range(200, 500)}
    assert int(corpus.validation.max()) < MAXIMUM_VOCABULARY


def test_unigram_entropy_is_that_of_the_training_part() -> None:
    text = "aab" * 300 + "c" * 100
    counts = Counter(text[:900])
    expected = -sum(n / 900 * math.log(n / 900) for n in counts.values())
    assert encode(text).unigram_entropy == pytest.approx(expected, rel=1e-12)


def test_the_standard_library_is_a_large_text_of_few_symbols() -> None:
    corpus = load_corpus(None, BLOCK)
    assert len(corpus) >= 2_000_000
    assert len(corpus.vocabulary) <= 128


def test_module_names_are_sorted_and_distinct() -> None:
    names = module.STANDARD_LIBRARY_MODULES
    assert list(names) == sorted(set(names))


def test_a_few_missing_modules_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_standard_library()
    names = ("no/such/module", *module.STANDARD_LIBRARY_MODULES)
    monkeypatch.setattr(module, "STANDARD_LIBRARY_MODULES", names)
    assert read_standard_library() == whole


def test_too_little_of_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STANDARD_LIBRARY_MODULES", ("enum",))
    with pytest.raises(TrainingError, match="--text"):
        load_corpus(None, BLOCK)


def test_unreadable_texts(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "short").write_text("x" * (10 * BLOCK + 9))
    (tmp_path / "binary").write_bytes(b"abc\xff" * 100)
    for name, said in {
        "missing": "there is no file",
        "": "is a directory",
        "empty": "is empty",
        "short": f"only {10 * BLOCK + 9} characters; at least {10 * BLOCK + 10}",
        "binary": "byte 3 cannot be decoded",
    }.items():
        with pytest.raises(TrainingError) as caught:
            load_corpus(tmp_path / name, BLOCK)
        assert said in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_shortest_text_holds_a_window_in_each_part(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x" * (10 * BLOCK + 10))
    corpus = load_corpus(tmp_path / "text", BLOCK)
    assert spaced_windows(corpus.validation, BLOCK, 5).shape == (1, BLOCK + 1)
    generator = torch.Generator().manual_seed(0)
    assert random_windows(corpus.train, BLOCK, 3, generator).shape == (3, BLOCK + 1)


def test_random_windows_are_stretches_of_the_text_and_reach_both_ends() -> None:
    symbols = torch.arange(20, dtype=torch.uint8)
    windows = random_windows(symbols, BLOCK, 500, torch.Generator().manual_seed(1))
    assert windows.dtype == torch.int64
    assert bool((windows.diff(dim=1) == 1).all())
    assert int(windows.min()) == 0
    assert int(windows.max()) == 19


def test_spaced_windows_cover_the_text_without_overlap() -> None:
    symbols = torch.arange(100, dtype=torch.uint8)
    windows = spaced_windows(symbols, BLOCK, 1000)
    assert len(windows) == 99 // BLOCK
    assert bool((windows.diff(dim=1) == 1).all())
    starts = windows[:, 0]
    assert starts[0] == 0
    assert starts[-1] + BLOCK == 99
    assert int(starts.diff().min()) >= BLOCK
    assert len(spaced_windows(symbols, BLOCK, 3)) == 3
