"""Each example's gradient: whole, its norm, and its products with others."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxnet._numeric import add_up, in_range, total_length
from jaxnet._products import weigh
from jaxnet._sharding import everywhere
from jaxnet._validate import describe
from jaxnet.backprop import Signals, add_penalty, in_structure_of, signals
from jaxnet.network import Layer, Network, Params
from jaxnet.per_example._layers import each_layer, layer_norms, mean_gradient, passes, total_norms

__all__ = ["cosine_to_mean", "dot_products", "gradients", "norms"]


def gradients(params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network()) -> Any:
    """The gradient gᵢ of every example, materialised: the structure of params, with the examples as first axis.

    δᵢ hᵢᵀ + l2 W for a weight, (n, units, inputs), and δᵢ for a bias, (n, units). This takes n times the memory of the
    parameters; everything else in `jaxnet.per_example` does without. Shapes, and errors, as for `jaxnet.cost`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> [layer.weight.shape for layer in jaxnet.per_example.gradients(params, *jaxnet.data.xor())]
    [(4, 3, 2), (4, 1, 3)]
    """
    found = signals(params, x, y, net)
    layers = []
    for layer, h, delta in zip(params, found.activations[:-1], found.deltas, strict=True):
        weight = delta[..., :, None] * h[..., None, :]
        if net.penalised:
            weight += jnp.broadcast_to(jnp.asarray(net.l2, weight.dtype) * layer.weight, weight.shape)
        layers.append(Layer(weight, delta))
    return in_structure_of(params, layers)


def norms(params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network()) -> Array:
    """The norm of each example's gradient, over all parameters: (n,).

    ‖gᵢ‖² = Σˡ ‖δᵢˡ‖² (‖hᵢˡ⁻¹‖² + 1)        Goodfellow 2015

    and with a penalty, of each layer also 2 l2 δᵢᵀ W hᵢ + l2² ‖W‖². It costs less than a gradient: two passes, and no
    contraction. Half precision is summed in float32. Infinite where ‖h‖² is beyond the dtype's range, but where δ is
    zero. Shapes, and errors, as for `jaxnet.cost`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="zeros")
    >>> jaxnet.per_example.norms(params, *jaxnet.data.xor())  # δ = ±1/4, and h = ½ of three units
    Array([0.3307189, 0.3307189, 0.3307189, 0.3307189], dtype=float32)
    """
    found, _, layout = passes(params, x, y, net)
    lengths = total_norms(layer_norms(params, found, net, layout))
    return lengths.astype(found.deltas[0].dtype).reshape(jnp.shape(x)[:-1])


def dot_products(
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    net: Network = Network(),
    other: tuple[ArrayLike, ArrayLike] | None = None,
) -> Array:
    """The inner products gᵢ · gⱼ of the examples' gradients: (n, n), or (n, m) with m ``other`` examples.

    Kᵢⱼ = Σˡ (δᵢ · δⱼ) (hᵢ · hⱼ + 1)

    and with a penalty, of each layer also l2 (δᵢᵀ W hᵢ + δⱼᵀ W hⱼ) + l2² ‖W‖². A step of gradient descent on example j
    changes the loss of example i by −learning_rate · Kᵢⱼ, to first order: influence by gradient similarity, which
    TracIn adds up over training (Pruthi et al. 2020).

    Parameters
    ----------
    params, x, y, net
        As for `jaxnet.cost`.
    other
        A second set ``(x, y)``, (m, inputs) and (m, outputs), such as test examples; ``(x, y)`` itself if None.

    Raises
    ------
    TypeError, ValueError
        As for `jaxnet.cost`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.xor()
    >>> jaxnet.per_example.dot_products(params, x, y, other=(x[:1], y[:1])).shape
    (4, 1)
    """
    one = signals(params, x, y, net)
    two = jax.tree.map(everywhere, one if other is None else _signals_of_other(params, other, net))
    parts = []
    for layer, h, delta, h2, delta2 in zip(
        params, one.activations[:-1], one.deltas, two.activations[:-1], two.deltas, strict=True
    ):
        part = _products(delta, delta2) * (_products(h, h2) + 1)
        if net.penalised:
            l2 = jnp.asarray(net.l2, part.dtype)
            rows, columns = (jnp.sum(d * weigh(a, layer.weight), axis=-1) for a, d in ((h, delta), (h2, delta2)))
            part += l2 * (_broadcast_sum(rows, columns)) + l2**2 * jnp.sum(layer.weight**2)
        parts.append(part)
    return add_up(parts)


def _signals_of_other(params: Params, other: Any, net: Network) -> Signals:
    if not isinstance(other, (tuple, list)) or len(other) != 2:
        came = f"{describe(other)} of {len(other)}" if isinstance(other, (tuple, list)) else describe(other)
        raise TypeError(f"other is {came}, expected a second set (x, y)")
    x, y = other
    try:
        return signals(params, x, y, net)
    except (TypeError, ValueError) as error:
        raise type(error)(f"other: {error}") from None


def _products(a: Array, b: Array) -> Array:
    """Inner products over the last axis: (..., k), (,,, k) to (..., ,,,)."""
    return jnp.tensordot(a, b, axes=(a.ndim - 1, b.ndim - 1))


def _broadcast_sum(rows: Array, columns: Array) -> Array:
    shape = (*rows.shape, *columns.shape)
    return jnp.broadcast_to(rows.reshape(*rows.shape, *[1] * columns.ndim), shape) + jnp.broadcast_to(columns, shape)


def cosine_to_mean(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Array:
    """The cosine between each example's gradient and the gradient of the cost: (n,), from −1 to 1.

    cᵢ = gᵢ · g / (‖gᵢ‖ ‖g‖),  gᵢ · g = Σˡ δᵢᵀ (G hᵢ + g_b) + l2 W · G,  G and g_b those of `jaxnet.backprop`

    A negative one says that the step of the batch makes this example worse. 0 where either gradient is zero.
    Parameters, and errors, as for `jaxnet.cost`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.xor()
    >>> jaxnet.per_example.cosine_to_mean(params, x[:1], y[:1])
    Array([1.], dtype=float32)
    """
    found, shares, layout = passes(params, x, y, net, weights)
    mean = add_penalty(net, mean_gradient(found, shares, layout), params)
    size = in_range(total_length(mean))
    # Of unit length, so that half precision has room for the products.
    unit = jax.tree.map(lambda g: (g.astype(size.dtype) / size).astype(g.dtype), mean)
    along = []
    for (layer, h, delta, products), g in zip(each_layer(params, found, layout), unit, strict=True):
        product = jnp.sum(delta * products.weigh(h, g.weight), axis=products.units)
        product += jnp.squeeze(layout.others.weigh(delta, g.bias[None]), products.units)
        if net.penalised:
            product += jnp.asarray(net.l2, product.dtype) * jnp.sum(layer.weight * g.weight)
        along.append(product)
    lengths = total_norms(layer_norms(params, found, net, layout))
    cosines = jnp.where(lengths > 0, add_up(along).astype(lengths.dtype) / jnp.where(lengths > 0, lengths, 1), 0)
    return jnp.clip(cosines, -1, 1).astype(found.deltas[0].dtype).reshape(jnp.shape(x)[:-1])
