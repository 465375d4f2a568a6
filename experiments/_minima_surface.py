"""The cost surface around a network and between two: slices and straight paths, in float64."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxnet
from experiments._minima_census import NET
from experiments._minima_symmetries import match
from experiments.common import quickly_compiled
from jaxnet.data import Data
from jaxnet.network import Params


def _filter_normalised(key: Array, params: Params) -> tuple[jaxnet.Layer, ...]:
    """A random direction whose row of weights and bias is, for every unit, as long as the unit's own.

    Li, Xu, Taylor, Studer & Goldstein 2018, with the bias as one more weight
    """
    matrices = jaxnet.to_augmented(params)
    rows = [
        jax.random.normal(own, matrix.shape, matrix.dtype)
        for own, matrix in zip(jax.random.split(key, len(matrices)), matrices, strict=True)
    ]

    def norms(matrix: Array) -> Array:
        return jnp.linalg.norm(matrix, axis=1, keepdims=True)

    return jaxnet.from_augmented(row * norms(matrix) / norms(row) for row, matrix in zip(rows, matrices, strict=True))


@partial(quickly_compiled, level=1, static_argnames="points")
def cost_slice(key: Array, params: Params, data: Data, *, reach: float, points: int) -> tuple[Array, Array]:
    """Costs (points, points) at θ + s d + t e, for filter-normalised directions d, e and s, t within ± reach; and s."""
    d, e = (_filter_normalised(own, params) for own in jax.random.split(key))
    along = jnp.linspace(-reach, reach, points, dtype=params[0].weight.dtype)

    def cost(t: Array, s: Array) -> Array:
        return jaxnet.cost(jax.tree.map(lambda p, d, e: p + s * d + t * e, params, d, e), *data, NET)

    return jax.vmap(lambda t: jax.vmap(partial(cost, t))(along))(along), along


@partial(quickly_compiled, level=1, static_argnames="points")
def _costs_between(start: Params, end: Params, data: Data, points: int) -> Array:
    def cost(t: Array, start: Params, end: Params) -> Array:
        return jaxnet.cost(jax.tree.map(lambda a, b: (1 - t) * a + t * b, start, end), *data, NET)

    along = jnp.linspace(0, 1, points, dtype=data.x.dtype)
    return jax.vmap(lambda start, end: jax.vmap(lambda t: cost(t, start, end))(along))(start, end)


class Paths(NamedTuple):
    """Costs on straight paths between pairs of networks, (pairs, points), before and after matching the first to it."""

    before: np.ndarray
    after: np.ndarray

    @property
    def barriers(self) -> tuple[np.ndarray, np.ndarray]:
        """How far each path rises above its higher end, before and after."""
        before, after = (costs.max(axis=1) - np.maximum(costs[:, 0], costs[:, -1]) for costs in self)
        return before, after


def paths(params: Params, data: Data, points: int = 41) -> Paths:
    """Straight paths from each member of the first half to one of the second half."""
    params, data = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, data))
    pairs = len(params[0].bias) // 2
    start, end = (
        jax.tree.map(lambda leaf, part=part: leaf[part], params) for part in (slice(0, pairs), slice(pairs, 2 * pairs))
    )
    matched = [match(*(jax.tree.map(lambda leaf, i=i: leaf[i], one) for one in (start, end))) for i in range(pairs)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *matched)
    return Paths(*(np.asarray(_costs_between(first, end, data, points)) for first in (start, stacked)))
