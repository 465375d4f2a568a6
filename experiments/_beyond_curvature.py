"""The parts of `experiments.beyond_gradient` about curvature: the Hessian's spectrum, the tangent kernel, and steps."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

import jaxnet
from experiments import _beyond_claims as claims
from experiments import _beyond_figures as figures
from experiments._beyond_runs import LOGITS, NET, Part, Runs, Settings, measured
from experiments.common import estimate, quickly_compiled
from jaxnet import curvature, kernel
from jaxnet.activations import identity, tanh
from jaxnet.optimizers import levenberg_marquardt


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
    parameters = sum(leaf[0, 0].size for leaf in jax.tree.leaves(first.states.params))
    stated = claims.spectrum(outputs, parameters, float(share[-1]))
    return numbers, figures.spectrum(largest[:, -1], smallest, spectra), stated


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
    figure = figures.tangent_kernel(
        [matrix[np.ix_(order, order)] for matrix in (theta[0, 0], theta[0, -1])], labels, alignment, change
    )
    return numbers, figure, claims.tangent_kernel(alignment[:, 0], alignment[:, -1])


def centred(matrix: Array) -> Array:
    """The kernel of features with their mean taken off."""
    rows = jnp.mean(matrix, axis=0, keepdims=True)
    return matrix - jnp.broadcast_to(rows, matrix.shape) - jnp.broadcast_to(rows.T, matrix.shape) + jnp.mean(matrix)


def cosine(a: Array, b: Array) -> Array:
    """The cosine between two matrices."""
    return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


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
    solved = {
        name: {optimizer: (costs.min(axis=1) < ENOUGH).tolist() for optimizer, costs in of_problem.items()}
        for name, of_problem in curves.items()
    }
    return numbers, figures.second_order(curves, ENOUGH), claims.second_order(solved)


ENOUGH = 1e-12
"""The cost to which XOR and the regression are to be solved."""


def descent(keys: Array, problem: Problem, optimizer: optax.GradientTransformation, steps: int) -> np.ndarray:
    """The cost at each step from each start: (starts, steps)."""
    step = jaxnet.make_step(optimizer, problem.net)

    def one(key: Array) -> Array:
        params = jaxnet.init(key, problem.sizes, scheme="normal")
        start = jaxnet.State(params, optimizer.init(params))
        return lax.scan(lambda state, _: step(state, problem.batch), start, length=steps)[1]["cost"]

    return np.asarray(quickly_compiled(partial(lax.map, one), level=1)(keys))  # compiles faster than vmap
