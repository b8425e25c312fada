"""The page: one HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from optdsl.pages.claims import Chapter, Claim, Criterion, Judged, Table, Verdict
from optdsl.pages.figures import draw
from optdsl.pages.style import STYLE

_CLASSES = {
    Verdict.HOLDS: "holds",
    Verdict.IN_PART: "part",
    Verdict.NOT_HERE: "not",
    Verdict.UNKNOWN: "unknown",
}
_MARKS = {True: "✓", False: "✗", None: "?"}


@dataclass(frozen=True)
class Page:
    """What a page shows.

    Attributes:
        title: Its title.
        introduction: Paragraphs at its top.
        chapters: Its chapters.
        commands: The command that reproduces a chapter, by its name.
        failures: What went wrong, a line each.
        notes: The circumstances, by name.
    """

    title: str
    introduction: Sequence[str]
    chapters: Sequence[Chapter]
    commands: Mapping[str, str]
    failures: Sequence[str] = ()
    notes: Mapping[str, str] | None = None


def render(page: Page, figures: Path) -> str:
    """Returns the page as HTML, and writes its figures to a directory, as PNG and SVG files."""
    parts = [f"<h1>{escape(page.title)}</h1>"]
    parts += [f"<p>{escape(text)}</p>" for text in page.introduction]
    judged = [(c, claim) for c in page.chapters for claim in c.claims if claim.judged]
    if judged:
        parts.append(_summary(judged))
    if page.failures:
        items = "".join(f"<li>{escape(text)}</li>" for text in page.failures)
        parts.append(f"<h2 id='failed'>Failed runs</h2><ul>{items}</ul>")
    for chapter in page.chapters:
        parts.append(f'<section id="{escape(chapter.name)}"><h2>{escape(chapter.title)}</h2>')
        parts.append(f"<p>{escape(chapter.introduction)}</p>")
        command = page.commands.get(chapter.name, "")
        parts += [_claim(claim, command, figures) for claim in chapter.claims]
        parts.append("</section>")
    if page.notes:
        rows = tuple(page.notes.items())
        parts.append("<h2>Circumstances</h2>" + _table(Table("", ("", ""), rows)))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(page.title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _summary(judged: Sequence[tuple[Chapter, Claim]]) -> str:
    rows = "".join(
        f'<tr><td><a href="#{escape(chapter.name)}">{escape(claim.title)}</a></td>'
        f"<td>{claim.verdict.value}</td></tr>"
        for chapter, claim in judged
    )
    return (
        '<div class="wide"><table class="summary"><caption>The claims and their verdicts'
        f"</caption><tbody>{rows}</tbody></table></div>"
    )


def _claim(claim: Claim, command: str, figures: Path) -> str:
    parts = [f'<article class="claim"><h3>{escape(claim.title)}</h3>']
    if claim.judged:
        kind = _CLASSES[claim.verdict]
        parts.append(f'<p class="verdict {kind}">{escape(claim.sentence)}</p>')
    said = (("The paper", claim.paper), ("Measured here", claim.measured))
    told = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in said if text)
    parts.append(f"<dl>{told}</dl>")
    if claim.criteria:
        items = "".join(map(_criterion, claim.criteria))
        parts.append(f'<ul class="criteria">{items}</ul>')
    for chart in claim.charts:
        caption = escape(chart.caption)
        parts.append(
            f'<figure id="figure-{escape(chart.name)}">{draw(chart, figures)}'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    parts += map(_table, claim.tables)
    if command:
        parts.append(f"<p><small>Reproduce:</small></p><pre>{escape(command)}</pre>")
    return "\n".join([*parts, "</article>"])


def _criterion(criterion: Criterion) -> str:
    mark = _MARKS[criterion.met]
    return f"<li>{mark} {escape(criterion.text)}: <b>{escape(criterion.measured)}</b></li>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in table.rows)
    return (
        f'<div class="wide" tabindex="0"><table><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cell(cell: str | Judged) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    return f'<td class="{"good" if cell.good else "bad"}">{escape(cell.text)}</td>'
