"""Beyond the gradient: what the activations and deltas of the two passes tell about data, training and curvature.

Six claims, on the digits that scikit-learn ships: (1) labels flipped on purpose stand out by the norm of their
example's gradient, and by its disagreement with the gradients of held-out examples of the same label, while the class
that an example works against most is its true one (TracIn, Pruthi et al. 2020); the loss, shown beside them, ranks as
well, but names no class; (2) the gradient noise scale grows several times over in training (McCandlish et al. 2018),
and `jaxnet.optimizers.adaptive_batch` follows it; (3) a few large eigenvalues of the Hessian stand apart from a bulk at
zero and hold most of the trace (Sagun et al. 2017; by Lanczos, as in Ghorbani et al. 2019); (4) the tangent kernel
(Jacot et al. 2018) moves, and towards the labels (alignment of Cortes et al. 2012); (5) private training by clipping
and noise (Abadi et al. 2016) gives up accuracy step by step with the noise; (6) Levenberg-Marquardt brings XOR and a
small regression to a cost of 1e-12 in tens of steps, where gradient descent does not arrive in thousands. The
quantities are checked against their definitions by automatic differentiation.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import jaxnet
from experiments import _beyond_figures as figures
from experiments.common import RESULTS, Result, console, estimate, gradient_agreement, present
from jaxnet import curvature, kernel, per_example
from jaxnet.activations import identity, softmax, tanh
from jaxnet.data import Data
from jaxnet.losses import softmax_cross_entropy
from jaxnet.optimizers import adaptive_batch, levenberg_marquardt

NET = jaxnet.Network(hidden=tanh, output=softmax, loss=softmax_cross_entropy)
LOGITS = jaxnet.Network(hidden=tanh, output=identity, loss=softmax_cross_entropy)


@dataclass(frozen=True)
class Settings:
    """What to train, and on how much."""

    hidden: int = 32
    """Hidden units."""
    seed: int = 0
    """Seed of all that is random."""
    repeats: int = 5
    """Splits of the digits, each with a network of its own."""
    epochs: int = 20
    """Passes over the training examples."""
    batch_size: int = 32
    """Examples in a step; the adaptive batch is made of quarters of it."""
    learning_rate: float = 0.3
    """Step size of gradient descent."""
    flipped: float = 0.05
    """Share of the training labels that are flipped."""
    noise_multipliers: tuple[float, ...] = (0.0, 4.0, 16.0, 64.0)
    """Noise of private training, relative to the bound of 1 on the norm of each example's gradient."""
    private_steps: int = 40
    """Steps of private training, each on all examples."""
    starts: int = 20
    """Initial weights for XOR and the regression."""
    steps: int = 100
    """Steps of Levenberg-Marquardt; gradient descent gets a hundred times as many."""
    output: Path = RESULTS
    """Folder for the numbers and figures."""


class Runs(NamedTuple):
    """Networks after every epoch: ``states`` have leading axes (repeats, epochs + 1), the data (repeats,)."""

    states: jaxnet.State
    training: Data
    held_out: Data


Part = tuple[dict[str, Any], Figure]


