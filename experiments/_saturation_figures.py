"""The figures of `experiments.saturation`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments._drawing import STYLES, finish, heat_map, new_figure
from experiments._saturation_runs import NAMES, Grid, Settings


def grid(found: Grid, settings: Settings) -> Figure:
    """Gradient, saturation, cost and accuracy against initial scale and depth, for both losses."""
    figure = new_figure(15, 6.4)
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    depths = [str(depth) for depth in range(1, settings.depth + 1)]
    for i, (row, name) in enumerate(zip(panels, NAMES, strict=True)):
        values = (
            ("log₁₀ norm of first layer's gradient, start (gray: 0)", _log(found.norms[i, ..., 0]), (None, None)),
            ("share of hidden units saturated, start", found.saturated[i].mean(axis=1), (0, 1)),
            ("log₁₀ training cost, end", _log(found.cost[i]), (None, None)),
            ("test accuracy, end", found.accuracy[i].mean(axis=1), (0, 1)),
        )
        for axes, (title, shown, (vmin, vmax)) in zip(row, values, strict=True):
            image = heat_map(axes, shown, _powers(settings.scales), depths, vmin=vmin, vmax=vmax)
            figure.colorbar(image, ax=axes)
            axes.set_title(title if i == 0 else "", fontsize=10)
            if i == 1:
                axes.set_xlabel("factor on the initial weights")
        row[0].set_ylabel(f"{name}\nhidden layers")
    return figure


def layers(found: Grid, settings: Settings) -> Figure:
    """The gradient norm of every layer of the deepest networks against the initial scale."""
    figure = new_figure(12, 3.8)
    names = [*(str(layer) for layer in range(1, settings.depth + 1)), "output"]
    for i, (axes, name) in enumerate(zip(figure.subplots(1, 2), NAMES, strict=True)):
        norms = _log(np.moveaxis(found.norms[i, -1], -1, 0))  # (layers, scales)
        image = heat_map(axes, norms, _powers(settings.scales), names, lambda power: str(round(power)), vmin=-12)
        axes.set(xlabel="factor on the initial weights", ylabel="layer", title=name)
        figure.colorbar(image, ax=axes, label="log₁₀ gradient norm at the start", extend="min")
    figure.suptitle(f"{settings.depth} hidden layers: norm of each layer's gradient, median (gray: exactly 0)")
    return figure


def published(found: Sequence[np.ndarray], known: Sequence[Sequence[float]]) -> Figure:
    """The published norms beside those of many starts, by layer."""
    figure = new_figure(7, 4.4)
    axes = figure.subplots()
    for (colour, line, symbol), norms, values in zip(STYLES, found, known, strict=False):
        layer = np.arange(1, len(values) + 1)
        low, high = np.quantile(norms, (0.025, 0.975), axis=0)
        axes.fill_between(layer, low, high, color=colour, alpha=0.15, linewidth=0)
        middle = np.exp(np.log(norms).mean(axis=0))
        axes.plot(layer, middle, line, color=colour, label=f"{len(values)} hidden layers: {len(norms)} starts")
        axes.plot(layer, values, symbol, color=colour, markersize=8, markeredgecolor="black", label="published")
    axes.set(yscale="log", xticks=range(1, max(map(len, known)) + 1))
    finish(
        axes,
        "hidden layer",
        "norm of the gradient at the start",
        "784-30-...-30-10 on 1,000 MNIST images: geometric mean and central 95 %",
        fontsize=9,
    )
    return figure


def _log(values: np.ndarray) -> np.ndarray:
    """The median over the repeats, which are the last axis but one, as a power of ten; nan for 0."""
    median = np.median(values, axis=-2)
    return np.log10(np.where(median > 0, median, math.nan))


def _powers(scales: np.ndarray) -> list[str]:
    """The powers of ten among the scales; the others go without a label."""
    exponents = np.log10(scales)
    return [f"$10^{{{exponent:.0f}}}$" if abs(exponent - round(exponent)) < 1e-9 else "" for exponent in exponents]
