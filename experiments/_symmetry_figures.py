"""The figures of `experiments.symmetry`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments._drawing import DIVERGING, new_figure
from jaxnet._colours import BLUE, GREEN, PURPLE, VERMILLION
from jaxnet.network import Params


def xor(costs: Mapping[str, np.ndarray], epochs: np.ndarray, least: float) -> Figure:
    """Costs in training of every network, one panel for each kind of start."""
    figure = new_figure(11, 3.8)
    for axes, (name, values), colour in zip(
        figure.subplots(1, 3, sharey=True), costs.items(), (VERMILLION, PURPLE, BLUE), strict=True
    ):
        axes.plot(epochs, values.T, color=colour, alpha=0.3, linewidth=1)
        axes.axhline(least, color="black", linestyle="--", linewidth=1)
        axes.set(yscale="log", xlabel="epoch", title=f"hidden units {name}")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("cost: mean of ‖ŷ − y‖²")
    figure.axes[0].annotate(
        "1/6, the least of one unit",
        (epochs[-1], least),
        xytext=(0, -12),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    figure.suptitle(f"XOR: {len(next(iter(costs.values())))} networks of each kind")
    return figure


def growth(differences: Mapping[str, np.ndarray], breaks: Mapping[str, int | None], broken: float) -> Figure:
    """Left, the difference between units over time; right, how long each takes until it is larger than ``broken``."""
    figure = new_figure(12, 4.6)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    perturbed = [name for name in differences if name.startswith("perturbed")]
    shades = dict(zip(perturbed, np.linspace(0.25, 0.75, len(perturbed)), strict=True))
    for name, values in differences.items():
        if name in shades:
            style: Any = {"color": str(shades[name]), "linestyle": "-"}
        else:
            style = {"color": VERMILLION if "float32" in name else BLUE}
            style["linestyle"] = "--" if name.startswith("matrix") else "-"
        shown = name if values.any() else f"{name}: equal to the end"
        left.plot(np.arange(1, len(values) + 1), np.where(values > 0, values, np.nan), label=shown, **style)
    left.axhline(broken, color="black", linewidth=1, linestyle=":")
    left.set(yscale="log", xlabel="epoch", ylabel="largest difference between hidden units")
    left.grid(alpha=0.3)
    left.legend(frameon=False, fontsize=8)
    names = [name for name, epoch in breaks.items() if epoch is not None]
    right.barh(names, [breaks[name] or 0 for name in names], color=GREEN)
    right.bar_label(right.containers[0], padding=3, fontsize=9)  # pyright: ignore[reportArgumentType]
    right.set(xlabel=f"steps until units differ by more than {broken:g}", xmargin=0.15)
    right.invert_yaxis()
    figure.suptitle("Digits: hidden units that start equal")
    return figure


def units(networks: Mapping[str, Params]) -> Figure:
    """The incoming weights of up to ten hidden units as images, one row for each network."""
    count = min(10, *(len(params[0].bias) for params in networks.values()))
    figure = new_figure(1.05 * count, 2.9)
    rows: Any = figure.subfigures(len(networks), 1)
    for part, (name, params) in zip(rows, networks.items(), strict=True):
        part.suptitle(name, fontsize=10)
        weight = np.asarray(params[0].weight)[:count]
        for axes, image in zip(part.subplots(1, count), weight, strict=True):
            limit = np.abs(weight).max()
            axes.imshow(image.reshape(8, 8), cmap=DIVERGING, vmin=-limit, vmax=limit)
            axes.set_axis_off()
    return figure
