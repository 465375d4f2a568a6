"""What is written in each box and at each link of a picture, and how large that is, in points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import text_to_path

from jaxnet.graph.drawing.labels import compact, is_opaque, shape
from jaxnet.graph.drawing.plan import Box, Link, Plan
from jaxnet.graph.nodes import Node

__all__ = [
    "Direction",
    "Face",
    "Label",
    "as_matrix",
    "box_size",
    "drawable",
    "faced",
    "font",
    "labelled",
    "map_size",
    "measured",
]

Direction = Literal["right", "down"]

TITLE, NUMBERS, SMALL = 9.5, 9.0, 7.5
LINE = 1.35
PADDING = 6.0
MAP_WIDTH, MAP_HEIGHT, LARGEST_CELL, LEAST_SIDE = 52.0, 36.0, 9.0, 6.0
MOST_CELLS = 48


# ----------------------------------------------------------------------------------------------------------------------
# Text


@cache
def font(size: float, *, bold: bool = False) -> FontProperties:
    """The font that comes with matplotlib."""
    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")


@cache
def measured(text: str, size: float, *, bold: bool = False) -> float:
    """The width of a text, with the spaces at its end."""
    width, dot = (
        text_to_path.get_text_width_height_descent(one, font(size, bold=bold), False)[0] for one in (text + ".", ".")
    )
    return 1.02 * (width - dot)


@cache
def drawable(text: str) -> str:
    """The text with an escape for each character that the font has not."""
    face = get_font(findfont(font(TITLE)))
    return "".join(
        c if c.isprintable() and face.get_char_index(ord(c)) else c.encode("ascii", "backslashreplace").decode()
        for c in text
    )


# ----------------------------------------------------------------------------------------------------------------------
# What is in a box, and on a link


@dataclass(frozen=True)
class Face:
    """What is written in a box: a title in two parts, a note; and the value and the gradient, or maps of them."""

    name: str
    expression: str
    note: str
    value: Any
    gradient: Any

    @property
    def has_maps(self) -> bool:
        """Whether value and gradient are arrays."""
        return self.value is not None and self.value.ndim > 0

    @property
    def title_width(self) -> float:
        """The width of the title with the note."""
        equation = f"{self.name} = {self.expression}" if self.expression else self.name
        return measured(equation, TITLE, bold=not self.expression) + (
            measured(f"  {self.note}", SMALL) if self.note and self.value is not None else 0.0
        )


def faced(box: Box, plan: Plan) -> Face:
    """The face of a box."""
    node = box.node
    if node is None:
        return _with_numbers(drawable(box.title), "", drawable(_contents(box, plan)), plan.result_in(box))
    name, expression = (drawable(part) for part in plan.names.equation(node))
    kind = f"{node.value.dtype} " if is_opaque(node.value) else ""
    return _with_numbers(name, expression, kind + shape(node.value), node)


def _contents(box: Box, plan: Plan) -> str:
    """How many operations a folded box holds, or which arguments."""
    operations = sum(node.equation is not None for node in box.nodes)
    if operations:
        return f"{operations} operation{'s' * (operations > 1)}"
    return ", ".join(plan.names.name(node) for node in box.nodes[:2]) + ", …" * (len(box.nodes) > 2)


def _with_numbers(name: str, expression: str, note: str, node: Node | None) -> Face:
    if node is None or is_opaque(node.value):
        return Face(name, expression, note, None, None)
    gradient = None if node.gradient is None else np.asarray(node.gradient)
    return Face(name, expression, note, np.asarray(node.value), gradient)


def map_size(value: np.ndarray) -> tuple[float, float]:
    """Width and height of the heat map of an array."""
    rows, columns = as_matrix(value).shape
    cell = min(MAP_WIDTH / max(columns, 1), MAP_HEIGHT / max(rows, 1), LARGEST_CELL)
    return max(cell * columns, LEAST_SIDE), max(cell * rows, LEAST_SIDE)


def as_matrix(value: np.ndarray) -> np.ndarray:
    """A vector as a row; the leading axes of any other array as one; the mean of blocks where it is large."""
    matrix = np.atleast_2d(value.reshape(-1, value.shape[-1]) if value.ndim > 2 else value)
    matrix = np.real(matrix).astype(np.float64)
    for axis in (0, 1):
        size = matrix.shape[axis]
        if size > MOST_CELLS:
            starts = np.linspace(0, size, MOST_CELLS, endpoint=False).astype(int)
            counts = np.diff([*starts, size])
            sums = np.add.reduceat(matrix, starts, axis)
            matrix = sums / (counts[:, None] if axis == 0 else counts)
    return matrix


def box_size(face: Face) -> tuple[float, float]:
    """Width and height of a box."""
    width, height = face.title_width, TITLE * LINE
    if face.value is None:
        width = max(width, measured(face.note, SMALL))
        height += SMALL * LINE if face.note else 0.0
    elif face.has_maps and face.value.size:
        map_width, map_height = map_size(face.value)
        marks = measured("→ ", NUMBERS)
        both = face.gradient is not None
        width = max(width, (marks + map_width) * (2 if both else 1) + (8.0 if both else 0.0))
        height += map_height + 4.0
    elif not face.has_maps:
        texts = [f"→ {compact(v)}" for v in (face.value, face.gradient) if v is not None]
        width = max(width, sum(measured(text, NUMBERS) for text in texts) + 10.0 * (len(texts) - 1))
        height += NUMBERS * LINE
    return width + 2 * PADDING + 2.0, height + 2 * PADDING - 2.0


@dataclass(frozen=True)
class Label:
    """What stands at a link: on the one side of it what goes forward, on the other what comes back."""

    forward: str
    backward: str
    is_value: bool

    def size(self, direction: Direction) -> tuple[float, float]:
        """Width and height."""
        widths = [measured(text, SMALL) for text in (self.forward, self.backward)]
        if direction == "right":
            return max(widths) + 4.0, 2 * SMALL * LINE
        return 2 * max(widths) + 10.0, SMALL * LINE


def labelled(link: Link, ahead: str, back: str) -> Label | None:
    """The local derivative and the contribution of a link between numbers; value and gradient where a box is folded."""
    if link.source.node is not None and link.target.node is not None:
        (use,) = link.uses
        derivative = use.derivative
        if derivative is None:
            return None
        return Label(f"∂ {compact(derivative)}", f"{back} {compact(use.contribution)}", is_value=False)
    if link.source.node is not None or all(node.equation is None for node in link.source.nodes):
        return None
    node, *more = dict.fromkeys(use.operand for use in link.uses)
    rest = f" +{len(more)}" if more else ""
    size = f"{shape(node.value)} " if node.value.ndim else ""
    gradient = f"{back} {compact(node.gradient)}" if node.gradient is not None else ""
    return Label(f"{ahead} {size}{compact(node.value)}{rest}", gradient, is_value=True)
