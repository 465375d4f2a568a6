"""Diagonals of curvature matrices, exact, from one number per example and unit.

A weight multiplies an activation, aᵢ = Σⱼ Wᵢⱼ hⱼ, so ∂²ℓ/∂Wᵢⱼ² = (∂²ℓ/∂aᵢ²) hⱼ²: the diagonal over all parameters is
that over pre-activations, q, contracted with h², (q)ᵀ(h²), exactly as the gradient is δᵀh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxnet._numeric import add_up
from jaxnet.backprop import add_penalty, backward_pass, contract, in_structure_of
from jaxnet.curvature.passes import (
    Passes,
    backward_along,
    forward_along,
    loss_curvature,
    output_delta_along,
    run,
    second_derivative,
)
from jaxnet.network import Layer, Network, Params

__all__ = ["ggn_diagonal", "hessian_diagonal", "trace"]


def ggn_diagonal(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The diagonal of the generalised Gauss-Newton matrix, exact, in the structure of params.

    qˡ = Σₖₘ Dₖˡ Mₖₘ Dₘˡ,  Dₖ = ∂aᴸₖ/∂a,  M = ∂²ℓ/∂aᴸ² of Gauss-Newton;  (qˡ)ᵀ (hˡ⁻¹)²        Dangel et al. 2020

    One backward pass for each output, together; they take (outputs, n, units) of memory. Arguments and errors as for
    `jaxnet.curvature.ggn_vp`, which multiplies by the whole matrix.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> diagonal = jaxnet.curvature.ggn_diagonal(params, *jaxnet.data.xor())
    >>> all(bool((leaf >= 0).all()) for leaf in jax.tree.leaves(diagonal))
    True
    """
    passes = run(params, x, y, net, weights)
    return _over_parameters(passes, _through_outputs(passes, loss_curvature))


