"""Published training curves, made again: figures of M. Nielsen's book "Neural Networks and Deep Learning", chapter 3.

The book's program is NumPy under Python 2, of 2013; this is jaxnet in float64, given the same random numbers, the same
order of the examples and the same recipe. "overfitting": 30 hidden units learn 1,000 MNIST images by heart, while the
cost on the test images rises. "multiple_eta": three learning rates on 50,000 images. The same numbers have to come out
as long as rounding, which differs with the order of sums, has not grown: costs to a part in 10⁹, counts of images
classified right exactly. Every setting of the recipes is an option, so other figures of the kind are one command away:
``--figure overfitting --images 50000 --lmbda 5 --epochs 30``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _nielsen_figures as figures
from experiments._nielsen_program import Curve, Curves, Images, Recipe, Run, choose, draw, load, networks
from experiments._nielsen_published import RECIPES, counterpart, difference, published
from experiments.common import (
    RESULTS,
    Claim,
    Result,
    above,
    check_at_least,
    console,
    main,
    network_agreement,
    share,
    verdict,
)
from jaxnet.data import Data

EPOCHS = 5
"""Epochs over which the numbers have to be equal."""
TOLERANCE = 1e-9
"""Of costs, relative."""


@dataclass(frozen=True)
class Settings:
    """Which figure; and what is to differ from its recipe, where None is as published."""

    figure: Literal["both", "overfitting", "multiple_eta"] = "both"
    """The published figure whose recipe is followed."""
    sizes: tuple[int, ...] | None = None
    """Units of each layer, inputs first."""
    images: int | None = None
    """Images to train on: the first of the 50,000."""
    initialisation: Literal["default", "large"] | None = None
    """Weights are standard normal, divided by the root of the unit's inputs (default) or not (large)."""
    eta: tuple[float, ...] | None = None
    """Learning rates, each for a network of its own, one after another."""
    lmbda: float | None = None
    """λ of the penalty λ/(2n) Σ W², n the examples of the set that the cost is taken on."""
    batch: int | None = None
    """Examples in a step."""
    cost: Literal["cross_entropy", "quadratic"] | None = None
    """The loss: cross-entropy of each output, or ½ ‖ŷ − y‖²."""
    epochs: int | None = None
    """Passes over the training images; where they are given, all of them are made."""
    measure: tuple[Curve, ...] | None = None
    """What is measured after each epoch."""
    evaluation: Literal["validation", "test"] | None = None
    """What the evaluation curves are measured on: the last 10,000 training images, or the test images."""
    seed: int | None = None
    """Seed of both generators, Python's and NumPy's."""
    examples: int | None = 250_000
    """Run only the recipe's first epochs, up to so many examples for each network; all of them if None."""
    reference: Path | None = None
    """Folder of the published curves; if None, "reference" beside the folder JAXNET_DATA, or the first five epochs."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


def recipe_of(settings: Settings, figure: str) -> Recipe:
    """The figure's recipe with what the settings change."""
    given = {field.name: getattr(settings, field.name) for field in fields(Recipe)}
    recipe = replace(RECIPES[figure], **{name: value for name, value in given.items() if value is not None})
    for name in ("sizes", "eta", "measure"):
        if not getattr(recipe, name):
            raise ValueError(f"{name} is empty, expected at least one value")
    check_at_least(recipe, batch=1, epochs=1)
    return recipe