def run(settings: Settings, *, progress: bool = False) -> Result:
    """All six parts; numbers and figures by the parts' names."""
    for name in ("hidden", "repeats", "epochs", "batch_size", "private_steps", "starts", "steps"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is {getattr(settings, name)}, expected at least 1")
    if not 0 < settings.flipped < 1:
        raise ValueError(f"flipped is {settings.flipped}, expected a number between 0 and 1")
    keys = jax.random.split(jax.random.key(settings.seed), 7)
    training, held_out = splits(keys[0], settings.repeats)
    if settings.batch_size > (n := training.x.shape[1]):
        raise ValueError(f"batch_size is {settings.batch_size}, expected at most the {n} training examples")
    runs = train(keys[1], training, held_out, settings)
    parts: dict[str, Callable[[], Part]] = {
        "mislabelled": lambda: mislabelled(keys[2], training, held_out, settings),
        "noise_scale": lambda: noise_scale(keys[3], runs, settings),
        "spectrum": lambda: spectrum(keys[4], runs),
        "kernel": lambda: tangent_kernel(runs),
        "private": lambda: private(keys[5], runs, settings),
        "second_order": lambda: second_order(keys[6], settings),
    }
    numbers: dict[str, Any] = {}
    drawn = {}
    for name, part in parts.items():
        if progress:
            console.print(f"[dim]{name} ...")
        found, drawn[name] = part()
        numbers |= {f"{name}: {key}": value for key, value in found.items()}
    numbers["gradient_agreement"] = agreement(*(jax.tree.map(lambda leaf: leaf[0], tree) for tree in runs[:2]))
    return Result(numbers, drawn)


# ----------------------------------------------------------------------------------------------------------------------
# Training, with the network kept after every epoch


def splits(key: Array, repeats: int) -> tuple[Data, Data]:
    """80 % of the digits to train on, and 20 % held out, split anew for every repeat: leading axis (repeats,)."""
    parts = [jaxnet.data.split(own, jaxnet.data.digits(), 0.8) for own in jax.random.split(key, repeats)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)


def trajectory(
    key: Array,
    params: Any,
    data: Data,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    gradient: Callable[..., tuple[Array, Any]] = jaxnet.backprop,
) -> jaxnet.State:
    """The state at the start and after every epoch, (epochs + 1, ...): a step is the body of two nested scans."""
    step = jaxnet.make_step(optimizer, NET, gradient)
    order_key, own_key = jax.random.split(key)

    def epoch(state: jaxnet.State, key: Array) -> tuple[jaxnet.State, jaxnet.State]:
        n = len(data.x)
        order = jax.random.permutation(key, n)[: n // batch_size * batch_size].reshape(-1, batch_size)
        state, _ = lax.scan(step, state, (data.x[order], data.y[order]))
        return state, state

    start = jaxnet.State(params, optimizer.init(params), own_key)
    _, after = lax.scan(epoch, start, jax.random.split(order_key, epochs))
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, after)


def train(
    key: Array,
    training: Data,
    held_out: Data,
    settings: Settings,
    optimizer: optax.GradientTransformation | None = None,
) -> Runs:
    """One network for every split, by plain gradient descent unless told otherwise."""
    optimizer = optax.sgd(settings.learning_rate) if optimizer is None else optimizer

    def one(given: tuple[Array, Data]) -> jaxnet.State:
        params_key, order_key = jax.random.split(given[0])
        params = jaxnet.init(params_key, (training.x.shape[-1], settings.hidden, training.y.shape[-1]))
        return trajectory(order_key, params, given[1], optimizer, settings.epochs, settings.batch_size)

    keys = jax.random.split(key, len(training.x))
    return Runs(jax.jit(partial(lax.map, one))((keys, training)), training, held_out)


def measured(quantity: Callable[[Any, Runs], Any], runs: Runs) -> Any:
    """``quantity(params, run)`` of every network after every epoch: (repeats, epochs + 1, ...)."""

    def one(run: Runs) -> Any:
        return lax.map(lambda params: quantity(params, run), run.states.params)

    return jax.tree.map(np.asarray, jax.jit(partial(lax.map, one))(runs))


# ----------------------------------------------------------------------------------------------------------------------
# The six parts


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
        of_class = held_out.y / jnp.sum(held_out.y, axis=0)  # takes means over the held-out examples of a class
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
    return numbers, figure


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
    numbers = {
        "at the start": scales["plain"][0][0],
        "after the first epoch": scales["plain"][0][1],
        "at the end": scales["plain"][0][-1],
        "adaptive batch at the end": estimate(batches[:, -1]),
        "accuracy, plain": estimate(plain_accuracy[:, -1]),
        "accuracy, adaptive batch": estimate(accuracy[:, -1]),
        "steps, plain": settings.epochs * (runs.training.x.shape[1] // settings.batch_size),
        "steps, adaptive batch, about": estimate((runs.training.x.shape[1] / batches[:, 1:]).sum(axis=1)),
        "curves": scales | {"batches": batches},
    }
    return numbers, figures.noise_scale(scales, batches, small * largest, plain)


def ratio(noise: np.ndarray, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The noise scale after every epoch from averages over the repeats, and its standard error by the jackknife."""
    n = len(noise)
    others = (noise.sum(axis=0) - noise) / (signal.sum(axis=0) - signal) if n > 1 else np.full_like(noise, np.nan)
    return noise.mean(axis=0) / signal.mean(axis=0), np.sqrt((n - 1) * others.var(axis=0))


def spectrum(key: Array, runs: Runs) -> Part:
    """Eigenvalues of the Hessian in the first run: the extremes after every epoch, the density at three times."""
    first = jax.tree.map(lambda leaf: leaf[:1], runs)
    outputs = runs.training.y.shape[-1]

    def extremes(params: Any, run: Runs) -> tuple[Array, ...]:
        found = curvature.spectrum(params, *run.training, NET, key=key, steps=24, probes=1)
        return found.eigenvalues[0, -outputs:], found.smallest, curvature.trace(params, *run.training, NET)

    def whole(params: Any, run: Runs) -> curvature.Spectrum:
        return curvature.spectrum(params, *run.training, NET, key=key, steps=64, probes=2)

    largest, smallest, trace = (values[0] for values in measured(extremes, first))
    epochs = len(trace) - 1
    at = sorted({0, epochs // 2, epochs})
    some = first._replace(states=jax.tree.map(lambda leaf: leaf[:, jnp.array(at)], first.states))
    found = measured(whole, some)
    spectra = {epoch: jax.tree.map(lambda leaf, i=i: leaf[0, i], found) for i, epoch in enumerate(at)}
    share = largest.sum(axis=1) / trace
    numbers = {
        "largest eigenvalue at the start": largest[0, -1],
        "largest eigenvalue at the end": largest[-1, -1],
        "smallest eigenvalue at the start": smallest[0],
        "smallest eigenvalue at the end": smallest[-1],
        f"share of the {outputs} largest in the trace at the end": share[-1],
        "curves": {"largest": largest, "smallest": smallest, "trace": trace},
    }
    return numbers, figures.spectrum(largest[:, -1], smallest, spectra)


def tangent_kernel(runs: Runs, examples: int = 200) -> Part:
    """The kernel of the logits, summed over them, on held-out examples: how far it moves, and where to."""

    def quantities(params: Any, run: Runs) -> tuple[Array, ...]:
        x, y = (array[:examples] for array in run.held_out)
        start = jax.tree.map(lambda leaf: leaf[0], run.states.params)
        before, theta = (kernel.empirical_ntk(own, x, net=LOGITS, outputs="trace") for own in (start, params))
        middle = centred(theta)
        return theta, cosine(middle, centred(y @ y.T)), 1 - cosine(middle, centred(before))

    theta, alignment, change = measured(quantities, runs)
    order = np.argsort(np.argmax(runs.held_out.y[0, :examples], axis=-1), kind="stable")
    numbers = {
        "alignment with the labels at the start": estimate(alignment[:, 0]),
        "alignment with the labels at the end": estimate(alignment[:, -1]),
        "1 - cosine of the centred kernels at start and end": estimate(change[:, -1]),
        "growth of the norm": estimate([np.linalg.norm(own[-1]) / np.linalg.norm(own[0]) for own in theta]),
        "curves": {"alignment": alignment, "change": change},
    }
    labels = np.asarray(np.argmax(runs.held_out.y[0, :examples], axis=-1))[order]
    return numbers, figures.tangent_kernel(
        [matrix[np.ix_(order, order)] for matrix in (theta[0, 0], theta[0, -1])], labels, alignment, change
    )


def centred(matrix: Array) -> Array:
    """The kernel of features with their mean taken off."""
    rows = jnp.mean(matrix, axis=0, keepdims=True)
    return matrix - jnp.broadcast_to(rows, matrix.shape) - jnp.broadcast_to(rows.T, matrix.shape) + jnp.mean(matrix)


def cosine(a: Array, b: Array) -> Array:
    """The cosine between two matrices."""
    return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


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
    of_noise = jax.jit(lambda sigma, given: lax.map(partial(one, noise_multiplier=sigma), given))
    accuracies = [estimate(of_noise(sigma, given)) for sigma in noise_multipliers]
    ended = runs._replace(states=jax.tree.map(lambda leaf: leaf[:, -1:], runs.states))
    plain = measured(lambda params, run: jaxnet.accuracy(params, *run.held_out, NET), ended)
    epsilons = [epsilon(float(sigma), settings.private_steps) for sigma in noise_multipliers]
    numbers = {"accuracy, plain": estimate(plain[:, 0])} | {
        f"accuracy, noise multiplier {sigma:g}" + ("" if spent is None else f", ε = {spent:.2g}"): accuracy
        for sigma, accuracy, spent in zip(noise_multipliers, accuracies, epsilons, strict=True)
    }
    return numbers, figures.private(noise_multipliers, accuracies, epsilons, numbers["accuracy, plain"])


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


class Problem(NamedTuple):
    """A network and what it is to fit, all of it in every step."""

    net: jaxnet.Network
    sizes: tuple[int, ...]
    batch: tuple[Array, ...]
    learning_rate: float


def second_order(key: Array, settings: Settings) -> Part:
    """The cost against the steps of Levenberg-Marquardt and of gradient descent, from many starts, in float64."""
    with jax.enable_x64(True):
        x = jax.random.normal(key, (30, 3), float)
        batch = x, jnp.sin(jnp.sum(x, axis=1, keepdims=True))
        xor = tuple(array.astype(float) for array in jaxnet.data.xor())
        problems = {
            "XOR": Problem(jaxnet.Network(), (2, 4, 1), xor, 16.0),
            "regression": Problem(jaxnet.Network(tanh, identity), (3, 20, 1), batch, 0.05),
        }
        keys = jax.random.split(key, settings.starts)
        curves = {
            name: {
                "Levenberg-Marquardt": descent(keys, problem, levenberg_marquardt(), settings.steps),
                "gradient descent": descent(keys, problem, optax.sgd(problem.learning_rate), 100 * settings.steps),
            }
            for name, problem in problems.items()
        }
    numbers: dict[str, Any] = {}
    for name, of_problem in curves.items():
        for optimizer, costs in of_problem.items():
            solved = costs < ENOUGH
            first = np.where(solved.any(axis=1), solved.argmax(axis=1), np.inf)
            numbers |= {
                f"{name}, {optimizer}: starts that reach {ENOUGH:g}": f"{np.isfinite(first).sum()} of {len(costs)}",
                f"{name}, {optimizer}: steps to it, median": float(np.median(first)),
                f"{name}, {optimizer}: final cost, median": float(np.median(costs[:, -1])),
            }
    return numbers, figures.second_order(curves, ENOUGH)


ENOUGH = 1e-12
"""The cost to which XOR and the regression are to be solved."""


def descent(keys: Array, problem: Problem, optimizer: optax.GradientTransformation, steps: int) -> np.ndarray:
    """The cost at each step from each start: (starts, steps)."""
    step = jaxnet.make_step(optimizer, problem.net)

    def one(key: Array) -> Array:
        params = jaxnet.init(key, problem.sizes, scheme="normal")
        start = jaxnet.State(params, optimizer.init(params))
        return lax.scan(lambda state, _: step(state, problem.batch), start, length=steps)[1]["cost"]

    return np.asarray(jax.jit(partial(lax.map, one))(keys))  # compiles faster than vmap


# ----------------------------------------------------------------------------------------------------------------------
# The referee


def agreement(states: jaxnet.State, training: Data) -> dict[str, Any]:
    """The quantities by hand against their definitions by ``jax.grad``, for a trained network and eight examples."""
    params = jax.tree.map(lambda leaf: leaf[-1], states.params)

    def by_hand(params: Any, x: Array, y: Array) -> dict[str, Any]:
        return {
            "norms": per_example.norms(params, x, y, NET),
            "products": per_example.dot_products(params, x, y, NET),
            "noise": per_example.noise_and_signal(params, x, y, NET)[0],
            "clipped": ravel_pytree(per_example.clipped_gradient(params, x, y, NET, bound=1.0)[1])[0],
            "hessian": ravel_pytree(curvature.hvp(params, x, y, params, NET))[0],
            "kernel": kernel.empirical_ntk(params, x, net=LOGITS, outputs="trace"),
        }

    def automatic(params: Any, x: Array, y: Array) -> dict[str, Any]:
        theta, unravel = ravel_pytree(params)
        gradient = jax.grad(lambda theta, x, y: jaxnet.cost(unravel(theta), x, y, NET))
        gradients = jax.vmap(gradient, (None, 0, 0))(theta, x, y)
        norms = jnp.linalg.norm(gradients, axis=1)
        jacobian = jax.jacobian(lambda theta: jaxnet.forward(unravel(theta), x, LOGITS))(theta)
        return {
            "norms": norms,
            "products": gradients @ gradients.T,
            "noise": jnp.sum(jnp.var(gradients, axis=0, ddof=1)),
            "clipped": jnp.minimum(1, 1 / norms) @ gradients / len(x),
            "hessian": jax.jvp(lambda theta: gradient(theta, x, y), (theta,), (theta,))[1],
            "kernel": jnp.einsum("iop,jop->ij", jacobian, jacobian),
        }

    return gradient_agreement(by_hand, automatic, (params, training.x[:8], training.y[:8]))


if __name__ == "__main__":
    raise SystemExit(present("beyond_gradient", run, tyro.cli(Settings, description=__doc__)))
