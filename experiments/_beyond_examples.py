"""The parts of `experiments.beyond_gradient` about single examples' gradients: flipped labels, noise, privacy."""

from __future__ import annotations

import importlib
import importlib.util
import math
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from scipy.stats import t

import jaxnet
from experiments import _beyond_claims as claims
from experiments import _beyond_figures as figures
from experiments._beyond_runs import LOGITS, NET, Part, Runs, Settings, measured, train, trajectory
from experiments.common import estimate, quickly_compiled
from jaxnet import per_example
from jaxnet.data import Data
from jaxnet.optimizers import adaptive_batch


def mislabelled(key: Array, training: Data, held_out: Data, settings: Settings) -> Part:
    """Flip labels, train on them, and look for them by what each example's gradient is like, averaged over epochs."""
    flip_key, train_key = jax.random.split(key)
    given, flipped = jax.vmap(partial(flip, share=settings.flipped))(
        jax.random.split(flip_key, len(training.y)), training.y
    )
    runs = train(train_key, training._replace(y=given), held_out, settings)

    def quantities(params: Any, run: Runs) -> dict[str, Array]:
        _, training, held_out = run
        norms, others = (per_example.norms(params, *data, NET) for data in (training, held_out))
        products = per_example.dot_products(params, *training, NET, other=held_out)
        of_class = held_out.y / jnp.sum(held_out.y, axis=0, keepdims=True)  # means over the examples of a class
        cosines = products / jnp.outer(norms, others) @ of_class
        return {
            "gradient norm": norms,
            "gradient similarity": -jnp.sum(cosines * training.y, axis=1),
            "loss": NET.loss.value(jaxnet.forward(params, training.x, LOGITS), training.y),
            "influence": products @ of_class,
        }

    found = {name: values[:, 1:].mean(axis=1) for name, values in measured(quantities, runs).items()}
    influence, flipped = found.pop("influence"), np.asarray(flipped)
    labels, truth = (np.argmax(np.asarray(y), axis=-1) for y in (given, training.y))
    ranked = {name: np.take_along_axis(flipped, np.argsort(-score), axis=1) for name, score in found.items()}
    numbers: dict[str, Any] = {}
    for name, hits in ranked.items():
        areas, precisions = zip(*(areas_of(row) for row in hits), strict=True)
        numbers |= {f"AUC by {name}": estimate(areas), f"average precision by {name}": estimate(precisions)}
    opponents = influence.argmin(axis=-1)
    named = [np.mean((opponent == true)[at]) for opponent, true, at in zip(opponents, truth, flipped, strict=True)]
    numbers["flipped labels whose strongest opponents are of the true class"] = estimate(named)
    figure = figures.mislabelled(
        np.asarray(training.x[0]), labels[0], truth[0], found["gradient norm"][0], found_shares(ranked)
    )
    areas = numbers["AUC by gradient norm"]["values"]
    return numbers, figure, claims.mislabelled(areas, np.array(named))


def flip(key: Array, y: Array, share: float) -> tuple[Array, Array]:
    """Targets of which a share names another class, any of them as likely; and which ones do."""
    which_key, by_key = jax.random.split(key)
    n, classes = y.shape
    flipped = jax.random.permutation(which_key, n) < round(share * n)
    by = jnp.where(flipped, jax.random.randint(by_key, (n,), 1, classes), 0)
    return jax.vmap(jnp.roll)(y, by), flipped


def areas_of(hits: np.ndarray) -> tuple[float, float]:
    """Of a ranking, best first: the area under its ROC curve, and its average precision."""
    at = np.flatnonzero(hits)
    found = np.arange(1, len(at) + 1)
    passed_over = at + 1 - found
    return float(1 - np.mean(passed_over) / np.sum(~hits)), float(np.mean(found / (at + 1)))


