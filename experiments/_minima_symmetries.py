"""The symmetries of a network with one hidden layer of logistic units: what changes its weights but not its outputs.

Hidden units may change places. And one unit's weights may change their signs: since h(−a) = 1 − h(a),
w h(a) = w − w h(−a), so v, b and w are negated and w moves into the output's bias. With h = ½ + ½ tanh(a / 2) the
outputs' pre-activations are c + W ½ tanh(a / 2), and the **centred bias** c = bias + W ½ is the same before and after.
So in the coordinates (v, b, w) of every unit and c, a symmetry is a permutation with signs: 2^h h! of them for h hidden
units (Sussmann 1992; for tanh, Chen, Lu & Hecht-Nielsen 1993). Functions take one network, of JAX's or NumPy's arrays;
`jax.vmap` maps them.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import linear_sum_assignment

from jaxnet.network import Layer, Params


def coordinates(params: Params) -> tuple[Array, Array]:
    """The hidden units, each as its row (v, b, w), (hidden, inputs + 1 + outputs), and the centred bias (outputs,)."""
    V, W = params
    rows = V.weight.__array_namespace__().concat([V.weight, V.bias[:, None], W.weight.T], axis=1)
    return rows, W.bias + W.weight.sum(axis=1) / 2


def network(rows: Any, centred: Any) -> tuple[Layer, ...]:
    """The network of these coordinates."""
    outputs = len(centred)
    v, b, w = rows[:, : -outputs - 1], rows[:, -outputs - 1], rows[:, -outputs:].T
    return Layer(v, b), Layer(w, centred - w.sum(axis=1) / 2)


def canonical(params: Params) -> tuple[Layer, ...]:
    """The one of all equivalent networks whose units have outgoing weights w > 0 (to the first output), rising.

    Units whose w is zero are not told apart.
    """
    rows, centred = coordinates(params)
    w = rows[:, -len(centred)]
    rows = jnp.where(w[:, None] < 0, -rows, rows)
    return network(rows[jnp.argsort(jnp.abs(w))], centred)


def match(params: Params, other: Params) -> tuple[Layer, ...]:
    """The network equivalent to ``params`` that lies nearest to ``other``: exactly, as an assignment problem.

    A unit costs its distance to the place it takes, with the better of the two signs (Ainsworth et al. 2023).
    """
    (rows, centred), (places, _) = coordinates(params), coordinates(other)
    products = rows @ places.T  # ‖r − p‖² is least, with signs, where |r·p| is largest
    unit, place = linear_sum_assignment(-np.abs(products))
    signs = np.where(products[unit, place] < 0, -1, 1).astype(rows.dtype)
    matched = np.empty_like(rows)
    matched[place] = signs[:, None] * rows[unit]
    return network(matched, centred)
