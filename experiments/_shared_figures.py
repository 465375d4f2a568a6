"""The figures of `experiments.shared_hidden`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments._drawing import STYLES, band, finish, heat_map, new_figure
from experiments._shared_runs import ATTRIBUTES, Committee, Settings, Sharing


def accuracy(sharing: Mapping[int, Sharing], settings: Settings) -> Figure:
    """Accuracy with its standard error, by question and size: shared against separate."""
    rows = -(-len(sharing) // 3)
    columns = -(-len(sharing) // rows)
    figure = new_figure(3.4 * columns + 1, 4.2 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in panels[len(sharing) :]:
        axes.remove()
    at = np.arange(len(ATTRIBUTES))
    for i, (units, found) in enumerate(sharing.items()):
        axes = panels[i]
        kinds = ("one shared layer", found.shared), ("separate networks", found.separate)
        for (colour, _, symbol), aside, (name, values) in zip(STYLES, (-0.1, 0.1), kinds, strict=False):
            error = values.std(axis=0, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
            axes.errorbar(at + aside, values.mean(axis=0), error, fmt=symbol, color=colour, label=name, capsize=3)
        axes.set_xticks(at, list(ATTRIBUTES), rotation=30, ha="right")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        title = f"{settings.shared_units(units)} shared units, or {len(at)} times {units}"
        finish(axes, "", "" if i % columns else "test accuracy", title, fontsize=9, loc="lower right")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low - 0.2 * (high - low), high)  # room for the legends
    return figure


def ablation(effects: np.ndarray) -> Figure:
    """Which output loses how much accuracy without which hidden unit, of one network; units in order of their sum."""
    order = np.argsort(-effects.sum(axis=0))
    figure = new_figure(min(0.55 * len(order) + 3, 13), 3.4)
    axes = figure.subplots()
    limit = float(np.abs(effects).max()) * 100
    image = heat_map(
        axes, 100 * effects[:, order], [str(unit + 1) for unit in order], list(ATTRIBUTES),
        "{:.1f}".format if len(order) <= 20 else None,
        vmin=min(0.0, 100 * float(effects.min())), vmax=limit,
    )  # fmt: skip
    axes.set(xlabel="hidden unit held at its mean", ylabel="output", title="Which output uses which hidden unit")
    figure.colorbar(image, ax=axes, label="accuracy lost (points)")
    return figure


def committees(found: Mapping[str, Committee]) -> Figure:
    """Accuracy of the average against the number of members, and of members against the correlation of errors."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    for i, (name, one) in enumerate(found.items()):
        colour, line, symbol = STYLES[i]
        averages = one.averages()
        band(left, np.arange(1, averages.shape[1] + 1), averages, i, f"average, {name}", marker=True)
        left.axhline(one.right.mean(), color=colour, linestyle=line, linewidth=0.8, label="members alone")
        gain = averages[:, -1] - one.right.mean(axis=(1, 2))
        right.plot(one.correlations(), gain, symbol, color=colour, label=name)
    for axes, axis in ((left, left.yaxis), (right, right.yaxis)):
        axis.set_major_formatter(PercentFormatter(1, decimals=0 if axes is left else 1))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(left, "classifiers that answer together", "test accuracy", fontsize=9)
    finish(right, "correlation of two members' errors", "gain of the average over its members", fontsize=9)
    right.set_title("each point one split of the digits")
    return figure
