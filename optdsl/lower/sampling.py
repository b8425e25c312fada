"""Lowering of samples: from which part of the elements a file learns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from optdsl.diagnostics import Note, Report
from optdsl.ir.program import Learned
from optdsl.syntax import ast
from optdsl.words import LARGEST_SAMPLE


def sampled(
    learned: Iterable[Learned], statements: Iterable[ast.Statement], default: int, report: Report
) -> tuple[Learned, ...]:
    """What a file learns, with the one sample from which it learns all of it.

    Args:
        learned: what is learned.
        statements: those of the file.
        default: the sample where no statement says one.
        report: receives the mistakes: parts that are no samples, and two that differ.
    """
    sample = default
    given: ast.Part | None = None
    for part in _parts(statements):
        number = _number(part, report)
        if number is None:
            continue
        if given is None:
            given, sample = part, number
        elif number != sample:
            report.error(
                "sample",
                f"the sample is 1/{number} here, and 1/{sample} elsewhere in the file",
                part.span,
                label="an optimizer learns all that it learns from one sample",
                notes=[Note("first given here", given.span)],
                hint="give the same sample everywhere, or give it once, as `learn sample "
                f"1/{sample}`",
            )
    return tuple(replace(entry, sample=sample) for entry in learned)


def _parts(statements: Iterable[ast.Statement]) -> Iterator[ast.Part]:
    for node in statements:
        if isinstance(node, ast.LearnSample) or (isinstance(node, ast.Learn) and node.sample):
            assert node.sample is not None
            yield node.sample


def _number(part: ast.Part, report: Report) -> int | None:
    """One in how many elements a sample has; None after a mistake."""
    one, number = part.numerator.value, part.denominator.value
    if one == 1 and number == int(min(number, LARGEST_SAMPLE)) >= 1:
        return int(number)
    report.error(
        "number",
        f"`{part.text}` is no sample",
        part.span,
        label=f"1/k, with a whole number k from 1 to {LARGEST_SAMPLE}",
        hint="write for instance `sample 1/8`",
    )
    return None
