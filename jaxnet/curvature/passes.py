"""The two passes differentiated along a direction of the parameters, by hand: Pearlmutter's R-operator.

R{·} is the derivative of a quantity as the parameters move along v, whose layers are (V, v). The letters are those of
`jaxnet.backprop`; every formula here is one of its formulas with the product rule applied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxnet._products import weigh
from jaxnet._validate import check_batch
from jaxnet.activations import Activation
from jaxnet.backprop import backward_pass, forward_pass, output_delta, shares_of
from jaxnet.losses import Loss
from jaxnet.network import Network, Params, check_network

__all__ = ["Passes", "backward_along", "forward_along", "loss_curvature", "output_delta_along", "run"]


class Passes(NamedTuple):
    """What curvature is taken of: a network, a batch, and what the two passes leave for its mean loss.

    ``activations``: those of `jaxnet.signals`, for examples in rows (n, units). ``deltas``: too, each example's times
    its share in the mean, so that sums over examples are means. ``logits``: aᴸ. ``shares``: (n, 1), or one number.
    """

    params: Params
    net: Network
    y: Array
    activations: tuple[Array, ...]
    logits: Array
    deltas: tuple[Array, ...]
    shares: Array | float


def run(params: Params, x: ArrayLike, y: ArrayLike, net: Network, weights: ArrayLike | None) -> Passes:
    """Check the arguments of a public function, and run both passes on its examples, flattened to rows."""
    check_network(net)
    x, y, weights = check_batch(params, x, y, weights)
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    shares = shares_of(x, None) if weights is None else shares_of(x, weights.reshape(-1, 1))
    activations, logits = forward_pass(params, x, net.hidden, net.output)
    last_delta = output_delta(net, activations[-1], logits, y) * shares
    deltas = backward_pass(params, activations, last_delta, net.hidden)
    return Passes(params, net, y, activations, logits, deltas, shares)


def second_derivative(of: Activation | Loss) -> Callable[..., Array]:
    """The second derivative of an activation or a loss; an error says where there is none."""
    if of.times_second_derivative is None:
        raise ValueError(f"{of!r} has no second derivative, which curvature needs; give it times_second_derivative")
    return of.times_second_derivative


def forward_along(
    params: Params, v: Params, activations: tuple[Array, ...], hidden: Activation
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """R{aˡ} of every layer, and R{hˡ} of the hidden ones; each (n, units).

    R{h⁰} = 0;  R{aˡ} = hˡ⁻¹ Vˡᵀ + vˡ + R{hˡ⁻¹} Wˡᵀ;  R{hˡ} = s′(aˡ) R{aˡ}        Pearlmutter 1994
    """
    pre_activations, moved = [], []
    for layer, along, h in zip(params, v, activations, strict=False):
        a = weigh(h, along.weight)
        a = a + jnp.broadcast_to(along.bias, a.shape)
        if pre_activations:
            moved.append(hidden.times_derivative(h, pre_activations[-1]))
            a = a + weigh(moved[-1], layer.weight)
        pre_activations.append(a)
    return tuple(pre_activations), tuple(moved)


def backward_along(
    passes: Passes, v: Params, pre_activations: tuple[Array, ...], last_delta: Array
) -> tuple[Array, ...]:
    """R{δˡ} of every layer, from back to front; ``last_delta`` is R{δᴸ}, ``pre_activations`` are R{aˡ}.

    R{δˡ} = s′(aˡ) (R{δˡ⁺¹} Wˡ⁺¹ + δˡ⁺¹ Vˡ⁺¹) + s″(aˡ) (δˡ⁺¹ Wˡ⁺¹) R{aˡ}        Pearlmutter 1994
    """
    params, hidden = passes.params, passes.net.hidden
    deltas = [last_delta]
    for l in reversed(range(1, len(params))):
        h, delta, weight = passes.activations[l], passes.deltas[l], params[l].weight
        moved = deltas[-1] @ weight + delta @ v[l].weight
        bent = second_derivative(hidden)(h, delta @ weight, pre_activations[l - 1])
        deltas.append(hidden.times_derivative(h, moved) + bent)
    return tuple(reversed(deltas))


def loss_curvature(passes: Passes, v: Array) -> Array:
    """The Gauss-Newton matrix of the mean loss as a function of the logits, times v: (n, outputs).

    (wᵢ / Σ w) Jᵀ (∂²ℓ/∂z²) J v, J = ∂z/∂aᴸ, where z is what the loss takes: the logits themselves, or the outputs ŷ.
    """
    net, outputs = passes.net, passes.activations[-1]
    curvature = second_derivative(net.loss)
    v = v * passes.shares
    if net.loss.link is not None:
        return curvature(passes.logits, passes.y, v)
    along = net.output.times_derivative(outputs, v)
    return net.output.times_derivative(outputs, curvature(outputs, passes.y, along))


def output_delta_along(passes: Passes, v: Array) -> Array:
    """R{δᴸ} where R{aᴸ} = v: the Hessian of the mean loss as a function of the logits, times v; (n, outputs)."""
    net, outputs = passes.net, passes.activations[-1]
    curved = loss_curvature(passes, v)
    if net.loss.link is not None:
        return curved
    output_bar = net.loss.derivative(outputs, passes.y) * passes.shares
    return curved + second_derivative(net.output)(outputs, output_bar, v)
