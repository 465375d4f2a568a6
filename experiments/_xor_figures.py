"""The figures of `experiments.xor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments._drawing import DIVERGING, new_figure
from jaxnet._colours import BLUE, GREEN, VERMILLION

_POINTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
_LOW, _HIGH = -0.5, 1.5


def _scatter(axes: Any, points: np.ndarray, ones: np.ndarray, size: float = 90, **options: Any) -> None:
    for value, colour, marker in ((0, BLUE, "o"), (1, VERMILLION, "s")):
        some = points[ones == value].T
        for area, edge, width, label in ((1.6 * size, "white", 2, None), (size, "black", 1, f"y = {value}")):
            axes.scatter(
                *some,
                c=colour,
                marker=marker,
                s=area,
                edgecolors=edge,
                linewidths=width,
                zorder=4,
                label=label,
                **options,
            )


def _plane(axes: Axes, **labels: str) -> None:
    axes.set(xlim=(_LOW, _HIGH), ylim=(_LOW, _HIGH), xticks=(0, 1), yticks=(0, 1), aspect="equal", **labels)


def functions(tables: Mapping[str, tuple[np.ndarray, np.ndarray | None]]) -> Figure:
    """Each function of two bits with a line that separates its zeros from its ones, where there is one."""
    figure = new_figure(8, 8.6)
    axis = np.linspace(_LOW, _HIGH, 201)
    x1, x2 = np.meshgrid(axis, axis)
    for axes, (name, (outputs, plane)) in zip(figure.subplots(4, 4).ravel(), tables.items(), strict=True):
        if plane is not None:
            a = plane[0] * x1 + plane[1] * x2 + plane[2]
            axes.contourf(x1, x2, a, levels=[-np.inf, 0, np.inf], colors=[BLUE, VERMILLION], alpha=0.2)
            if plane[:2].any():
                axes.contour(x1, x2, a, levels=[0], colors="black", linewidths=1.5)
        else:
            for spine in axes.spines.values():
                spine.set(color="black", linewidth=3)
            axes.text(0.5, 0.5, "no line", ha="center", va="center", fontweight="bold")
        _scatter(axes, _POINTS, outputs, 70)
        _plane(axes)
        axes.set_title(name, fontsize=11, fontweight="bold" if plane is None else "normal")
    figure.supxlabel("x₁")
    figure.supylabel("x₂")
    figure.suptitle("the sixteen functions of two bits: squares are 1, circles are 0")
    return figure


def product(weights: np.ndarray, y: np.ndarray) -> Figure:
    """The four points with x₁ x₂ as height, and the plane w · x + b = 0 of the classifier that was trained on them."""
    figure = new_figure(6.6, 5.6)
    axes: Any = figure.add_subplot(projection="3d", computed_zorder=False)
    x1, x2 = np.meshgrid(np.linspace(-0.2, 1.2, 2), np.linspace(-0.2, 1.2, 2))
    w1, w2, w3, b = weights
    axes.plot_surface(x1, x2, -(w1 * x1 + w2 * x2 + b) / w3, color=GREEN, alpha=0.35, edgecolor=GREEN)
    points = np.column_stack([_POINTS, _POINTS.prod(axis=1)])
    for p1, p2, p3 in points:
        on_plane = -(w1 * p1 + w2 * p2 + b) / w3
        axes.plot([p1, p1], [p2, p2], [on_plane, p3], color="black", linestyle=":", linewidth=1.5)
        away = 0.09 if p3 > on_plane else -0.16
        axes.text(p1, p2, p3 + away, f"({p1}, {p2}, {p3})", ha="center", fontsize=9, zorder=5)
    _scatter(axes, points, y, depthshade=False)
    axes.set(xlabel="x₁", ylabel="x₂", zlabel="x₁ x₂", xticks=(0, 1), yticks=(0, 1), zticks=(0, 1))
    axes.view_init(elev=14, azim=-118)
    axes.set_box_aspect(None, zoom=1.1)
    axes.set_title("with x₁ x₂ as third feature, a plane separates;\ndotted: how far each point lies above or below it")
    axes.legend(loc="upper left", bbox_to_anchor=(0.02, 0.92), frameon=False)
    return figure


def units(
    hidden: Sequence[tuple[str, np.ndarray, np.ndarray]], output: tuple[str, np.ndarray, np.ndarray], y: np.ndarray
) -> Figure:
    """What each hidden unit and the output make of the plane: (name, activation on a grid, at the four points).

    The grid is square and spans the plane of the inputs that is drawn.
    """
    columns = min(len(hidden) + 1, 4)
    rows = -(-(len(hidden) + 1) // columns)
    figure = new_figure(3.5 * columns + 0.8, 3.7 * rows + 0.4)
    grid = figure.subplots(rows, columns, squeeze=False)
    image: Any = None
    for axes in grid.ravel()[len(hidden) + 1 :]:
        axes.set_axis_off()
    for axes, (name, activation, at_points) in zip(grid.ravel(), [*hidden, output], strict=False):
        axis = np.linspace(_LOW, _HIGH, len(activation))
        image = axes.pcolormesh(
            axis, axis, activation, cmap=DIVERGING, vmin=0, vmax=1, shading="nearest", rasterized=True
        )
        if activation.min() < 0.5 < activation.max():
            axes.contour(axis, axis, activation, levels=[0.5], colors="black", linewidths=2)
        _scatter(axes, _POINTS, y)
        for (p1, p2), value in zip(_POINTS, at_points, strict=True):
            axes.annotate(
                f"{value:.2f}",
                (p1, p2),
                xytext=(0, 12),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},
            )
        _plane(axes, xlabel="x₁", ylabel="x₂")
        axes.set_title(name, fontsize=11)
    figure.colorbar(image, ax=grid, label="activation", shrink=0.85)
    figure.suptitle("what each unit makes of the plane: its line, its gate, and its values at the four points")
    return figure
