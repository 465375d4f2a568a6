"""Where everything of a picture stands, in points: what is in each box, how large it is, and where it is put."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.textpath import text_to_path

from jaxnet.graph.drawing import layout
from jaxnet.graph.drawing.labels import compact, is_opaque, shape
from jaxnet.graph.drawing.layout import Point, Size
from jaxnet.graph.drawing.plan import Box, Link, Open, Plan

__all__ = ["Direction", "Face", "Label", "Rectangle", "Scene", "arranged", "drawable", "font", "measured"]

Direction = Literal["right", "down"]

TITLE, NUMBERS, SMALL = 9.5, 9.0, 7.5
LINE = 1.35
PADDING = 6.0
MAP_WIDTH, MAP_HEIGHT, LARGEST_CELL, LEAST_SIDE = 52.0, 36.0, 9.0, 6.0
FRAME_PADDING, FRAME_TITLE = 9.0, 15.0


class Rectangle(NamedTuple):
    """The lower left corner, and the size."""

    x: float
    y: float
    width: float
    height: float


# ----------------------------------------------------------------------------------------------------------------------
# Text


@cache
def font(size: float, *, bold: bool = False) -> FontProperties:
    """The font that comes with matplotlib."""
    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")


@cache
def measured(text: str, size: float, *, bold: bool = False) -> float:
    """The width of a text."""
    return text_to_path.get_text_width_height_descent(text, font(size, bold=bold), False)[0]


@cache
def drawable(text: str) -> str:
    """The text with an escape for each character that the font has not."""
    face = get_font(_font_file())
    return "".join(
        c if c.isprintable() and face.get_char_index(ord(c)) else c.encode("ascii", "backslashreplace").decode()
        for c in text
    )


@cache
def _font_file() -> str:
    from matplotlib.font_manager import findfont

    return findfont(font(TITLE))


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
    """What is written in a box."""
    node = box.node
    if node is None:
        several = [plan.names.name(one) for one in box.nodes]
        what = ", ".join(several[:2]) + (", …" if len(several) > 2 else "")
        operations = sum(one.equation is not None for one in box.nodes)
        note = f"{operations} operation{'s' * (operations > 1)}" if operations else what
        return Face(drawable(box.title), "", drawable(note), None, None)
    name, expression = (drawable(part) for part in plan.names.equation(node))
    if is_opaque(node.value):
        return Face(name, expression, f"{node.value.dtype} {shape(node.value)}".strip(), None, None)
    gradient = None if node.gradient is None or is_opaque(node.gradient) else np.asarray(node.gradient)
    return Face(name, expression, shape(node.value), np.asarray(node.value), gradient)


def map_size(value: np.ndarray) -> tuple[float, float]:
    """Width and height of the heat map of an array."""
    rows, columns = as_matrix(value).shape
    cell = min(MAP_WIDTH / max(columns, 1), MAP_HEIGHT / max(rows, 1), LARGEST_CELL)
    return max(cell * columns, LEAST_SIDE), max(cell * rows, LEAST_SIDE)


def as_matrix(value: np.ndarray) -> np.ndarray:
    """A vector as a row; the leading axes of any other array as one; the mean of blocks where it is large."""
    matrix = np.atleast_2d(value.reshape(-1, value.shape[-1]) if value.ndim > 2 else value)
    matrix = matrix.real if np.iscomplexobj(matrix) else matrix
    matrix = matrix.astype(np.float64)
    for axis in (0, 1):
        size = matrix.shape[axis]
        if size > MOST_CELLS:
            starts = np.linspace(0, size, MOST_CELLS, endpoint=False).astype(int)
            counts = np.diff([*starts, size])
            sums = np.add.reduceat(matrix, starts, axis)
            matrix = sums / (counts[:, None] if axis == 0 else counts)
    return matrix


MOST_CELLS = 48


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


def labelled(link: Link, arrows: tuple[str, str]) -> Label | None:
    """The local derivative and the contribution of a link between numbers; value and gradient where a box is folded."""
    ahead, back = arrows
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


# ----------------------------------------------------------------------------------------------------------------------
# The whole


@dataclass(frozen=True)
class Scene:
    """The places of all that is drawn, in points from the lower left corner."""

    direction: Direction
    width: float
    height: float
    faces: Mapping[Box, Face]
    boxes: Mapping[Box, Rectangle]
    frames: list[tuple[str, Rectangle]]
    labels: Mapping[Link, tuple[Label, Rectangle]]
    ways: Mapping[Link, list[tuple[float, float]]]


def arranged(plan: Plan, direction: Direction) -> Scene:
    """Lay a plan out."""
    return _Arrangement(plan, direction).scene()


@dataclass(eq=False)
class _Arrangement:
    """The layout of all frames, from the inner ones outward, and their places, from the outer ones inward."""

    plan: Plan
    direction: Direction
    faces: dict[Box, Face] = field(default_factory=dict)
    sizes: dict[Any, Size] = field(default_factory=dict)
    placed: dict[Open, layout.Placed] = field(default_factory=dict)
    members: dict[Open, list[int]] = field(default_factory=dict)
    corners: dict[Any, Point] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arrows = ("→", "←") if self.direction == "right" else ("↓", "↑")
        self.labels = {link: labelled(link, self.arrows) for link in self.plan.links}
        self.paths = dict(_paths(self.plan.root, ()))
        for box in self.plan.boxes:
            self.faces[box] = faced(box, self.plan)
            self.sizes[box] = self.turned(*box_size(self.faces[box]))

    def turned(self, width: float, height: float) -> Size:
        return Size(width, height) if self.direction == "right" else Size(height, width)

    def arrange(self, frame: Open) -> None:
        """Lay out a frame, after those in it."""
        for member in frame.members:
            if isinstance(member, Open):
                self.arrange(member)
        level = len(self.paths[frame])
        sizes: dict[Any, Size] = {member: self.sizes[member] for member in frame.members}
        ports: tuple[dict[Any, None], dict[Any, None]] = ({}, {})
        links: dict[Any, layout.Link] = {}
        self.ways_of: dict[Open, dict[Link, Any]] = getattr(self, "ways_of", {})
        for link in self.plan.links:
            inside = [self.child(frame, level, end) for end in (link.source, link.target)]
            if inside == [None, None] or inside[0] is inside[1]:
                continue
            source, target = (
                item if item is not None else ("port", side, link.source) for side, item in enumerate(inside)
            )
            for side, item in enumerate(inside):
                if item is None:
                    ports[side][("port", side, link.source)] = None
            label = self.labels[link]
            size = self.turned(*label.size(self.direction)) if label and inside[1] is link.target else None
            key = (source, target, link if inside[1] is link.target else link.source)
            links[key] = layout.Link(source, target, size, *self.offsets(link, inside))
            self.ways_of.setdefault(frame, {})[link] = key
        for port in (*ports[0], *ports[1]):
            sizes[port] = Size(0.0, 6.0)
        placed = layout.layered(sizes, list(links.values()), list(ports[0]), list(ports[1]))
        self.placed[frame] = placed
        self.keys = getattr(self, "keys", {})
        self.keys[frame] = {key: i for i, key in enumerate(links)}
        self.sizes[frame] = self.framed(frame, placed.size)

    def framed(self, frame: Open, size: Size) -> Size:
        title = measured(drawable(frame.title), SMALL, bold=True)
        width, height = size if self.direction == "right" else size[::-1]
        return self.turned(max(width, title) + 2 * FRAME_PADDING, height + 2 * FRAME_PADDING + FRAME_TITLE)

    def margins(self) -> Point:
        """From the corner of a frame to what is laid out in it."""
        top = FRAME_PADDING + FRAME_TITLE
        return Point(FRAME_PADDING, top) if self.direction == "right" else Point(top, FRAME_PADDING)

    def child(self, frame: Open, level: int, box: Box) -> Box | Open | None:
        """The member of a frame that a box is, or is in."""
        path = (*self.paths[box], box)
        return path[level + 1] if len(path) > level + 1 and path[level] is frame else None

    def offsets(self, link: Link, inside: list[Box | Open | None]) -> tuple[float | None, float | None]:
        """From the middle of a frame that a link leaves or enters to its port."""
        found: list[float | None] = []
        for side, item in enumerate(inside):
            if isinstance(item, Open):
                port = self.placed[item].items[("port", 1 - side, link.source)]
                found.append(self.margins().across + port.across - self.sizes[item].breadth / 2)
            else:
                found.append(None)
        return found[0], found[1]

    def settle(self, frame: Open, corner: Point) -> Iterator[tuple[Open, Point]]:
        """The corners of all frames, from where things in them are counted."""
        yield frame, corner
        for member in frame.members:
            middle = self.placed[frame].items[member]
            size = self.sizes[member]
            at = Point(corner.along + middle.along - size.length / 2, corner.across + middle.across - size.breadth / 2)
            self.corners[member] = at
            if isinstance(member, Open):
                inner = self.margins()
                yield from self.settle(member, Point(at.along + inner.along, at.across + inner.across))

    def scene(self) -> Scene:
        self.arrange(self.plan.root)
        whole = self.placed[self.plan.root].size
        origins = dict(self.settle(self.plan.root, Point(0.0, 0.0)))
        width, height = whole if self.direction == "right" else whole[::-1]

        def flipped(along: float, across: float) -> tuple[float, float]:
            return (along, height - across) if self.direction == "right" else (across, height - along)

        def rectangle(corner: Point, size: Size) -> Rectangle:
            x, y = flipped(*corner)
            w, h = size if self.direction == "right" else size[::-1]
            return Rectangle(x, y - h, w, h)

        boxes = {box: rectangle(self.corners[box], self.sizes[box]) for box in self.plan.boxes}
        frames = [(drawable(f.title), rectangle(self.corners[f], self.sizes[f])) for f in origins if f in self.corners]
        labels, ways = {}, {}
        for link in self.plan.links:
            way: list[tuple[Point, Point]] = []
            for frame, keys in self.ways_of.items():
                if link not in keys:
                    continue
                i, origin = self.keys[frame][keys[link]], origins[frame]
                stretches = [
                    tuple(Point(origin.along + p.along, origin.across + p.across) for p in stretch)
                    for stretch in self.placed[frame].ways[i]
                ]
                way += stretches
                label = self.labels[link]
                if label is not None and i in self.placed[frame].labels and keys[link][2] is link:
                    middle = self.placed[frame].labels[i]
                    size = self.turned(*label.size(self.direction))
                    corner = Point(
                        origin.along + middle.along - size.length / 2, origin.across + middle.across - size.breadth / 2
                    )
                    labels[link] = (label, rectangle(corner, size))
            way.sort()
            ways[link] = [flipped(*point) for stretch in way for point in stretch]
        return Scene(self.direction, width, height, self.faces, boxes, frames, labels, ways)


def _paths(frame: Open, above: tuple[Open, ...]) -> Iterator[tuple[Any, tuple[Open, ...]]]:
    yield frame, above
    for member in frame.members:
        if isinstance(member, Open):
            yield from _paths(member, (*above, frame))
        else:
            yield member, (*above, frame)
