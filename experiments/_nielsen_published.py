"""The published figures: their recipes, their first epochs, and where their whole curves are found."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from experiments._nielsen_program import Curve, Curves, Recipe

RECIPES = {
    "overfitting": Recipe(
        sizes=(784, 30, 10),
        images=1000,
        initialisation="large",
        eta=(0.5,),
        lmbda=0.0,
        batch=10,
        cost="cross_entropy",
        epochs=400,
        measure=get_args(Curve),
        evaluation="test",
        seed=12345678,
    ),
    "multiple_eta": Recipe(
        sizes=(784, 30, 10),
        images=50_000,
        initialisation="default",
        eta=(0.025, 0.25, 2.5),
        lmbda=5.0,
        batch=10,
        cost="cross_entropy",
        epochs=30,
        measure=("training_cost",),
        evaluation="validation",
        seed=12345678,
    ),
}

# The published numbers of the first epochs, one dictionary for each eta.
_FIRST_EPOCHS = {
    "overfitting": (
        {
            "evaluation_cost": (
                2.076277232332908, 1.8232334122685845, 1.6640751933146665, 1.4913409287162824, 1.4626645665352562,
            ),
            "evaluation_correct": (5887, 6505, 6970, 7271, 7433),
            "training_cost": (
                1.8433647860328504, 1.4777434227600235, 1.2072861295975754, 1.0133122929166287, 0.9046315580572455,
            ),
            "training_correct": (690, 749, 812, 848, 872),
        },
    ),
    "multiple_eta": tuple(
        {"training_cost": costs}
        for costs in (
            (0.87809508908378, 0.6740655253009814, 0.597989204302754, 0.5553301574365619, 0.5175110100320814),
            (0.49501954654296704, 0.4063145129425576, 0.40482383242804637, 0.37156577828840276, 0.3738011117215168),
            (0.9248929330510212, 0.8391913028924647, 0.887484215942327, 0.7962523178039613, 0.7811795922869917),
        )
    ),
}  # fmt: skip


def published(figure: str, reference: Path | None) -> tuple[Curves, ...]:
    """The published curves of a figure for each eta: whole from the folder that holds them, else the first epochs.

    The folder is ``reference``; if None, "reference" beside the folder that ``JAXNET_DATA`` names, where it has them.
    """
    data = os.environ.get("JAXNET_DATA")
    folder = Path(data).expanduser().absolute().parent / "reference" if reference is None and data else reference
    if folder is None or (reference is None and not (folder / f"nielsen_{figure}.json").is_file()):
        return tuple({name: np.array(c) for name, c in curves.items()} for curves in _FIRST_EPOCHS[figure])
    path = folder / f"nielsen_{figure}.json"
    found = json.loads(path.read_text())
    runs = found if len(RECIPES[figure].eta) > 1 else [found]
    if any(len(run) != 4 for run in runs):
        raise ValueError(f"{path}: expected four lists for each eta, found {[len(run) for run in runs]}")
    return tuple(
        {name: np.array(curve) for name, curve in zip(get_args(Curve), run, strict=True) if curve} for run in runs
    )


def counterpart(recipe: Recipe, figure: str, k: int) -> bool:
    """Whether network k of a recipe is that of the published figure.

    What is measured makes no difference, nor how long the first network is trained; the networks before it do.
    """
    original = RECIPES[figure]
    alike = replace(recipe, eta=original.eta, epochs=original.epochs, measure=original.measure) == original
    earlier = k == 0 or recipe.epochs == original.epochs
    return alike and earlier and recipe.eta[: k + 1] == original.eta[: k + 1]


def difference(own: Curves, others: Curves) -> Curves:
    """Of each curve that both have, epoch by epoch: relative differences of costs, differences of counts."""
    found = {}
    for name in own.keys() & others.keys():
        n = min(len(own[name]), len(others[name]))
        apart = np.abs(own[name][:n] - others[name][:n])
        found[name] = apart / np.abs(others[name][:n]) if name.endswith("cost") else apart
    return found
