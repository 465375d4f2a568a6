"""Where everything of a picture stands, in points from its lower left corner."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxnet.graph.drawing import layout
from jaxnet.graph.drawing.faces import (
    SMALL,
    Direction,
    Face,
    Label,
    box_size,
    drawable,
    faced,
    labelled,
    measured,
)  # fmt: skip
from jaxnet.graph.drawing.layers import Size
from jaxnet.graph.drawing.layout import Placed, Point
from jaxnet.graph.drawing.plan import Box, Link, Open, Plan

__all__ = ["Rectangle", "Scene", "arranged"]

FRAME_PADDING, FRAME_TITLE = 9.0, 15.0
PORT = Size(0.0, 6.0)


class Rectangle(NamedTuple):
    """The lower left corner, and the size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Scene:
    """The places of all that is drawn. A way alternates between the ends of a straight stretch and those of a bend."""

    direction: Direction
    width: float
    height: float
    faces: Mapping[Box, Face]
    boxes: Mapping[Box, Rectangle]
    frames: list[tuple[str, Rectangle]]
    labels: Mapping[Link, tuple[Label, Rectangle]]
    ways: Mapping[Link, list[tuple[float, float]]]


def arranged(plan: Plan, direction: Direction) -> Scene:
    """Lay a plan out, with the result on the right or below."""
    return _Arrangement(plan, direction).scene()


class _Level(NamedTuple):
    """The layout of a frame, and which of its links each link of the plan runs along there."""

    placed: Placed
    position: Mapping[Link, int]


class _Port(NamedTuple):
    """Where what a box hands on goes into a frame, or comes out of it."""

    enters: bool
    source: Box


