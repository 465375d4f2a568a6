"""The products of the two passes, in the two ways to lay out examples: as rows, and as columns.

As rows, activations and deltas are (..., units), as in everything that is public here. As columns, they are (units, n),
as in the lecture's h = s(Vx). Both give the same; which is faster depends on sizes, and XLA.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from threading import Lock
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxnet._one_function import apart
from jaxnet._sharding import summed_matmul, summed_product
from jaxnet.activations import Activation, identity
from jaxnet.losses import Loss
from jaxnet.network import Network, Params


class Products(NamedTuple):
    """The products of a layer in the passes, for one way to lay out its arrays."""

    weigh: Callable[[Array, Array], Array]  # h, W -> h Wᵀ
    carry_back: Callable[[Array, Array], Array]  # δ, W -> δ W
    outer: Callable[[Array, Array], Array]  # δ, h -> δᵀ h, summed over the examples
    total: Callable[[Array], Array]  # δ -> Σ δ, summed over the examples
    inputs: int  # the axis of inputs in h
    units: int  # the axis of units in δ


class Layout(NamedTuple):
    """How activations and deltas lie: the products of the first layer, whose h is x, and of the others."""

    first: Products
    others: Products

    def layers(self, number: int) -> list[Products]:
        """The products of so many layers, from the first on."""
        return [self.first, *[self.others] * (number - 1)][:number]


# ----------------------------------------------------------------------------------------------------------------------
# Examples as rows

# The two products with a transpose, h Wᵀ and δᵀ h. XLA's products on a CPU are fast where neither operand has to be
# transposed first, or only the smaller one; so for a narrow layer, or few examples, they are taken the other way
# round: units first. The barriers keep XLA from turning them back. Measured by benchmarks/gradients.py: down to 0.2
# of the time of a whole step for a single example, 0.6 to 1 for more.

_FEW = 48
"""Units of a narrow layer, or examples of a small batch."""

_TINY = 4
"""Numbers in a weight so small that XLA makes one loop of it all, which no barrier should part."""


def _units_first(units: int, inputs: int, examples: tuple[int, ...]) -> bool:
    few = min(units, math.prod(examples)) <= _FEW
    return jax.default_backend() == "cpu" and few and units * inputs > _TINY


def weigh(h: Array, weight: Array) -> Array:
    """The product h Wᵀ: (..., inputs), (units, inputs) to (..., units)."""
    if _units_first(len(weight), h.shape[-1], h.shape[:-1]):
        return jnp.moveaxis(lax.optimization_barrier(jnp.tensordot(weight, h, axes=(1, h.ndim - 1))), 0, -1)
    return h @ weight.T


def outer(delta: Array, h: Array) -> Array:
    """The product δᵀ h, summed over the examples: (..., units), (..., inputs) to (units, inputs)."""
    examples = tuple(range(h.ndim - 1))
    if _units_first(delta.shape[-1], h.shape[-1], h.shape[:-1]):
        turned = lax.optimization_barrier(jnp.moveaxis(delta, -1, 0))
        return summed_product(turned, h, (tuple(axis + 1 for axis in examples), examples))
    return summed_product(delta, h, (examples, examples))


def _carry_back(delta: Array, weight: Array) -> Array:
    return delta @ weight


def _total(delta: Array) -> Array:
    return jnp.sum(delta, axis=tuple(range(delta.ndim - 1)))


_AS_ROWS = Products(weigh, _carry_back, outer, _total, inputs=-1, units=-1)
ROWS = Layout(_AS_ROWS, _AS_ROWS)
"""Activations and deltas are (..., units), biases (units,)."""


# ----------------------------------------------------------------------------------------------------------------------
# Sums, for few examples in one function

# In one function, XLA makes a product a plain loop over numbers, but of a sum of few terms it makes a loop over
# vectors, whose factors stay in registers. So the products of few examples are sums: of outer products, over the
# examples or the units; and with wide weights over the inputs, each lane of a vector register with its share of them.
# Some are functions of their own, or XLA would compute them anew for everything that is made of them. A step of two to
# ten examples takes 0.2 to 0.95 of the time of XLA's products: 0.5 with four of 784-30-10, and 0.7 with ten.

_FEW_EXAMPLES = 10
"""Examples of a small batch, and outer products that are summed at once, so that their factors stay in registers."""

_VECTOR = 64
"""Bytes of a vector register."""

_TERMS = 8
"""Vectors of the inputs that are taken at once, so that they stay in registers."""

_WIDE = 128
"""Units of a layer that is wide for more than four examples."""

_NARROW = 5
"""A layer's inputs are few where they fill fewer vectors than that."""


