"""Where gradient descent ends: curvature there, and what kind of point it is."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

import jaxnet
from experiments._minima_symmetries import canonical
from experiments.common import quickly_compiled
from jaxnet import curvature
from jaxnet.backprop import signals
from jaxnet.curvature import StationaryPoint
from jaxnet.data import Data
from jaxnet.network import Params

NET = jaxnet.Network()
SOLVED = 0.01
"""A cost below this counts as the global minimum, 0, which no finite weights reach."""
LEVELS = {"0": 0.0, "1/8": 1 / 8, "1/6": 1 / 6, "1/4": 1 / 4}
"""Costs of XOR where one, two, three or four examples share the best constant output, and the others are right."""
NEAR = 0.005
"""A cost this near to a level lies on it."""
SATURATED = 0.01
"""A unit is saturated for an example where h or 1 − h is below this."""
KINDS = ("global minimum", "still descending", "saddle", "local minimum", "plateau, units saturated", "plateau, other")


class EndPoints(NamedTuple):
    """Networks where training ended, arrays with a leading axis of members: all in float64.

    ``saturated``: whether a hidden unit is saturated for two examples or more, or the output for one that it gets
    wrong. ``codes``: which examples each hidden unit says yes to, (members, hidden, n); ``canonical_codes``: the same
    of the canonical network.
    """

    cost: Any
    point: StationaryPoint
    saturated: Any
    codes: Any
    canonical_codes: Any


def at_point(params: Params, data: Data) -> tuple[Array, StationaryPoint]:
    """The cost of one network, and what kind of stationary point it is, if it is one."""
    return jaxnet.cost(params, *data, NET), curvature.is_minimum(params, *data, NET)


def _end_point(params: Params, data: Data) -> EndPoints:
    _, hidden, outputs = signals(params, *data, NET).activations

    def saturated(h: Array) -> Array:
        return jnp.minimum(h, 1 - h) < SATURATED

    wrong = jnp.abs(outputs - data.y) > 0.5
    flat = jnp.any(jnp.sum(saturated(hidden), axis=0) >= 2) | jnp.any(saturated(outputs) & wrong)
    return EndPoints(
        *at_point(params, data),
        saturated=flat,
        codes=hidden.T > 0.5,
        canonical_codes=signals(canonical(params), *data, NET).activations[1].T > 0.5,
    )


@partial(quickly_compiled, level=1)
def _end_points(params: Params, data: Data) -> EndPoints:
    # Not in batches of 256: on two busy cores, jaxlib 0.10 then waits for ever in XLA's pool of threads.
    return lax.map(lambda one: _end_point(one, data), params)


def end_points(params: Params, data: Data) -> EndPoints:
    """Cost, gradient, Hessian and saturation of members, computed in float64."""
    params, data = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, data))
    return jax.tree.map(np.asarray, _end_points(params, data))


def kinds(ends: EndPoints, time: float) -> np.ndarray:
    """What each end point is, as an index into `KINDS`, for members trained for ``time`` = step size × steps.

    In as much time again, at its present speed, a network on the way lowers its cost by time ‖∇J‖²: more than 1 % of
    it, and it is **still descending**. Else it is at a **saddle** where a perturbation would grow e-fold in that time,
    λ < −1 / time for some eigenvalue of the Hessian; at a **local minimum** where all eigenvalues are positive and the
    minimum of the quadratic model is near, at most 1 % of ‖θ‖ away; and else on a **plateau**.
    """
    point = ends.point
    lowest = point.eigenvalues[:, 0]
    tests = [
        ends.cost < SOLVED,
        time * point.gradient_norm**2 > 0.01 * ends.cost,
        lowest < -1 / time,
        (lowest > point.tolerance) & (point.displacement < 0.01),
        ends.saturated,
    ]
    return np.select(tests, range(len(tests)), len(tests))


def on_level(cost: np.ndarray) -> np.ndarray:
    """The level of XOR that each cost lies on, as an index into `LEVELS`; −1 for none."""
    away = np.abs(cost[:, None] - np.array(list(LEVELS.values())))
    return np.where(away.min(axis=1) < NEAR, away.argmin(axis=1), -1)


def words(codes: np.ndarray) -> np.ndarray:
    """What each hidden unit says yes to as one integer, example i as bit i: (members, hidden)."""
    return codes @ (1 << np.arange(codes.shape[-1]))


def types(ends: EndPoints) -> tuple[int, int]:
    """How many kinds of network there are, by what the hidden units say yes to: as they are, and modulo symmetries."""
    raw, canonical = words(ends.codes), np.sort(words(ends.canonical_codes), axis=1)
    return len(np.unique(raw, axis=0)), len(np.unique(canonical, axis=0))


class Stationary(NamedTuple):
    """Stationary points found: parameters as vectors (points, P), their costs and kinds, and how many searches."""

    theta: np.ndarray
    cost: np.ndarray
    point: StationaryPoint
    searches: int


def stationary_points(key: Array, searches: int, hidden: int, data: Data, steps: int = 150) -> Stationary:
    """Finite stationary points of the cost with an error, by Newton's method on ∇J = 0 from random weights.

    (H² + μ I) d = −H ∇J, damped until ‖∇J‖ falls: Levenberg-Marquardt on ‖∇J‖², which finds minima, saddles and
    maxima alike. Needs 64-bit mode.
    """
    data = Data(*(array.astype(jnp.float64) for array in data))
    sizes = (data.x.shape[1], hidden, data.y.shape[1])
    template = jaxnet.init(key, sizes, dtype=jnp.float64)
    theta, unravel = ravel_pytree(template)

    def gradient(theta: Array) -> Array:
        return ravel_pytree(jaxnet.backprop(unravel(theta), *data, NET)[1])[0]

    def search(start: Array) -> tuple[Array, Array, StationaryPoint]:
        def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            theta, damping = state
            g, H = gradient(theta), curvature.hessian(unravel(theta), *data, NET)
            tried = theta + jnp.linalg.solve(H @ H + damping * jnp.eye(theta.size), -H @ g)
            taken = jnp.sum(gradient(tried) ** 2) < jnp.sum(g**2)
            damping = jnp.clip(damping * jnp.where(taken, 0.2, 4.0), 1e-30, 1e3)
            return (jnp.where(taken, tried, theta), damping), None

        (theta, _), _ = lax.scan(step, (start, jnp.asarray(1e-3)), None, length=steps)
        found = unravel(theta)
        return theta, jaxnet.cost(found, *data, NET), curvature.is_minimum(found, *data, NET)

    starts = 2 * jax.random.normal(key, (searches, theta.size), jnp.float64)
    theta, cost, point = jax.tree.map(np.asarray, quickly_compiled(jax.vmap(search), level=1)(starts))
    largest = np.abs(theta).max(axis=1)
    # Beyond, saturated units make every gradient vanish, and no search could tell.
    kept = point.stationary & (cost > SOLVED) & (largest < 10) & (point.gradient_norm < 1e-10)
    theta, cost, point = jax.tree.map(lambda leaf: leaf[kept], (theta, cost, point))
    return Stationary(theta, cost, point, searches)
