"""Symmetry: hidden units that start equal stay equal, so that a layer of many is worth one; chance must break the tie.

Two hidden units with the same incoming weights, bias and outgoing weights get the same gradient, and gradient descent
keeps them equal for ever (Rumelhart, Hinton & Williams 1986). XOR with all weights equal, with hidden units equal in
pairs and with random weights shows it bit for bit: the networks lie in an ensemble whose arithmetic treats all units
alike. One effective unit is a monotone function of w·x, and no such function comes below a cost of 1/6 on XOR. On
digits, where sums are long, three things may break the tie: a perturbation; matrix products as this machine computes
them; and summing half of the units' gradients over the examples in reverse order, which differs by rounding alone.
Near the symmetric solution the difference d follows d′ = −H d, so it should grow by η |λ| a step, with λ the most
negative eigenvalue of the Hessian; Lanczos' method measures λ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike, DTypeLike

import jaxnet
from experiments import _symmetry_figures as figures
from experiments.common import (
    RESULTS,
    Claim,
    Result,
    above,
    check_at_least,
    every,
    initial,
    main,
    network_agreement,
    share,
    two_at_a_time,
    verdict,
)
from jaxnet import curvature, ensemble
from jaxnet.activations import softmax
from jaxnet.data import Data
from jaxnet.losses import softmax_cross_entropy
from jaxnet.network import Layer, Params
from jaxnet.steps import Gradient

DIGITS = jaxnet.Network(output=softmax, loss=softmax_cross_entropy)
WINDOW = 20
"""Steps before an epoch, and behind it, from which the growth there is taken, where there are as many."""
BROKEN = 0.1
"""The symmetry counts as broken once two units differ by more than this in some weight."""
ONE_UNIT = 1 / 6
"""No monotone function of w·x has a lower cost on XOR: it sees opposite corners first and last, of equal targets."""


@dataclass(frozen=True)
class Settings:
    """What to train."""

    hidden: int = 8
    """Hidden units for XOR, an even number."""
    members: int = 64
    """Networks for XOR of each kind."""
    epochs: int = 5000
    """Steps for XOR, each on all four points."""
    learning_rate: float = 4.0
    """Step size for XOR."""
    digits_hidden: int = 10
    """Hidden units for the digits."""
    examples: int = 256
    """Digits to train on."""
    digits_epochs: int = 2000
    """Steps for the digits, each on all examples."""
    perturbations: tuple[float, ...] = (1e-12, 1e-9, 1e-6, 1e-3)
    """Sizes of a random perturbation of the equal weights."""
    seed: int = 0
    """Seed of all that is random."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


def units(params: Params) -> Array:
    """All weights of each hidden unit, (units, inputs + 1 + outputs): incoming, bias, outgoing."""
    V, W = params
    return jnp.concatenate([V.weight, V.bias[:, None], W.weight.T], axis=1)


def difference(params: Params, *_: Any) -> Array:
    """The most that a hidden unit differs from the first one, in any weight."""
    rows = units(params)
    return jnp.max(jnp.abs(rows - rows[:1]))


def effective_widths(params: Params) -> np.ndarray:
    """How many different hidden units each member has, told apart bit for bit: (members,)."""
    return np.array([len(np.unique(rows, axis=0)) for rows in np.asarray(jax.vmap(units)(params))])


def in_pairs(params: Params) -> tuple[Layer, ...]:
    """Every hidden unit twice, of members with a leading axis."""
    V, W = params
    doubled = Layer(jnp.repeat(V.weight, 2, axis=1), jnp.repeat(V.bias, 2, axis=1))
    return doubled, Layer(jnp.repeat(W.weight, 2, axis=2), W.bias)


