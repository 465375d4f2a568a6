"""How the figures of several experiments are drawn: curves with their standard errors, and heat maps with numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from jaxnet._colours import BLUE, BLUE_TO_VERMILLION, GREEN, ORANGE, PURPLE, SKY, VERMILLION

DIVERGING = LinearSegmentedColormap.from_list("diverging", BLUE_TO_VERMILLION)
"""From negative over zero to positive."""

STYLES = (
    (BLUE, "-", "o"),
    (VERMILLION, "--", "s"),
    (GREEN, "-.", "^"),
    (PURPLE, ":", "D"),
    (ORANGE, "-", "v"),
    (SKY, "--", "P"),
)
"""Colour, line and marker, told apart without colour too."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def finish(axes: Axes, xlabel: str, ylabel: str, title: str = "", **legend: Any) -> None:
    """Labels, a grid, and a legend where curves are named."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    if xlabel == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, **legend)


def band(axes: Axes, x: Any, values: np.ndarray, i: int, label: str, *, marker: bool = False) -> None:
    """The mean over the first axis and its standard error, in the i-th style."""
    colour, line, symbol = STYLES[i % len(STYLES)]
    mean = values.mean(axis=0)
    axes.plot(x, mean, line, marker=symbol if marker else None, color=colour, label=label, linewidth=1.8, markersize=5)
    if len(values) > 1:
        error = values.std(axis=0, ddof=1) / len(values) ** 0.5
        axes.fill_between(x, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)


def heat_map(
    axes: Axes,
    values: np.ndarray,
    columns: Sequence[str],
    rows: Sequence[str],
    text: Callable[[float], str] | None = None,
    *,
    cmap: Any = "cividis",
    vmin: float | None = None,
    vmax: float | None = None,
) -> AxesImage:
    """Numbers as a table of colours, with the numbers in it where ``text`` says how; gray where there is none."""
    axes.set_facecolor("lightgray")
    shown = axes.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=cmap, vmin=vmin, vmax=vmax)
    axes.set(xticks=range(len(columns)), xticklabels=columns, yticks=range(len(rows)), yticklabels=rows)
    if text is not None:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if np.mean(shown.cmap(shown.norm(value))[:3]) > 0.5 else "white"
                axes.text(j, i, text(value), ha="center", va="center", color=colour, fontsize=8)
    return shown
