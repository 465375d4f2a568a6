"""The picture of a graph, in matplotlib: values in blue, gradients in vermillion (Okabe & Ito 2008)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from jaxnet._colours import BLUE, BLUE_TO_VERMILLION, VERMILLION
from jaxnet.graph.drawing.faces import (
    LINE,
    NUMBERS,
    PADDING,
    SMALL,
    TITLE,
    Direction,
    Face,
    as_matrix,
    drawable,
    font,
    map_size,
    measured,
)  # fmt: skip
from jaxnet.graph.drawing.labels import compact, number
from jaxnet.graph.drawing.plan import Box, Plan
from jaxnet.graph.drawing.scene import Rectangle, Scene, arranged

__all__ = ["drawn"]

INK, GREY = "#222222", "#777777"
DIVERGING = LinearSegmentedColormap.from_list("blue-orange", BLUE_TO_VERMILLION).with_extremes(bad="#bbbbbb")
FILLS = {"argument": "#eef4f9", "operation": "#ffffff", "folded": "#e9e9e9"}
MARGIN, LEGEND, HEADING = 14.0, 30.0, 22.0
PAGE = (1000.0, 620.0)
DPI, MOST_PIXELS = 150, 30_000


def drawn(plan: Plan, direction: Direction | None, title: str) -> Figure:
    """A new figure of a plan, whose flow goes to the right, or down; None chooses what fits a page better."""
    if direction not in (None, "right", "down"):
        raise ValueError(f"direction is {direction!r}, expected 'right', 'down' or None")
    directions: tuple[Direction, ...] = (direction,) if direction else ("right", "down")
    scenes = [arranged(plan, one) for one in directions]
    scene = min(scenes, key=lambda scene: max(scene.width / PAGE[0], scene.height / PAGE[1], 1.0))
    return _Canvas(plan, scene, title).figure


class _Canvas:
    """A figure with one axes, whose units are points."""

    def __init__(self, plan: Plan, scene: Scene, title: str):
        self.plan, self.scene = plan, scene
        self.ahead, self.back = ("→", "←") if scene.direction == "right" else ("↓", "↑")
        legend = _legend_entries(self.ahead, self.back, scene)
        legend_width = sum(width for *_, width in legend)
        width = max(scene.width, legend_width, measured(title, TITLE + 3, bold=True)) + 2 * MARGIN
        height = scene.height + LEGEND + 2 * MARGIN + (HEADING if title else 0.0)
        dpi = min(DPI, int(MOST_PIXELS * 72 / max(width, height)))
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=dpi, facecolor="white")
        self.axes: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()
        self.left, self.bottom = (width - scene.width) / 2, MARGIN + LEGEND
        if title:
            self.write(width / 2, height - MARGIN - 8, drawable(title), TITLE + 3, INK, ha="center", bold=True)
        self.limits = _limit(face.value for face in self.arrays()), _limit(face.gradient for face in self.arrays())
        self.draw_frames()
        self.draw_links()
        for box, rectangle in scene.boxes.items():
            self.draw_box(box, scene.faces[box], self.moved(rectangle))
        self.draw_legend(legend, (width - legend_width) / 2)

    def arrays(self) -> list[Face]:
        return [face for face in self.scene.faces.values() if face.has_maps]

    def moved(self, r: Rectangle) -> Rectangle:
        return r._replace(x=r.x + self.left, y=r.y + self.bottom)

    def write(
        self, x: float, y: float, text: str, size: float, colour: str, *, ha: Any = "left", bold: bool = False
    ) -> None:
        self.axes.text(
            x, y, text, fontproperties=font(size, bold=bold), color=colour, ha=ha, va="center_baseline",
            parse_math=False, usetex=False, zorder=5, clip_on=False,
        )  # fmt: skip

    def rectangle(self, r: Rectangle, *, radius: float, zorder: float, **style: Any) -> None:
        shape = FancyBboxPatch(
            (r.x, r.y), r.width, r.height, f"round,pad=0,rounding_size={radius}", zorder=zorder, **style
        )
        self.axes.add_patch(shape)

    # ------------------------------------------------------------------------------------------------------------------

    def draw_frames(self) -> None:
        for title, r in self.scene.frames:
            r = self.moved(r)
            self.rectangle(r, radius=6, zorder=1, facecolor=(0.0, 0.0, 0.0, 0.04), edgecolor="#aaaaaa", linewidth=0.8)
            y, width = r.y + r.height - 9, measured(title, SMALL, bold=True) + 6
            ways = [(self.left + a, self.bottom + b) for way in self.scene.ways.values() for a, b in way]
            crossing = sorted(a for a, b in ways if abs(b - y) < 12 and r.x < a < r.x + r.width)
            gaps = list(itertools.pairwise([r.x + 3, *crossing, r.x + r.width]))
            left = next((a for a, b in gaps if b - a > width), gaps[0][0])
            self.write(left + 5, y, title, SMALL, GREY, bold=True)

    def draw_links(self) -> None:
        for link, points in self.scene.ways.items():
            has_gradient = any(use.edges for use in link.uses)
            points = [(x + self.left, y + self.bottom) for x, y in points]
            path = _curve(points, self.scene.direction)
            self.axes.add_patch(PathPatch(
                path, facecolor="none", edgecolor="#555555" if has_gradient else "#999999", linewidth=1.0, zorder=2,
                linestyle="-" if has_gradient else (0, (3, 2)), capstyle="round",
            ))  # fmt: skip
            self.draw_head(*points[-1])
        for label, r in self.scene.labels.values():
            r = self.moved(r)
            x, y = r.x + r.width / 2, r.y + r.height / 2
            colour = BLUE if label.is_value else INK
            if self.scene.direction == "right":
                self.write(x, y + SMALL * 0.68, label.forward, SMALL, colour, ha="center")
                self.write(x, y - SMALL * 0.75, label.backward, SMALL, VERMILLION, ha="center")
            else:
                self.write(x - 4, y, label.forward, SMALL, colour, ha="right")
                self.write(x + 4, y, label.backward, SMALL, VERMILLION)

    def draw_head(self, x: float, y: float) -> None:
        a, b = 5.0, 2.4
        corners = (
            [(x, y), (x - a, y + b), (x - a, y - b)]
            if self.scene.direction == "right"
            else [(x, y), (x - b, y + a), (x + b, y + a)]
        )
        self.axes.add_patch(
            PathPatch(Path([*corners, corners[0]], closed=True), facecolor="#555555", edgecolor="none", zorder=4)
        )

    # ------------------------------------------------------------------------------------------------------------------

    def draw_box(self, box: Box, face: Face, r: Rectangle) -> None:
        node = box.node
        kind = "folded" if node is None else "argument" if node.equation is None else "operation"
        is_output = any(one in self.plan.graph.outputs for one in box.nodes)
        if node is None:
            self.rectangle(
                r._replace(x=r.x + 2.5, y=r.y - 2.5),
                radius=4,
                zorder=2.5,
                facecolor="#d5d5d5",
                edgecolor="#888888",
                linewidth=0.8,
            )
        self.rectangle(
            r,
            radius=4,
            zorder=3,
            facecolor=FILLS[kind],
            edgecolor=INK if is_output else "#888888",
            linewidth=1.8 if is_output else 0.9,
        )
        top = r.y + r.height - PADDING - TITLE * 0.5
        self.draw_title(face, r, top)
        if face.value is None:
            self.write(r.x + r.width / 2, top - TITLE * LINE, face.note, SMALL, GREY, ha="center")
        elif not face.has_maps:
            self.draw_numbers(face, r, top - TITLE * LINE)
        elif face.value.size:
            self.draw_maps(face, r)

    def draw_title(self, face: Face, r: Rectangle, y: float) -> None:
        x = r.x + (r.width - face.title_width) / 2
        if face.expression:
            name = f"{face.name} = "
            self.write(x, y, name, TITLE, GREY)
            self.write(x + measured(name, TITLE), y, face.expression, TITLE, INK)
            x += measured(name + face.expression, TITLE)
        else:
            self.write(x, y, face.name, TITLE, INK, bold=True)
            x += measured(face.name, TITLE, bold=True)
        if face.note and face.value is not None:
            self.write(x + measured("  ", SMALL), y, face.note, SMALL, GREY)

    def draw_numbers(self, face: Face, r: Rectangle, y: float) -> None:
        value = f"{self.ahead} {compact(face.value)}"
        if face.gradient is None:
            self.write(r.x + r.width / 2, y, value, NUMBERS, BLUE, ha="center")
            return
        self.write(r.x + PADDING + 1, y, value, NUMBERS, BLUE)
        self.write(
            r.x + r.width - PADDING - 1, y, f"{self.back} {compact(face.gradient)}", NUMBERS, VERMILLION, ha="right"
        )

    def draw_maps(self, face: Face, r: Rectangle) -> None:
        width, height = map_size(face.value)
        mark = measured("→ ", NUMBERS)
        shown = [(face.value, self.ahead, BLUE, self.limits[0]), (face.gradient, self.back, VERMILLION, self.limits[1])]
        shown = [entry for entry in shown if entry[0] is not None]
        x = r.x + (r.width - len(shown) * (mark + width) - 8.0 * (len(shown) - 1)) / 2
        y = r.y + PADDING - 1.0
        for array, arrow, colour, limit in shown:
            self.write(x, y + height / 2, arrow, NUMBERS, colour)
            self.draw_map(as_matrix(array), Rectangle(x + mark, y, width, height), colour, limit)
            x += mark + width + 8.0

    def draw_map(self, matrix: np.ndarray, r: Rectangle, colour: str, limit: float) -> None:
        image = AxesImage(
            self.axes,
            cmap=DIVERGING,
            interpolation="nearest",
            extent=(r.x, r.x + r.width, r.y, r.y + r.height),
            zorder=4,
        )
        # On one scale for all arrays, most gradients are small; the cube root lets a thousandth show.
        image.set_data(np.ma.masked_invalid(np.cbrt(matrix / limit)))
        image.set_clim(-1, 1)
        self.axes.add_image(image)
        self.rectangle(r, radius=0, zorder=4.5, facecolor="none", edgecolor=colour, linewidth=1.0)

    # ------------------------------------------------------------------------------------------------------------------

    def draw_legend(self, entries: list[tuple[str, str, str, float]], x: float) -> None:
        y = MARGIN + 4
        for mark, text, colour, width in entries:
            if mark == "map":
                limit = self.limits[text == "gradient"]
                self.draw_map(np.linspace(-1, 1, 41)[None] ** 3 * limit, Rectangle(x + 28, y - 4, 40, 8), colour, limit)
                self.write(x + 25, y, number(-limit), SMALL, colour, ha="right")
                self.write(x + 71, y, number(limit), SMALL, colour)
            else:
                self.write(x, y, f"{mark} {text}", SMALL + 0.5, colour)
            x += width


def _legend_entries(ahead: str, back: str, scene: Scene) -> list[tuple[str, str, str, float]]:
    """Mark, text, colour and width of each entry."""
    entries = [(ahead, "value", BLUE), (back, "gradient of the result", VERMILLION)]
    if any(not label.is_value for label, _ in scene.labels.values()):
        entries += [("∂", "local derivative", INK), (back, "on a link: gradient × ∂", VERMILLION)]
    measured_entries = [(m, t, c, measured(f"{m} {t}", SMALL + 0.5) + 18.0) for m, t, c in entries]
    if any(face.has_maps for face in scene.faces.values()):
        measured_entries += [("map", "value", BLUE, 112.0), ("map", "gradient", VERMILLION, 112.0)]
        measured_entries.append(
            ("", "colours by the cube root", INK, measured("colours by the cube root", SMALL + 0.5))
        )
    return measured_entries


def _limit(arrays: Any) -> float:
    """The end of the common scale: the magnitude that 98 of 100 entries do not exceed."""
    entries = [np.abs(as_matrix(a)).ravel() for a in arrays if a is not None and a.size]
    finite = np.concatenate([e[np.isfinite(e)] for e in entries]) if entries else np.zeros(0)
    return float(np.quantile(finite, 0.98)) or float(finite.max()) or 1.0 if finite.size else 1.0


def _curve(points: list[tuple[float, float]], direction: Direction) -> Path:
    """Through the stretches in turn: straight in each, and an S between two."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for i, (x, y) in enumerate(points[1:], 1):
        if i % 2:
            vertices.append((x, y))
            codes.append(Path.LINETO)
            continue
        x0, y0 = vertices[-1]
        middle = (
            [((x0 + x) / 2, y0), ((x0 + x) / 2, y)] if direction == "right" else [(x0, (y0 + y) / 2), (x, (y0 + y) / 2)]
        )
        vertices += [*middle, (x, y)]
        codes += [Path.CURVE4] * 3
    return Path(vertices, codes)