class _Arrangement:
    """The layout of all frames, from the inner ones outward, and their places, from the outer ones inward."""

    def __init__(self, plan: Plan, direction: Direction):
        self.plan = plan
        self.direction: Direction = direction
        ahead, back = ("→", "←") if direction == "right" else ("↓", "↑")
        self.labels = {link: labelled(link, ahead, back) for link in plan.links}
        self.faces = {box: faced(box, plan) for box in plan.boxes}
        self.sizes: dict[Any, Size] = {box: self.turned(*box_size(face)) for box, face in self.faces.items()}
        self.paths = dict(_paths(plan.root, ()))
        self.levels: dict[Open, _Level] = {}
        top = FRAME_PADDING + FRAME_TITLE
        self.margin = Point(FRAME_PADDING, top) if direction == "right" else Point(top, FRAME_PADDING)

    def turned(self, width: float, height: float) -> Size:
        return Size(width, height) if self.direction == "right" else Size(height, width)

    # ------------------------------------------------------------------------------------------------------------------
    # Outward

    def arrange(self, frame: Open) -> None:
        """Lay out a frame, after those in it."""
        for member in frame.members:
            if isinstance(member, Open):
                self.arrange(member)
        sizes: dict[Any, Size] = {member: self.sizes[member] for member in frame.members}
        links: dict[Any, layout.Link] = {}
        keys: dict[Link, Any] = {}
        for link in self.plan.links:
            source, target = self.member(frame, link.source), self.member(frame, link.target)
            if source is target:
                continue
            ends = source or _Port(True, link.source), target or _Port(False, link.source)
            sizes |= {end: PORT for end in ends if isinstance(end, _Port)}
            label = self.labels[link] if target is link.target else None
            keys[link] = (*ends, link if target is link.target else link.source)
            links[keys[link]] = layout.Link(
                *ends,
                None if label is None else self.turned(*label.size(self.direction)),
                self.port_of(source, _Port(False, link.source)),
                self.port_of(target, _Port(True, link.source)),
            )
        ports = [end for end in sizes if isinstance(end, _Port)]
        first, last = ([port for port in ports if port.enters is enters] for enters in (True, False))
        placed = layout.layered(sizes, list(links.values()), first, last)
        order = {key: i for i, key in enumerate(links)}
        self.levels[frame] = _Level(placed, {link: order[key] for link, key in keys.items()})
        self.sizes[frame] = self.framed(frame, placed.size)

    def member(self, frame: Open, box: Box) -> Box | Open | None:
        """The member of a frame that a box is, or is in; None if it is outside."""
        path = (*self.paths[box], box)
        return next((inner for outer, inner in itertools.pairwise(path) if outer is frame), None)

    def port_of(self, member: Box | Open | None, port: _Port) -> float | None:
        """How far a port of a frame is from its middle."""
        if not isinstance(member, Open):
            return None
        inside = self.levels[member].placed.items[port].across
        return self.margin.across + inside - self.sizes[member].breadth / 2

    def framed(self, frame: Open, size: Size) -> Size:
        width, height = self.turned(*size)
        title = measured(drawable(frame.title), SMALL, bold=True)
        return self.turned(max(width, title) + 2 * FRAME_PADDING, height + 2 * FRAME_PADDING + FRAME_TITLE)

    # ------------------------------------------------------------------------------------------------------------------
    # Inward

    def scene(self) -> Scene:
        """The places of all boxes, frames, labels and ways."""
        self.arrange(self.plan.root)
        whole = self.turned(*self.levels[self.plan.root].placed.size)
        origins, middles = {self.plan.root: Point(0.0, 0.0)}, {}
        for frame, at in self.settled(self.plan.root, origins):
            middles[frame] = at
        labels: dict[Link, tuple[Label, Rectangle]] = {}
        ways: dict[Link, list[Point]] = {link: [] for link in self.plan.links}
        for frame, (placed, position) in self.levels.items():
            for link, i in position.items():
                ways[link] += [_moved(point, origins[frame]) for stretch in placed.ways[i] for point in stretch]
                label = self.labels[link]
                if label is not None and i in placed.labels:
                    size = self.turned(*label.size(self.direction))
                    labels[link] = (label, self.rectangle(_moved(placed.labels[i], origins[frame]), size, whole))
        return Scene(
            self.direction,
            *whole,
            self.faces,
            {box: self.rectangle(middles[box], self.sizes[box], whole) for box in self.plan.boxes},
            [
                (drawable(frame.title), self.rectangle(at, self.sizes[frame], whole))
                for frame, at in middles.items()
                if isinstance(frame, Open)
            ],
            labels,
            {link: [self.flipped(point, whole) for point in sorted(way)] for link, way in ways.items()},
        )

    def settled(self, frame: Open, origins: dict[Open, Point]) -> Iterator[tuple[Box | Open, Point]]:
        """The middles of all that is in a frame, outer ones first; ``origins`` gets where each frame counts from."""
        for member in frame.members:
            middle, size = _moved(self.levels[frame].placed.items[member], origins[frame]), self.sizes[member]
            yield member, middle
            if isinstance(member, Open):
                corner = Point(middle.along - size.length / 2, middle.across - size.breadth / 2)
                origins[member] = _moved(corner, self.margin)
                yield from self.settled(member, origins)

    def flipped(self, point: Point, whole: Size) -> tuple[float, float]:
        height = whole[1]
        if self.direction == "right":
            return point.along, height - point.across
        return point.across, height - point.along

    def rectangle(self, middle: Point, size: Size, whole: Size) -> Rectangle:
        (x, y), (width, height) = self.flipped(middle, whole), self.turned(*size)
        return Rectangle(x - width / 2, y - height / 2, width, height)


def _moved(point: Point, by: Point) -> Point:
    return Point(point.along + by.along, point.across + by.across)


def _paths(frame: Open, above: tuple[Open, ...]) -> Iterator[tuple[Box | Open, tuple[Open, ...]]]:
    """The frames that each box and frame is in, outermost first."""
    yield frame, above
    for member in frame.members:
        if isinstance(member, Open):
            yield from _paths(member, (*above, frame))
        else:
            yield member, (*above, frame)
