"""The figures of `experiments.nielsen`: published and own curves in one, and how far they are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments._nielsen_program import Curves, Recipe, Run
from jaxnet._colours import BLUE, GREEN, PURPLE, VERMILLION

_COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)
_MARKERS = ("o", "s", "^", "D")
_PANELS = {"cost": "cost", "correct": "images classified right (%)"}


def curves(
    title: str,
    recipe: Recipe,
    runs: Sequence[Run],
    others: Sequence[Curves],
    apart: Sequence[Curves],
    sizes: tuple[int, int],
) -> Figure:
    """A panel for the costs and one for the counts, where measured; and one for the differences, where published.

    Published curves are wide and pale, with the own ones on them. ``sizes``: examples to evaluate on, and to train on.
    """
    kinds = [kind for kind in _PANELS if any(name.endswith(kind) for name in recipe.measure)]
    compared = any(apart)
    columns = len(kinds) + compared
    figure = Figure(figsize=(5.2 * columns, 4.4), dpi=150, layout="constrained")
    panels = dict(zip([*kinds, "difference"], figure.subplots(1, columns, squeeze=False)[0], strict=False))
    epochs = max(len(values) for run in runs for values in run.curves.values())
    sets = [name for name in ("training", "evaluation") if any(curve.startswith(name) for curve in recipe.measure)]
    for i, (k, name) in enumerate((k, name) for k in range(len(runs)) for name in sets):
        colour, marker = _COLOURS[i % 4], _MARKERS[(i + i // 4) % 4]
        eta, measured, _ = runs[k]
        parts = [{"training": "training", "evaluation": recipe.evaluation}[name]] if len(sets) > 1 else []
        label = ", ".join([f"η = {eta:g}"] * (len(runs) > 1) + parts) or name
        for kind in kinds:
            curve = f"{name}_{kind}"
            if curve not in measured:
                continue
            scale = 100 / sizes[name == "training"] if kind == "correct" else 1
            if curve in others[k]:
                values = others[k][curve]
                panels[kind].plot(np.arange(1, len(values) + 1), values * scale, color=colour, alpha=0.3, linewidth=6)
            values = measured[curve]
            every = max(1, len(values) // 12)
            panels[kind].plot(
                np.arange(1, len(values) + 1),
                values * scale,
                color=colour,
                marker=marker,
                markersize=4,
                markevery=every,
                linewidth=1.2,
                label=label,
            )
        if (curve := f"{name}_cost") in apart[k]:
            values = np.maximum(apart[k][curve], 1e-17)  # equal to the last bit: on the lower edge
            panels["difference"].plot(
                np.arange(1, len(values) + 1),
                values,
                color=colour,
                marker=marker,
                markersize=4,
                markevery=max(1, len(values) // 12),
                linewidth=1,
                label=label,
            )
    for kind in kinds:
        panels[kind].set(ylabel=_PANELS[kind], xlim=(0, epochs + 1))
        if compared:
            panels[kind].plot([], [], color="gray", alpha=0.4, linewidth=6, label="published")
    if "cost" in panels:
        panels["cost"].set_yscale("log")
    if compared:
        panels["difference"].axhline(1e-9, color="gray", linewidth=1, linestyle=":", label="10⁻⁹")
        panels["difference"].set(yscale="log", ylabel="|own − published| / published", title="difference of the costs")
    for axes in panels.values():
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    layers: Any = "-".join(map(str, recipe.sizes))
    figure.suptitle(f"{title}: {layers} on {recipe.images:,} images, λ = {recipe.lmbda:g}")
    return figure