def found_shares(ranked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The share of the flipped labels among the first k examples, for every k: (repeats, n)."""
    return {name: np.cumsum(hits, axis=1) / hits.sum(axis=1, keepdims=True) for name, hits in ranked.items()}


def noise_scale(key: Array, runs: Runs, settings: Settings) -> Part:
    """The noise scale in plain training, and in training by the adaptive batch, beside the batch that it chooses."""
    small, largest = max(settings.batch_size // 4, 1), 64
    optimizer = adaptive_batch(optax.sgd(settings.learning_rate), largest=largest)
    adaptive = train(key, *runs[1:], replace(settings, batch_size=small), optimizer)

    def quantities(params: Any, run: Runs) -> tuple[Array, ...]:
        return *per_example.noise_and_signal(params, *run.training, NET), jaxnet.accuracy(params, *run.held_out, NET)

    *plain, plain_accuracy = measured(quantities, runs)
    *noise_and_signal, accuracy = measured(quantities, adaptive)
    batches = small * np.asarray(adaptive.states.opt_state.size)
    scales = {"plain": ratio(*plain), "adaptive": ratio(*noise_and_signal)}
    taken = (runs.training.x.shape[1] / batches[:, 1:]).sum(axis=1)
    grown = growth(*plain)
    numbers = {
        "at the start": scales["plain"][0][0],
        "after the first epoch": scales["plain"][0][1],
        "at the end": scales["plain"][0][-1],
        "adaptive batch at the end": estimate(batches[:, -1]),
        "accuracy, plain": estimate(plain_accuracy[:, -1]),
        "accuracy, adaptive batch": estimate(accuracy[:, -1]),
        "steps, plain": settings.epochs * (runs.training.x.shape[1] // settings.batch_size),
        "steps, adaptive batch, about": estimate(taken),
        "growth": dict(zip(("ratio", "low", "high"), grown, strict=True)),
        "curves": scales | {"batches": batches},
    }
    stated = claims.noise_scale(grown, numbers["steps, plain"], taken, plain_accuracy[:, -1], accuracy[:, -1])
    return numbers, figures.noise_scale(scales, batches, small * largest, plain), stated


def ratio(noise: np.ndarray, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The noise scale after every epoch from averages over the repeats, and its standard error by the jackknife."""
    others = left_out(noise, signal)
    return noise.mean(axis=0) / signal.mean(axis=0), np.sqrt((len(noise) - 1) * others.var(axis=0))


def growth(noise: np.ndarray, signal: np.ndarray) -> tuple[float, float, float]:
    """The factor by which the noise scale grows until the end, with its 95 % interval: a jackknife of its logarithm."""
    scale, others = noise.mean(axis=0) / signal.mean(axis=0), left_out(noise, signal)
    with np.errstate(invalid="ignore"):  # an estimate of the signal can be negative, and then nothing is known
        spread = np.sqrt((len(noise) - 1) * np.log(others[:, -1] / others[:, 0]).var())
        factor = np.exp(t.ppf(0.975, len(noise) - 1) * spread)
    ratio = scale[-1] / scale[0]
    return float(ratio), float(ratio / factor), float(ratio * factor)


def left_out(noise: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """The noise scale from all repeats but one, for each: not a number where there is but one."""
    if len(noise) == 1:
        return np.full_like(noise, np.nan)
    return (noise.sum(axis=0) - noise) / (signal.sum(axis=0) - signal)


def private(key: Array, runs: Runs, settings: Settings) -> Part:
    """Accuracy on held-out examples after training by clipped and noisy gradients of all examples at once."""
    rate = optax.sgd(4.0)

    def one(given: tuple[Array, Any, Data, Data], noise_multiplier: Array) -> Array:
        own_key, start, training, held_out = given
        gradient = partial(per_example.private_gradient, bound=1.0, noise_multiplier=noise_multiplier)
        states = trajectory(own_key, start, training, rate, settings.private_steps, len(training.x), gradient)
        return jaxnet.accuracy(jax.tree.map(lambda leaf: leaf[-1], states.params), *held_out, NET)

    starts = jax.tree.map(lambda leaf: leaf[:, 0], runs.states.params)
    given = jax.random.split(key, len(runs.training.x)), starts, *runs[1:]
    noise_multipliers = np.array(settings.noise_multipliers, np.float32)
    of_noise = quickly_compiled(lambda sigma, given: lax.map(partial(one, noise_multiplier=sigma), given), level=1)
    accuracies = [estimate(of_noise(sigma, given)) for sigma in noise_multipliers]
    ended = runs._replace(states=jax.tree.map(lambda leaf: leaf[:, -1:], runs.states))
    plain = measured(lambda params, run: jaxnet.accuracy(params, *run.held_out, NET), ended)
    epsilons = [epsilon(float(sigma), settings.private_steps) for sigma in noise_multipliers]
    names = [
        f"{sigma:g}" + ("" if spent is None else f", ε = {spent:.2g}")
        for sigma, spent in zip(noise_multipliers, epsilons, strict=True)
    ]
    numbers = {"accuracy, plain": estimate(plain[:, 0])} | {
        f"accuracy, noise multiplier {name}": accuracy for name, accuracy in zip(names, accuracies, strict=True)
    }
    stated = claims.private({name: found["values"] for name, found in zip(names, accuracies, strict=True)})
    return numbers, figures.private(noise_multipliers, accuracies, epsilons, numbers["accuracy, plain"]), stated


DELTA = 1e-4
"""Of (ε, δ) privacy: less than one over the number of training examples."""


def epsilon(noise_multiplier: float, epochs: int) -> float | None:
    """What the run spends at `DELTA`, in which each example counts once an epoch; None without dp-accounting."""
    if importlib.util.find_spec("dp_accounting") is None:
        return None
    if not noise_multiplier or not epochs:
        return math.inf if epochs else 0.0
    dp_accounting, pld = (importlib.import_module(name) for name in ("dp_accounting", "dp_accounting.pld"))
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise_multiplier), epochs)
    return float(pld.PLDAccountant().compose(event).get_epsilon(DELTA))