def run(settings: Settings, *, progress: bool = False) -> Result:
    """Follow the recipes in float64, and compare with what was published."""
    chosen = tuple(RECIPES) if settings.figure == "both" else (settings.figure,)
    recipes = {figure: recipe_of(settings, figure) for figure in chosen}
    everything = load()
    numbers: dict[str, Any] = {}
    drawn, claims = {}, []
    with jax.enable_x64(True):
        for figure, recipe in recipes.items():
            training, evaluation = choose(recipe, *everything)
            epochs = recipe.epochs
            if settings.examples is not None and settings.epochs is None:
                epochs = min(epochs, max(1, settings.examples // len(training.x)))
            if progress:
                console.print(f"[dim]{figure}: {epochs} of {recipe.epochs} epochs ...")
            runs = list(networks(recipe, training, evaluation, epochs=epochs, twin_epochs=EPOCHS, progress=progress))
            others = published_for(recipe, figure, settings.reference)
            apart = [difference(run.curves, theirs) for run, theirs in zip(runs, others, strict=True)]
            found = {"images": recipe.images, "epochs": epochs} | table(runs, apart)
            numbers |= {f"{figure}: {name}": value for name, value in found.items()}
            sizes = (len(evaluation.x), len(training.x))
            drawn[figure] = figures.curves(figure, recipe, runs, others, apart, sizes)
            claims += [same(figure, runs, apart), *lessons(runs, *sizes)]
            numbers["gradient_agreement"] = agreement(recipe, training)
    return Result(numbers, drawn, tuple(claims))


def published_for(recipe: Recipe, figure: str, reference: Path | None) -> list[Curves]:
    """For each eta the published curves; none where the recipe is another."""
    curves = published(figure, reference)
    return [curves[k] if counterpart(recipe, figure, k) else {} for k in range(len(recipe.eta))]


def table(runs: list[Run], apart: list[Curves]) -> dict[str, Any]:
    """The numbers of a figure."""
    numbers: dict[str, Any] = {}
    for run, differences in zip(runs, apart, strict=True):
        label = f"eta {run.eta:g}, " if len(runs) > 1 else ""
        numbers |= {f"{label}{name} at the end": values[-1].item() for name, values in run.curves.items()}
        numbers[f"{label}epochs whose numbers rounding leaves alone"] = f"{determined(run)} of {twin_epochs(run)}"
        if differences:
            length = min(map(len, differences.values()))
            numbers[f"{label}epochs equal to the published ones"] = f"{agreeing(differences)} of {length}"
            numbers[f"{label}largest relative difference of costs, epochs 1 to {EPOCHS}"] = worst_cost(differences)
    numbers["curves"] = {f"{run.eta:g}": run.curves for run in runs}
    return numbers


def agreeing(apart: Curves) -> int:
    """How many epochs pass before a cost or a count differs."""
    differs = [curve > (TOLERANCE if name.endswith("cost") else 0) for name, curve in apart.items()]
    return min(int(np.argmax(curve)) if curve.any() else len(curve) for curve in differs)


def worst_cost(apart: Curves) -> float:
    """The largest relative difference of costs in the first epochs; 0 where no cost was measured."""
    return float(max((curve[:EPOCHS].max() for name, curve in apart.items() if name.endswith("cost")), default=0))


def twin_epochs(run: Run) -> int:
    """How many epochs the twin was trained for."""
    return min(map(len, run.twin.values()))


def determined(run: Run) -> int:
    """How many epochs pass before the twin has other numbers: as long, float64 determines them."""
    return agreeing(difference(run.curves, run.twin))


def same(figure: str, runs: list[Run], apart: list[Curves]) -> Claim:
    """The claim that the published numbers come out again."""
    text = (
        f"The published numbers of the figure {figure} come out again where rounding does not decide them: over "
        f"{EPOCHS} epochs every cost to a part in 10⁹, and every count of images classified right exactly."
    )
    compared = [(run, differences) for run, differences in zip(runs, apart, strict=True) if differences]
    steady = [(run, differences) for run, differences in compared if determined(run) == twin_epochs(run)]
    if not steady:
        return Claim(text, verdict(None), "Nothing is published for these settings, or rounding decides all of it.")
    agreed = [agreeing(differences) >= twin_epochs(run) for run, differences in steady]
    settled = not all(agreed) or min(twin_epochs(run) for run, _ in steady) == EPOCHS
    evidence = "; ".join(
        f"η = {run.eta:g}: {agreeing(differences)} epochs equal, costs of the first {EPOCHS} differ by "
        f"{worst_cost(differences):.0e} of their size"
        for run, differences in steady
    )
    left_out = [f"{run.eta:g}" for run, _ in compared if determined(run) < twin_epochs(run)]
    if left_out:
        evidence += f"; rounding decides at η = {', '.join(left_out)}"
    return Claim(text, verdict(all(agreed) if settled else None), f"{evidence}.")


def lessons(runs: list[Run], evaluated: int, trained: int) -> list[Claim]:
    """What the figures were published for, where they were measured; and what they say of rounding."""
    claims = []
    curves = runs[0].curves
    if len(runs) == 1 and {"training_correct", "evaluation_correct", "evaluation_cost"} <= curves.keys():
        known = share(curves["training_correct"][-1], trained)
        new = share(curves["evaluation_correct"][-1], evaluated)
        cost = curves["evaluation_cost"]
        lowest = int(np.argmin(cost))
        claims.append(
            Claim(
                "Trained for long on few images, the network fits them far better than images it has not seen.",
                above(0, known["low"] - new["high"], known["high"] - new["low"]),
                f"Right: {known['share']:.1%} of {trained:,} training images, {new['share']:.1%} of {evaluated:,} "
                f"others; their cost is lowest after epoch {lowest + 1}, {cost[lowest]:.3g}, and {cost[-1]:.3g} in the "
                "end.",
            )
        )
    if len(runs) > 2 and "training_cost" in curves:
        ends = {run.eta: run.curves["training_cost"][-1] for run in runs}
        best = min(ends, key=lambda eta: ends[eta])
        claims.append(
            Claim(
                "Between a learning rate too small and one too large lies a better one.",
                verdict(min(ends) < best < max(ends)),
                "Cost at the end: " + ", ".join(f"{cost:.3g} with η = {eta:g}" for eta, cost in ends.items()) + ".",
            )
        )
        runs = sorted(runs, key=lambda run: run.eta)
        changes = [abs(run.twin["training_cost"] / run.curves["training_cost"][: twin_epochs(run)] - 1) for run in runs]
        claims.append(
            Claim(
                "With a learning rate too large, rounding decides the curve: parameters that differ by a part in 10¹⁵ "
                "at the start have another cost after one epoch; with the others they have the same.",
                verdict(bool(changes[-1][0] > 1e-3 and max(change[0] for change in changes[:-1]) < TOLERANCE)),
                "Relative change of the cost after an epoch: "
                + ", ".join(f"{change[0]:.0e} with η = {run.eta:g}" for run, change in zip(runs, changes, strict=True))
                + ".",
            )
        )
    return claims


def agreement(recipe: Recipe, training: Images) -> dict[str, Any]:
    """The gradient by hand against the automatic one, for a network as it is drawn and a few images."""
    few = Data(jnp.asarray(training.x[:100]), jnp.asarray(training.y[:100]))
    return network_agreement(draw(recipe, np.random.RandomState(recipe.seed)), few, recipe.network(len(training.x)))


FULL: dict[str, Any] = {"examples": None}

if __name__ == "__main__":
    raise SystemExit(main("nielsen", run, Settings, FULL, __doc__))
