"""The figures of `experiments.minima`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from experiments._drawing import new_figure
from experiments._minima_census import KINDS, LEVELS, SOLVED, on_level
from experiments._minima_claims import Found
from experiments._minima_surface import Paths
from jaxnet.plots import BLUE, GREEN, PURPLE, VERMILLION

_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, "black")
_KINDS = dict(zip(KINDS, ("white", "lightgray", VERMILLION, "black", BLUE, GREEN), strict=True))
_HATCHES = dict(zip(KINDS, ("", "", "//", "", "..", "xx"), strict=True))


def levels(costs: Mapping[int, np.ndarray], scales: np.ndarray, by_scale: np.ndarray) -> Figure:
    """Left, how many networks of each width end on which level; right, those of the fewest units by initial scale."""
    figure = new_figure(11.5, 4.4)
    left, right = figure.subplots(1, 2)
    names = [*LEVELS, "elsewhere"]
    width = 0.8 / len(costs)
    for i, (hidden, values) in enumerate(costs.items()):
        counts = np.bincount(on_level(values) % len(names), minlength=len(names))  # −1, elsewhere, comes last
        places = np.arange(len(names)) + (i - (len(costs) - 1) / 2) * width
        bars = left.bar(places, counts, width, label=f"{hidden} hidden units", color=_COLOURS[i % len(_COLOURS)])
        left.bar_label(bars, [str(count) if count else "" for count in counts], rotation=90, padding=3, fontsize=7)
    left.set(yscale="log", ylim=(0.7, 12 * len(by_scale)), xlabel="cost at the end", ylabel="networks")
    left.set_xticks(range(len(names)), names)
    left.set_title(f"{len(by_scale)} networks of each width")
    left.legend(frameon=False, fontsize=9)
    right.scatter(scales, by_scale, s=2, alpha=0.3, color=BLUE, linewidths=0, rasterized=True)
    right.set(xscale="log", xlabel="scale of the initial weights", ylabel="cost at the end")
    right.set_title(f"{min(costs)} hidden units, by initial scale")
    for name, level in LEVELS.items():
        right.axhline(level, color="gray", linewidth=0.8, zorder=0)
        right.text(1.01, level, name, transform=right.get_yaxis_transform(), va="center", fontsize=9)
    figure.suptitle("XOR: where gradient descent ends")
    return figure


def census(found: Found, epochs: int) -> Figure:
    """Shares that reach the global minimum, what the others end at, and how many of them longer training frees."""
    figure = new_figure(14, 4.4)
    left, middle, right = figure.subplots(1, 3)
    for (task, of), colour, marker in zip(found.shares.items(), (BLUE, VERMILLION), "os", strict=True):
        middles = np.array([one["share"] for one in of.values()])
        away = [
            np.maximum(middles - [one["low"] for one in of.values()], 0),
            np.maximum([one["high"] for one in of.values()] - middles, 0),
        ]
        trials = next(iter(of.values()))["trials"]
        left.errorbar(
            list(of), middles, away, color=colour, marker=marker, capsize=3, label=f"{task}, {trials} networks each"
        )
    widths = sorted({hidden for of in found.shares.values() for hidden in of})
    left.set(xscale="log", xlabel="hidden units", ylabel="share that reaches the global minimum", ylim=(0, 1.04))
    left.xaxis.set(major_locator=FixedLocator(widths), major_formatter=FixedFormatter(list(map(str, widths))))
    left.xaxis.set_minor_locator(NullLocator())
    left.legend(frameon=False, loc="lower right")
    left.set_title("95 % intervals")

    names = [f"{hidden} ({len(of)})" for hidden, of in found.kinds.items()]
    bottom = np.zeros(len(names))
    for index, kind in enumerate(KINDS):
        heights = np.array([np.mean(of == index) for of in found.kinds.values()])
        if heights.any():
            colour, hatch = _KINDS[kind], _HATCHES[kind]
            middle.bar(names, heights, bottom=bottom, label=kind, color=colour, hatch=hatch, edgecolor="white")
        bottom += heights
    middle.set(xlabel="hidden units (networks looked at)", ylabel="share", ylim=(0, 1.2), yticks=np.linspace(0, 1, 6))
    middle.set_title("XOR networks not at the global minimum")
    middle.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)

    for (name, of), colour, style, marker in zip(
        found.longer.items(), (VERMILLION, BLUE), ("-", "--"), "os", strict=False
    ):
        freed = 100 * np.mean(of.cost < SOLVED, axis=0)
        right.plot(np.arange(1, len(freed) + 1) * epochs, freed, style, color=colour, marker=marker, label=name)
    right.set(xlabel="epoch", ylabel="at the global minimum (%)", ylim=(0, None))
    right.set_title(f"{widths[0]} hidden units: stuck ones trained on")
    right.xaxis.set_major_locator(MaxNLocator(5))
    right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def surface(slices: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Slices of the cost surface, each about a network, on one scale of colours."""
    figure = new_figure(4.2 * len(slices) + 0.8, 4.2)
    panels = figure.subplots(1, len(slices), squeeze=False)[0]
    edges = np.array(
        [0, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.06, 0.1, 0.12, 0.13, 0.16, 0.175, 0.2, 0.24, 0.26, 0.3, 0.4, 0.5]
    )
    image: Any = None
    for axes, (name, (costs, along)) in zip(panels, slices.items(), strict=True):
        image = axes.contourf(
            along, along, costs, levels=edges, cmap="cividis", norm=BoundaryNorm(edges, 256), extend="max"
        )
        axes.contour(along, along, costs, levels=edges, colors="black", linewidths=0.3)
        axes.plot(0, 0, "o", color=VERMILLION, markeredgecolor="white", markersize=9)
        axes.set(title=name, xlabel="step along d", aspect="equal")
    panels[0].set_ylabel("step along e")
    figure.colorbar(image, ax=panels, label="cost", ticks=edges[1:], format="%g")
    figure.suptitle("XOR: filter-normalised slices of the cost surface")
    return figure


def between(found: Mapping[int, Paths]) -> Figure:
    """Costs on straight paths between two solutions: median and quartiles, before and after matching."""
    figure = new_figure(3.6 * len(found) + 0.6, 3.9)
    panels: Sequence[Any] = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (hidden, costs) in zip(panels, found.items(), strict=True):
        along = np.linspace(0, 1, costs.before.shape[1])
        for name, values, colour, style in (
            ("as trained", costs.before, VERMILLION, "--"),
            ("units matched", costs.after, BLUE, "-"),
        ):
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
            axes.plot(along, middle, style, color=colour, label=f"{name}: median, quartiles")
            axes.fill_between(along, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(title=f"{hidden} hidden units", xlabel="from one solution to another")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("cost")
    panels[-1].legend(frameon=False, fontsize=9)
    figure.suptitle("XOR: straight paths between pairs of solutions")
    return figure
