"""The gradients of a chunk of networks at once: the two passes of `jaxnet.backprop`, with products for each layout.

Stacked, weights are (m, units, inputs), biases (m, units, 1), activations and deltas (m, units, n), or without m where
all members share them: batched matrix products, each in the orientation that XLA's products on a CPU are fastest in.
Mapping the products of a single network over the members takes up to twice as long there; elsewhere that is what the
loop does, because XLA's choice among the kernels of a GPU suits that orientation better.

With the members last, weights are (units, inputs, m), biases (units, m), activations and deltas (n, units, m), or with
1 in the place of m: sums over units written out. Every operation then runs along the members, whatever the size of a
layer; a product of 2 × 2 matrices fills a vector register with as many members as it holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet._numeric import add_up, portions
from jaxnet._one_function import apart
from jaxnet._products import AS_COLUMNS, Layout, Products, in_columns
from jaxnet.activations import identity, softmax
from jaxnet.backprop import backward_pass, contract, forward_pass, losses_of, output_delta
from jaxnet.losses import softmax_cross_entropy
from jaxnet.network import Layer, Network

# ----------------------------------------------------------------------------------------------------------------------
# The products


def _total_stacked(delta: Array) -> Array:
    # XLA sums over the last axis one number at a time, its products do not.
    return delta @ jnp.ones(delta.shape[-1], delta.dtype)


def _weigh_members_last(h: Array, weight: Array) -> Array:
    return add_up([h[:, i, None, :] * weight[None, :, i, :] for i in range(h.shape[1])])


def _carry_back_members_last(delta: Array, weight: Array) -> Array:
    return add_up([delta[:, k, None, :] * weight[None, k, :, :] for k in range(delta.shape[1])])


def _outer_members_last(delta: Array, h: Array) -> Array:
    return add_up([delta[i, :, None, :] * h[i, None, :, :] for i in range(len(delta))])


def _total_members_last(delta: Array) -> Array:
    return add_up(list(delta))


class _Form(NamedTuple):
    """How arrays lie."""

    products: Products
    example: int  # the axis of examples in activations and deltas
    of_one: tuple[int, int]  # the axes of one member's weight


_STACKED = _Form(AS_COLUMNS._replace(total=_total_stacked), -1, (1, 2))
_MEMBERS_LAST = _Form(
    Products(_weigh_members_last, _carry_back_members_last, _outer_members_last, _total_members_last, -2, -2), 0, (0, 1)
)


# ----------------------------------------------------------------------------------------------------------------------
# Activations and losses: units lie on the last axis but one


def _softmax_cross_entropy(a: Array, y: Array) -> Array:
    # Along the axis of units where it lies. For the loss mapped over the members, as other functions are, XLA lays the
    # units last, and takes one number at a time: that took up to ten times as long as all the rest.
    return -add_up(list(jnp.moveaxis(y * jax.nn.log_softmax(a, axis=-2), -2, 0)))


def _softmax_cross_entropy_derivative(a: Array, y: Array) -> Array:
    return jax.nn.softmax(a, axis=-2) * jnp.sum(y, axis=-2, keepdims=True) - y


def _functions(net: Network, members_last: bool) -> Network:
    own = in_columns(net.hidden, net.output, net.loss)
    if not members_last or net.loss != softmax_cross_entropy:
        return own
    loss = replace(own.loss, value=_softmax_cross_entropy, derivative=_softmax_cross_entropy_derivative)
    return replace(own, loss=loss)


# ----------------------------------------------------------------------------------------------------------------------
# The gradients


def _laid_out(members_last: bool, params: Any, batch: tuple[Array, ...], own: tuple[bool, ...]) -> Any:
    """Parameters and a batch as the products take them: ``(params, x, y, weights or None)``."""
    if members_last:
        batch = tuple(array if own else array[..., None] for array, own in zip(batch, own, strict=True))
    else:
        params = [Layer(layer.weight, layer.bias[..., None]) for layer in params]
        batch = (*(jnp.swapaxes(array, -1, -2) for array in batch[:2]), *(jnp.atleast_2d(array) for array in batch[2:]))
    return (params, *batch, *[None] * (3 - len(batch)))


def gradients(
    members_last: bool, params: Any, batch: tuple[Array, ...], own: tuple[bool, ...], net: Network, l2: Array | None
) -> tuple[Array, Any]:
    """Costs (m,) and gradients of the members, as `jaxnet.backprop` computes them for one.

    x (n, inputs), y (n, outputs) and weights (n,) of the batch have an axis of members, the first or the last, where
    ``own`` says so; l2 is (m,), () or None.
    """
    products, example, of_one = _MEMBERS_LAST if members_last else _STACKED
    layout = Layout(products, products)
    softmaxes = softmax in (net.output, net.loss.link)
    net = _functions(net, members_last)
    layers, x, y, weights = _laid_out(members_last, params, batch, own)
    activations, logits = forward_pass(layers, x, net.hidden, identity, layout)
    y = jnp.broadcast_to(y, logits.shape)

    def of_outputs(logits: Array, y: Array) -> tuple[Array, Array]:
        outputs = net.output(logits)
        return output_delta(net, outputs, logits, y), losses_of(net, outputs, logits, y)

    # With softmax, every output depends on all logits, which XLA would compute anew for each of them.
    last_delta, losses = apart(of_outputs, logits, y) if members_last and softmaxes else of_outputs(logits, y)
    if weights is None:
        weights = jnp.ones((len(x), 1) if members_last else (1, x.shape[-1]), x.dtype)
    shares = portions(weights, example)
    deltas = backward_pass(layers, activations, last_delta * jnp.expand_dims(shares, -2), net.hidden, layout)
    grads = contract(activations, deltas, layout)
    costs = products.total(losses * shares)
    if l2 is not None:
        costs = costs + l2 / 2 * add_up([jnp.sum(layer.weight**2, axis=of_one) for layer in params])
        l2 = jnp.expand_dims(l2, of_one) if l2.ndim else l2
        grads = [Layer(g.weight + l2 * layer.weight, g.bias) for g, layer in zip(grads, params, strict=True)]
    return costs, jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(grads))