def in_two_orders(
    params: Params, x: ArrayLike, y: ArrayLike, net: jaxnet.Network = DIGITS, weights: ArrayLike | None = None
) -> tuple[Array, tuple[Layer, ...]]:
    """`jaxnet.backprop`, but the second half of the hidden units gets its sums over the examples in reverse order."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    weights = jnp.ones(len(x), x.dtype) if weights is None else jnp.asarray(weights)
    cost, (V, W) = jaxnet.backprop(params, x, y, net, weights)
    _, (V_reversed, W_reversed) = jaxnet.backprop(params, x[::-1], y[::-1], net, weights[::-1])
    first = jnp.arange(len(V.bias)) < len(V.bias) // 2
    return cost, (
        Layer(jnp.where(first[:, None], V.weight, V_reversed.weight), jnp.where(first, V.bias, V_reversed.bias)),
        Layer(jnp.where(first, W.weight, W_reversed.weight), W.bias),
    )


def recorded(settings: Settings) -> int:
    """Every so-manieth epoch of XOR is recorded."""
    return max(1, settings.epochs // 200)


STARTS = ("all equal", "equal in pairs", "random")


def xor_networks(settings: Settings, key: Array, dtype: DTypeLike) -> dict[str, tuple[Params, np.ndarray]]:
    """Networks for XOR whose hidden units start in each of the `STARTS`: trained, with their costs on the way."""
    if settings.hidden % 2:
        raise ValueError(f"hidden is {settings.hidden}, expected an even number, for units in pairs")
    all_key, pairs_key, random_key = jax.random.split(key, 3)
    members, sizes = settings.members, (2, settings.hidden, 1)
    scales = jnp.asarray(np.geomspace(0.1, 3.0, members), dtype)
    starts = (
        initial(all_key, members, sizes, scheme="constant", scale=scales, dtype=dtype),
        in_pairs(initial(pairs_key, members, (2, settings.hidden // 2, 1), scheme="normal", dtype=dtype)),
        initial(random_key, members, sizes, scheme="normal", dtype=dtype),
    )
    result = ensemble.train(
        key,
        jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *starts),
        Data(*(array.astype(dtype) for array in jaxnet.data.xor())),
        optimizer=optax.sgd(settings.learning_rate),
        epochs=settings.epochs,
        record_every=recorded(settings),
        layout="members last",  # sums over units are written out: the arithmetic treats all units alike
    )
    parts = {name: slice(i * members, (i + 1) * members) for i, name in enumerate(STARTS)}
    return {
        name: (jax.tree.map(lambda leaf, part=part: leaf[part], result.params), result.history["cost"][part])
        for name, part in parts.items()
    }


@dataclass(frozen=True)
class Digits:
    """A network for digits that starts with equal weights, plus ``perturbation``, in training."""

    settings: Settings
    dtype: str = "float64"
    perturbation: float = 0.0
    gradient: Gradient = jaxnet.backprop

    @property
    def data(self) -> Data:
        """The first examples of the digits."""
        return Data(*(array[: self.settings.examples].astype(self.dtype) for array in jaxnet.data.digits()))

    def train(self, epochs: int) -> jaxnet.TrainResult:
        """Train for so many epochs of batch gradient descent, with step size 1."""
        sizes, key = (64, self.settings.digits_hidden, 10), jax.random.key(self.settings.seed)
        equal = jaxnet.init(key, sizes, scheme="constant", scale=0.1, dtype=self.dtype)
        noise = jaxnet.init(key, sizes, scheme="normal", scale=self.perturbation, dtype=self.dtype)
        return jaxnet.train(
            key,
            jax.tree.map(jnp.add, equal, noise),
            self.data,
            net=DIGITS,
            optimizer=optax.sgd(1.0),
            epochs=epochs,
            gradient=self.gradient,
            metrics={"difference": difference},
        )

    def growth(self, differences: np.ndarray, epoch: int, window: int) -> tuple[float, float]:
        """The growth of the difference a step about an epoch, and |λ| of the most negative eigenvalue there."""
        before, after = differences[[epoch - window, epoch + window]]
        found = curvature.spectrum(
            self.train(epoch).params, *self.data, DIGITS, key=jax.random.key(self.settings.seed), steps=40, probes=1
        )
        return float(np.log(after / before) / (2 * window)), -float(found.smallest)


def broken_at(differences: np.ndarray) -> int | None:
    """The first step after which two units differ clearly; None where they never do."""
    broken = differences > BROKEN
    return int(np.argmax(broken)) + 1 if broken.any() else None


def run(settings: Settings, *, progress: bool = False) -> Result:
    """XOR with units equal, in pairs and random, and how the symmetry breaks on digits."""
    check_at_least(settings, members=1, epochs=1, digits_epochs=1, examples=1)
    there_are = len(jaxnet.data.digits().x)
    if settings.examples > there_are:
        raise ValueError(f"examples is {settings.examples}, expected at most the {there_are} digits that there are")
    if min(settings.perturbations) <= 0:
        raise ValueError(f"perturbations is {settings.perturbations}, expected numbers > 0")
    key = jax.random.key(settings.seed)
    with jax.enable_x64(True):
        networks = {dtype: partial(xor_networks, settings, key, dtype) for dtype in ("float32", "float64")}
        found = two_at_a_time(networks, "XOR", progress=progress)
        runs = {
            "matrix product, float32": Digits(settings, "float32"),
            "matrix product, float64": Digits(settings),
            "another order, float32": Digits(settings, "float32", gradient=in_two_orders),
            "another order, float64": Digits(settings, gradient=in_two_orders),
        } | {f"perturbed by {size:g}": Digits(settings, perturbation=size) for size in settings.perturbations}
        training = {name: partial(digits.train, settings.digits_epochs) for name, digits in runs.items()}
        trained = two_at_a_time(training, "digits", progress=progress)
        differences = {name: np.asarray(result.history["difference"]) for name, result in trained.items()}
        breaks = {name: broken_at(values) for name, values in differences.items()}
        smallest = f"perturbed by {min(settings.perturbations):g}"
        end = breaks[smallest] or settings.digits_epochs
        window = min(WINDOW, end // 4 - 1)  # as many steps before an epoch, and behind it, as there are
        epochs = [end * quarter // 4 for quarter in (1, 2, 3)] if window > 0 else []
        growing = {epoch: partial(runs[smallest].growth, differences[smallest], epoch, window) for epoch in epochs}
        growths = two_at_a_time(growing, "growth", progress=progress)

    final = {dtype: {name: costs[:, -1] for name, (_, costs) in of.items()} for dtype, of in found.items()}
    widths = {
        dtype: {name: effective_widths(params) for name, (params, _) in of.items()} for dtype, of in found.items()
    }
    params = jaxnet.init(key, (2, settings.hidden, 1), scheme="normal")
    numbers = {
        "xor: effective width, units all equal": max(int(of["all equal"].max()) for of in widths.values()),
        "xor: effective width, units equal in pairs": max(int(of["equal in pairs"].max()) for of in widths.values()),
        "xor: lowest cost, units all equal": min(float(of["all equal"].min()) for of in final.values()),
        "xor: solved, units all equal": share(int(np.sum(final["float32"]["all equal"] < 0.01)), settings.members),
        "xor: solved, random": share(int(np.sum(final["float32"]["random"] < 0.01)), settings.members),
    }
    numbers |= {f"digits: broken after, {name}": epoch for name, epoch in breaks.items()}
    numbers |= {f"digits: cost, {name}": float(result.history["cost"][-1]) for name, result in trained.items()}
    numbers["digits: growth a step, measured and predicted"] = {str(epoch): growth for epoch, growth in growths.items()}
    numbers["gradient_agreement"] = network_agreement(params, jaxnet.data.xor(), jaxnet.Network())
    costs = {name: costs for name, (_, costs) in found["float32"].items()}
    drawn = {
        "xor": figures.xor(costs, np.arange(1, len(costs["random"][0]) + 1) * recorded(settings), ONE_UNIT),
        "growth": figures.growth(differences, breaks, BROKEN),
        "units": figures.units({name: trained[name].params for name in ("matrix product, float32", smallest)}),
    }
    return Result(numbers, drawn, claims(settings, numbers, widths, breaks, list(growths.values())))


def claims(
    settings: Settings,
    numbers: Mapping[str, Any],
    widths: Mapping[str, Mapping[str, np.ndarray]],
    breaks: Mapping[str, int | None],
    growths: list[tuple[float, float]],
) -> tuple[Claim, ...]:
    """What is claimed, and what the numbers say of it."""

    def alike(kind: str, width: int) -> tuple[bool, str]:
        kept = {dtype: int(np.sum(of[kind] == width)) for dtype, of in widths.items()}
        shown = ", ".join(f"{count} of {settings.members} in {dtype}" for dtype, count in kept.items())
        return all(count == settings.members for count in kept.values()), f"{shown} after {settings.epochs} steps"

    equal, equal_shown = alike("all equal", 1)
    pairs, pairs_shown = alike("equal in pairs", settings.hidden // 2)
    lowest, solved = numbers["xor: lowest cost, units all equal"], numbers["xor: solved, random"]
    smallest = min(settings.perturbations)
    soon, late = breaks["another order, float32"], breaks["another order, float64"]
    rounding = None if late is None else soon is not None and late > soon
    ratios = [measured / predicted for measured, predicted in growths]

    def when(name: str) -> str:
        epoch = breaks[name]
        return f"not within {settings.digits_epochs} steps" if epoch is None else f"after {epoch} steps"

    return (
        Claim(
            f"Hidden units that start equal stay equal, bit for bit: {settings.hidden} of them are worth one.",
            verdict(equal),
            f"Networks of effective width 1: {equal_shown}.",
        ),
        Claim(
            f"Hidden units equal in pairs stay in pairs: {settings.hidden} are worth {settings.hidden // 2}.",
            verdict(pairs),
            f"Networks of effective width {settings.hidden // 2}: {pairs_shown}.",
        ),
        Claim(
            "Equal hidden units cannot solve XOR, for their cost stays above the 1/6 of a single unit.",
            verdict(lowest > ONE_UNIT),
            f"Lowest cost of {settings.members} networks in two precisions: {lowest:.6f}.",
        ),
        Claim(
            "Random initial weights break the symmetry, and then XOR is usually solved.",
            above(0.5, solved["low"], solved["high"]),
            f"Solved: {solved['share']:.1%} (95 % interval {solved['low']:.1%} to {solved['high']:.1%}).",
        ),
        Claim(
            f"A perturbation of {smallest:g} is enough to break the symmetry.",
            verdict(None if breaks[f"perturbed by {smallest:g}"] is None else True),
            f"Units differ by more than {BROKEN:g}: {when(f'perturbed by {smallest:g}')}.",
        ),
        Claim(
            "Where units' sums are taken in another order, rounding alone breaks it, in float64 later than in float32.",
            verdict(rounding),
            f"float32: {when('another order, float32')}; float64: {when('another order, float64')}. Matrix products "
            f"as they are here: float32 {when('matrix product, float32')}, float64 {when('matrix product, float64')}.",
        ),
        Claim(
            "The difference grows as fast as the most negative curvature says, to within a quarter.",
            every(*(verdict(0.75 < ratio < 1.25) for ratio in ratios)),
            "Growth a step, measured / predicted: " + ", ".join(f"{a:.4f} / {b:.4f}" for a, b in growths) + ".",
        ),
    )


FULL: dict[str, Any] = {"members": 1000, "epochs": 20_000, "digits_epochs": 4000, "examples": 1797}

if __name__ == "__main__":
    raise SystemExit(main("symmetry", run, Settings, FULL, __doc__))