def _pieces(total: int, most: int, add: Callable[[Array, Array | int, int], Array], start: Array) -> Array:
    """Add all terms to the start, as few at once as there have to be: ``add(sum, the first of them, their number)``."""
    size = -(-total // -(-total // most))
    loops, rest = divmod(total, size)
    summed = lax.fori_loop(0, loops, lambda i, summed: add(summed, i * size, size), start)
    return add(summed, loops * size, rest) if rest else summed


def _sum_of_outer(left: Array, right: Array) -> Array:
    """The sum over k of leftₖ rightₖᵀ: (k, n), (k, m) to (n, m)."""

    def add(summed: Array, first: Array | int, number: int) -> Array:
        parts = (lax.dynamic_slice_in_dim(array, first, number) for array in (left, right))
        for a, b in zip(*parts, strict=True):
            summed += a[:, None] * b[None]
        return summed

    return _pieces(len(left), _FEW_EXAMPLES, add, jnp.zeros((left.shape[1], right.shape[1]), left.dtype))


def _summed_weigh(h: Array, weight: Array) -> Array:
    lanes = _VECTOR // h.dtype.itemsize
    if h.shape[-1] < _NARROW * lanes:
        return _sum_of_outer(h.T, weight.T)
    return apart(partial(jnp.sum, axis=-1), apart(_weigh_in_lanes, h, weight))


def _weigh_in_lanes(h: Array, weight: Array) -> Array:
    """The last sum of h Wᵀ, over the lanes of a vector, is still to be taken: (n, units, lanes)."""
    lanes = _VECTOR // h.dtype.itemsize
    vectors, rest = divmod(h.shape[-1], lanes)

    def add(summed: Array, first: Array | int, number: int) -> Array:
        parts = (lax.dynamic_slice_in_dim(array, first * lanes, number * lanes, 1) for array in (h, weight))
        hs, weights = (part.reshape(len(part), number, lanes) for part in parts)
        for i in range(number):
            summed += hs[:, None, i] * weights[None, :, i]
        return summed

    start = jnp.zeros((len(h), len(weight), lanes), h.dtype)
    if rest:  # one more vector, which ends with the inputs, and begins with some that are in the others
        last = jnp.where(jnp.arange(lanes)[None] < lanes - rest, 0, h[:, -lanes:])
        start = last[:, None] * weight[None, :, -lanes:]
    return _pieces(vectors, _TERMS, add, start)


_AS_SUMS = Products(
    _summed_weigh,
    lambda delta, weight: apart(lambda delta, weight: _sum_of_outer(delta.T, weight), delta, weight),
    _sum_of_outer,
    _total,
    inputs=-1,
    units=-1,
)
SUMS = Layout(_AS_SUMS, _AS_SUMS)
"""Activations and deltas are (n, units), biases (units,)."""


def sum_of_squares(weight: Array) -> Array:
    """The sum of all squares, by rows first: in one function, a long sum is taken one number at a time."""
    return apart(jnp.sum, apart(lambda weight: jnp.sum(weight**2, axis=0), weight))


def as_sums(params: Params, n: int, least: int = 2) -> bool:
    """Whether the products of n examples, at least so many, take less time as sums in one function than as XLA's.

    Each unit of each example has the lanes of a vector to sum, which wide layers feel; in float64 a vector holds half.
    """
    dtype, widest = params[0].weight.dtype, max(len(layer.weight) for layer in params)
    numbers = n * sum(layer.weight.size + layer.bias.size for layer in params)
    single = dtype == jnp.float32
    if n == 1:
        most = 2**17 if single else 0
    else:
        few = 2 if not single else _FEW_EXAMPLES if widest <= _WIDE else 4
        most = 2**20 if n <= few else 10_000
    return n >= least and 1000 < numbers <= most and dtype in (jnp.float32, jnp.float64)


# ----------------------------------------------------------------------------------------------------------------------
# Examples as columns

# With columns, no product of the passes needs a transposed copy of activations or deltas, neither its time nor its
# memory. Only the weights of narrow layers, which are small, and of many networks at once are transposed by themselves:
# XLA's product would take longer over that, up to four times.


def _carry_back_columns(delta: Array, weight: Array) -> Array:
    turned = jnp.swapaxes(weight, -1, -2)
    if weight.ndim > 2 or len(weight) <= _FEW:
        turned = lax.optimization_barrier(turned)
    return turned @ delta


def _outer_columns(delta: Array, h: Array) -> Array:
    return summed_matmul(delta, jnp.swapaxes(h, -1, -2))


def _total_columns(delta: Array) -> Array:
    return jnp.sum(delta, axis=-1)


AS_COLUMNS = Products(
    lambda h, weight: weight @ h, _carry_back_columns, _outer_columns, _total_columns, inputs=-2, units=-2
)
"""Activations and deltas are (units, n), biases (units, 1); each with an axis of networks before it, or not."""

COLUMNS = Layout(AS_COLUMNS._replace(weigh=lambda x, weight: weight @ x.T, outer=summed_matmul, inputs=-1), AS_COLUMNS)
"""The same, of inputs that stay as they come, (n, inputs): XLA would make a transposed copy of them."""


def as_columns(params: Params, n: int) -> bool:
    """Whether n examples go through the passes as columns: on a CPU, if they are many for this network.

    Carrying back takes a transposed weight, which pays where there are more examples than units, or few units. Measured
    by benchmarks/gradients.py: 0.4 to 1.1 of the time of the same with examples as rows, mostly 0.6 to 0.9.
    """
    few = 32 if any(layer.weight.size > _TINY for layer in params) else 128
    carries = all(len(layer.weight) <= max(_FEW, n // 2) for layer in params[1:])
    return jax.default_backend() == "cpu" and n >= few and carries


def _over_last_axis(f: Callable[..., Array]) -> Callable[..., Array]:
    return jax.vmap(f, in_axes=-1, out_axes=-1)


_ONE_AT_A_TIME = Lock()
"""Two threads that ask for one activation at once would each get another."""


@lru_cache
def _activation_in_columns(s: Activation) -> Activation:
    if s == identity:  # which any loss of logits may follow
        return s
    return replace(s, value=_over_last_axis(s.value), times_derivative=_over_last_axis(s.times_derivative))


@lru_cache
def in_columns(hidden: Activation, output: Activation, loss: Loss) -> Network:
    """A network's functions for examples in the last axis; where there are two more, the functions see both."""
    with _ONE_AT_A_TIME:
        loss = replace(
            loss,
            value=_over_last_axis(loss.value),
            derivative=_over_last_axis(loss.derivative),
            link=loss.link and _activation_in_columns(loss.link),
        )
        return Network(_activation_in_columns(hidden), _activation_in_columns(output), loss)
