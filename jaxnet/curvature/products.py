"""Products of a curvature matrix with one direction, at the cost of a few gradients: nothing of size P × P is formed.

Each is linear in the direction, so an *operator* runs the two passes once and then takes any number of directions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxnet._products import weigh
from jaxnet._validate import check_direction, check_x
from jaxnet.backprop import add_penalty, backward_pass, contract, in_structure_of, signals
from jaxnet.curvature.passes import backward_along, forward_along, loss_curvature, output_delta_along, run
from jaxnet.network import Layer, Network, Params

__all__ = ["empirical_fisher_vp", "fisher_vp", "ggn_operator", "ggn_vp", "hessian_operator", "hvp"]

Operator = Callable[[Any], Any]
"""``v -> matrix · v``, both in the structure of the parameters."""


def hvp(
    params: Params, x: ArrayLike, y: ArrayLike, v: Params, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The Hessian of the cost times v, exact, for less than three gradients: R{∂J/∂W}, in the structure of params.

    R{∂J/∂Wˡ} = Σᵢ (wᵢ / Σ w) (R{δᵢˡ} hᵢˡ⁻¹ᵀ + δᵢˡ R{hᵢˡ⁻¹}ᵀ) + l2 Vˡ        Pearlmutter 1994

    Parameters
    ----------
    params, x, y, net, weights
        As for `jaxnet.cost`, of which this is a second derivative.
    v
        The direction: a tuple of layers like params.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or structures do not fit, or if an activation or the loss has no second derivative.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.xor()
    >>> along = jaxnet.curvature.hvp(params, x, y, params)
    >>> [layer.weight.shape for layer in along]
    [(3, 2), (1, 3)]
    """
    return hessian_operator(params, x, y, net, weights)(v)


def ggn_vp(
    params: Params, x: ArrayLike, y: ArrayLike, v: Params, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The generalised Gauss-Newton matrix of the cost times v, in the structure of params.

    G = Σᵢ (wᵢ / Σ w) Jᵢᵀ (∂²ℓ/∂z²) Jᵢ + l2, Jᵢ = ∂zᵢ/∂θ        Schraudolph 2002

    where z is what the loss takes: the logits for the cross-entropies, the outputs ŷ for squared error. G is positive
    semidefinite, and is the Hessian without the curvature of the network itself. Arguments and errors as for `hvp`;
    the hidden activations need no second derivative.
    """
    return ggn_operator(params, x, y, net, weights)(v)


def fisher_vp(
    params: Params, x: ArrayLike, v: Params, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The Fisher information of the network's own predictions times v, in the structure of params.

    F = Σᵢ (wᵢ / Σ w) E[∇ log p(y | xᵢ) ∇ log p(y | xᵢ)ᵀ] + l2,  y ~ p(y | xᵢ) = e^(−ℓ(zᵢ, y)) / Z        Amari 1998

    No targets: they are drawn from the network, which says a Gaussian of variance ½ around ŷ for squared error,
    independent yes or no for cross-entropy, one class for softmax cross-entropy. For these three losses F is the
    Gauss-Newton matrix with targets that sum to one (Martens 2020), and so it is computed; l2 is the information of
    the penalty as a Gaussian prior. Arguments and errors as for `hvp`.
    """
    x, outputs = check_x(params, x), params[-1].weight.shape[0]
    y = jnp.full((*x.shape[:-1], outputs), 1 / outputs, x.dtype)  # any that sum to one
    return ggn_vp(params, x, y, v, net, weights)


def empirical_fisher_vp(
    params: Params, x: ArrayLike, y: ArrayLike, v: Params, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The uncentred covariance of the examples' gradients times v: Σᵢ (wᵢ / Σ w) gᵢ gᵢᵀ v + l2 v.

    The slope of each loss along v is gᵢ·v = Σˡ δᵢˡ·(Vˡ hᵢˡ⁻¹ + vˡ), so no gᵢ is formed. It stands in for `fisher_vp`
    in some of the literature, though it is neither that nor the Hessian (Kunstner, Hennig & Balles 2019). gᵢ is the
    gradient of the loss without the penalty. Arguments and errors as for `hvp`.
    """
    passes = run(params, x, y, net, weights)
    check_direction("v", v, params)
    _, deltas = signals(params, passes.activations[0], passes.y, net)
    slopes = jnp.zeros((len(passes.y), 1), passes.y.dtype)
    for h, delta, along in zip(passes.activations, deltas, v, strict=False):
        slopes += jnp.sum((weigh(h, along.weight) + along.bias[None]) * delta, axis=-1, keepdims=True)
    deltas = tuple(delta * slopes for delta in passes.deltas)
    return in_structure_of(params, add_penalty(net, contract(passes.activations, deltas), v))


def hessian_operator(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Operator:
    """``v -> hvp(params, x, y, v, net, weights)``, with the passes run once for all directions."""
    passes = run(params, x, y, net, weights)

    def operator(v: Params) -> Any:
        check_direction("v", v, params)
        pre_activations, moved = forward_along(params, v, passes.activations, net.hidden)
        last_delta = output_delta_along(passes, pre_activations[-1])
        deltas = backward_along(passes, v, pre_activations, last_delta)
        first, *rest = contract(passes.activations, deltas)  # R{h⁰} = 0
        through = contract((*moved, passes.activations[-1]), passes.deltas[1:])
        layers = [first, *(Layer(a.weight + b.weight, a.bias) for a, b in zip(rest, through, strict=True))]
        return in_structure_of(params, add_penalty(net, layers, v))

    return operator


def ggn_operator(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Operator:
    """``v -> ggn_vp(params, x, y, v, net, weights)``, with the forward pass run once for all directions."""
    passes = run(params, x, y, net, weights)

    def operator(v: Params) -> Any:
        check_direction("v", v, params)
        pre_activations, _ = forward_along(params, v, passes.activations, net.hidden)
        last_delta = loss_curvature(passes, pre_activations[-1])
        deltas = backward_pass(params, passes.activations, last_delta, net.hidden)
        return in_structure_of(params, add_penalty(net, contract(passes.activations, deltas), v))

    return operator