def hessian_diagonal(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Any:
    """The diagonal of the Hessian of the cost, exact, in the structure of params.

    The Hessian of a loss by aˡ is Σ Jᵀ S J over the places m ≥ l where something bends: the loss at the end, S = M,
    and every hidden layer, S = diag(s″(aᵐ) ⊙ δᵐ⁺¹Wᵐ⁺¹), with J = ∂aᵐ/∂aˡ. Its diagonal q, contracted with h², is the
    answer. Arguments and errors as for `jaxnet.curvature.hvp`.

    The cost is one backward pass for each output, a product with W² for each hidden layer, and one backward pass for
    each unit of the third and later hidden layers: networks of up to two pay little more than for `ggn_diagonal`.
    Hidden layers whose activation is not elementwise (softmax) take a product like `hvp` for each unit instead.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.xor()
    >>> diagonal = jaxnet.curvature.hessian_diagonal(params, x, y)
    >>> bool(jnp.allclose(diagonal[1].weight[0, 0], jaxnet.curvature.hessian(params, x, y)[9, 9]))
    True
    """
    passes = run(params, x, y, net, weights)
    if not net.hidden.elementwise and len(params) > 1:
        return _over_parameters(passes, _one_unit_at_a_time(passes))
    q = _through_outputs(passes, output_delta_along)
    for m in range(1, len(params)):
        q = [total + term for total, term in zip(q, _bends_at(passes, m), strict=True)]
    return _over_parameters(passes, q)


def trace(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Array:
    """The trace of the Hessian of the cost, exact: the sum of `hessian_diagonal`, at its cost.

    Arguments and errors as for `jaxnet.curvature.hvp`. Where the network is deep and wide, `trace_estimate` is cheaper.
    """
    diagonal = hessian_diagonal(params, x, y, net, weights)
    return add_up([jnp.sum(leaf) for leaf in jax.tree.leaves(diagonal)])


def output_cotangents(passes: Passes) -> tuple[Array, ...]:
    """D: the derivatives of every logit by every pre-activation, one backward pass each; (outputs, n, units)."""
    n, outputs = passes.logits.shape
    basis = jnp.broadcast_to(jnp.eye(outputs, dtype=passes.logits.dtype)[:, None], (outputs, n, outputs))
    return jax.vmap(lambda last: backward_pass(passes.params, passes.activations, last, passes.net.hidden))(basis)


def times_curvature(passes: Passes, curvature: Callable[[Passes, Array], Array], cotangents: Array) -> Array:
    """M D: a curvature of the loss by the logits applied to the outputs' axis of D; (outputs, n, units)."""
    return jax.vmap(lambda d: curvature(passes, d.T).T, in_axes=2, out_axes=2)(cotangents)


def _through_outputs(passes: Passes, curvature: Callable[[Passes, Array], Array]) -> list[Array]:
    """The diagonal of Dᵀ M D by the pre-activations of every layer, (n, units) each."""
    return [jnp.sum(d * times_curvature(passes, curvature, d), axis=0) for d in output_cotangents(passes)]


def _bends_at(passes: Passes, m: int) -> list[Array]:
    """What the bend of hidden layer m, t = s″(aᵐ) ⊙ δᵐ⁺¹Wᵐ⁺¹, adds to q of every layer: Σₖ tₖ (∂aᵐₖ/∂aˡ)².

    t itself at l = m, s′² ⊙ t (Wᵐ)² at l = m − 1, and below that one backward pass for each unit k of layer m.
    """
    params, activations, hidden = passes.params, passes.activations, passes.net.hidden
    h = activations[m]
    t = second_derivative(hidden)(h, passes.deltas[m] @ params[m].weight, jnp.ones_like(h))
    q = [jnp.zeros_like(delta) for delta in passes.deltas]
    q[m - 1] = t
    if m > 1:
        slopes = hidden.times_derivative(activations[m - 1], jnp.ones_like(activations[m - 1]))
        q[m - 2] = slopes**2 * (t @ params[m - 1].weight ** 2)
    if m > 2:
        below, inputs = params[: m - 1], activations[:m]

        def add_unit(totals: list[Array], unit: tuple[Array, Array]) -> tuple[list[Array], None]:
            row, bend = unit
            last = hidden.times_derivative(inputs[-1], jnp.broadcast_to(row, inputs[-1].shape))
            deltas = backward_pass(below, inputs, last, hidden)[:-1]
            return [total + bend[:, None] * d**2 for total, d in zip(totals, deltas, strict=True)], None

        q[: m - 2], _ = lax.scan(add_unit, q[: m - 2], (params[m - 1].weight, t.T))
    return q


def _one_unit_at_a_time(passes: Passes) -> list[Array]:
    """The diagonals ∂δᵢ/∂aᵢ for any activation: R{δᵢ} as the bias of unit i moves."""
    params, net = passes.params, passes.net
    still = jax.tree.map(jnp.zeros_like, list(params))

    def bent(l: int, bias: Array) -> Array:
        v = [*still[:l], Layer(still[l].weight, bias), *still[l + 1 :]]
        pre_activations, _ = forward_along(params, v, passes.activations, net.hidden)
        last_delta = output_delta_along(passes, pre_activations[-1])
        return backward_along(passes, v, pre_activations, last_delta)[l] @ bias

    return [
        lax.map(lambda bias, l=l: bent(l, bias), jnp.eye(len(layer.bias), dtype=layer.bias.dtype)).T
        for l, layer in enumerate(params)
    ]


def _over_parameters(passes: Passes, q: list[Array]) -> Any:
    """The diagonal over parameters, (q)ᵀ(h²) and Σ q, from that over pre-activations; and the penalty's l2."""
    squares = tuple(h**2 for h in passes.activations)
    layers = contract(squares, tuple(q))
    ones = [Layer(jnp.ones_like(layer.weight), layer.bias) for layer in passes.params]
    return in_structure_of(passes.params, add_penalty(passes.net, layers, ones))
