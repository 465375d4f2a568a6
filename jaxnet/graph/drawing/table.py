"""A graph as a table: one row for each node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jaxnet._colours import BLUE, VERMILLION
from jaxnet.graph.drawing.labels import Names, all_but_numbers, compact, shape, source
from jaxnet.graph.nodes import Node
from jaxnet.graph.tracing import Graph

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["plain_table", "rich_table", "rows"]

HEADER = ("", "node", "operation", "operands", "shape", "value", "gradient", "scope", "source")
RIGHT = {"", "value", "gradient"}
WIDEST = 32


def rows(graph: Graph, most: int | None) -> Iterator[tuple[str, ...] | int]:
    """The rows of the table: one for each node but the numbers, which stand in the operations that use them.

    Where there are more than ``most``, the first and the last of them, with how many are left out between.
    """
    indices = all_but_numbers(graph)
    shown = [node for node in graph.nodes if node.index in indices]
    names = Names(graph, lambda node: node.index in indices)
    left_out = 0 if most is None else max(len(shown) - most, 0)
    head = len(shown) if not left_out else (len(shown) - left_out + 1) // 2
    for i, node in enumerate(shown):
        if head <= i < head + left_out:
            if i == head:
                yield left_out
            continue
        yield _row(node, names)


def _row(node: Node, names: Names) -> tuple[str, ...]:
    return (
        str(node.index),
        names.name(node),
        names.expression(node) or node.primitive,
        " ".join(str(operand.index) for operand in node.operands[:4]) + (" …" if len(node.operands) > 4 else ""),
        shape(node.value),
        compact(node.value),
        compact(node.gradient),
        "/".join(node.scope),
        source(node),
    )


def plain_table(graph: Graph, most: int | None) -> str:
    """The table as plain text."""
    found = list(rows(graph, most))
    table = [HEADER, *(row for row in found if not isinstance(row, int))]
    widths = [min(max(len(row[i]) for row in table), WIDEST) for i in range(len(HEADER))]
    lines = [_line(HEADER, widths), "  ".join("─" * width for width in widths)]
    for row in found:
        lines.append(f"… {row} more …" if isinstance(row, int) else _line(row, widths))
    return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    cut = [cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(
        cell.rjust(width) if name in RIGHT else cell.ljust(width)
        for name, cell, width in zip(HEADER, cut, widths, strict=True)
    ).rstrip()


def rich_table(graph: Graph, most: int | None) -> Table:
    """The table for rich."""
    from rich.table import Table
    from rich.text import Text

    table = Table()
    styles = {"value": f"bold {BLUE}", "gradient": VERMILLION}
    for name in HEADER:
        table.add_column(name, style=styles.get(name, ""), justify="right" if name in RIGHT else "left")
    for row in rows(graph, most):
        cells = ("", f"… {row} more …") if isinstance(row, int) else row
        table.add_row(*(Text(cell) for cell in cells))
    return table
