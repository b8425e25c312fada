"""Drawing charts into files, and as parts of a page."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from optdsl.pages.charts import INK, SETTINGS
from optdsl.pages.claims import Chart

DPI = 160


def draw(chart: Chart, directory: Path) -> str:
    """Writes a chart as PNG and SVG, and returns it as an SVG element for a page.

    The element has no background, and its text has the colour of the text around it.
    """
    settings: dict[Any, Any] = {**SETTINGS, "svg.hashsalt": chart.name}
    with rc_context(settings):
        figure = Figure(figsize=chart.size, dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        chart.draw(figure)
        figure.savefig(directory / f"{chart.name}.png", facecolor="white")
        figure.set_layout_engine("none")  # it stays as it is, which saves half of the time
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    (directory / f"{chart.name}.svg").write_text(svg, encoding="utf-8")
    return _inline(svg, chart)


def _inline(svg: str, chart: Chart) -> str:
    """Returns the element without what only a file needs, and with unique names."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="([^"]+)"', rf'id="{chart.name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{chart.name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{chart.name}-\1)", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg", '<svg role="img"', 1)
