"""How a notebook shows a graph: the picture, with the table below it; the table alone where matplotlib is missing."""

from __future__ import annotations

import io
from html import escape

from jaxnet.graph.tracing import Graph

__all__ = ["html", "svg"]


def svg(graph: Graph) -> str | None:
    """The picture as SVG; None where matplotlib is missing."""
    try:
        figure = graph.draw()
    except ImportError:
        return None
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    return written.getvalue()


def html(graph: Graph) -> str:
    """The picture in a box that scrolls, and the table in one that opens."""
    picture, table = svg(graph), f"<pre>{escape(str(graph))}</pre>"
    if picture is None:
        return table
    picture = picture[picture.index("<svg") :]
    return f'<div style="overflow-x: auto">{picture}</div><details><summary>table</summary>{table}</details>'
