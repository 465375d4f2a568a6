"""Losses of one example, each with its two derivatives written by hand.

A loss is a function of z and the target y. Squared error takes z = ŷ, the outputs. The cross-entropies take the
**logits**, the pre-activations of the output layer, because log s(a) computed from s(a) is −∞ as soon as s(a) rounds
to 0, while computed from a it is finite and right at any a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet.activations import Activation, sigmoid, softmax

__all__ = ["Loss", "cross_entropy", "softmax_cross_entropy", "squared_error"]


@dataclass(frozen=True)
class Loss:
    """The loss ℓ(z, y) of one example, summed over its outputs, with ∂ℓ/∂z and ∂²ℓ/∂z².

    Parameters
    ----------
    name
        What error messages and figures call it.
    value
        ``(z, y) -> ℓ``: (..., outputs), (..., outputs) to (...).
    derivative
        ``(z, y) -> ∂ℓ/∂z``: (..., outputs).
    link
        None where z are the outputs ŷ, of any output activation. Otherwise z are the logits, and ``link`` is the
        activation that turns logits into outputs. A network with such a loss has either this activation as its
        output, or ``identity``: then its outputs are the logits themselves.
    times_second_derivative
        ``(z, y, v) -> (∂²ℓ/∂z²) v``: (..., outputs). Only curvature needs it; None where there is none to give.
    """

    name: str
    value: Callable[[Array, Array], Array] = field(repr=False)
    derivative: Callable[[Array, Array], Array] = field(repr=False)
    link: Activation | None = None
    times_second_derivative: Callable[[Array, Array, Array], Array] | None = field(default=None, repr=False)


# Values and derivatives are functions of this module, so that losses can be pickled and compared.


def _squared_error(z: Array, y: Array) -> Array:
    return jnp.sum((z - y) ** 2, axis=-1)


def _squared_error_derivative(z: Array, y: Array) -> Array:
    return 2 * (z - y)


def _squared_error_times_second_derivative(_z: Array, _y: Array, v: Array) -> Array:
    return 2 * v


squared_error = Loss(
    "squared_error",
    _squared_error,
    _squared_error_derivative,
    times_second_derivative=_squared_error_times_second_derivative,
)
"""ℓ = ‖ŷ − y‖², without a ½, with ∂ℓ/∂ŷ = 2(ŷ − y) and ∂²ℓ/∂ŷ² = 2 I."""


def _cross_entropy(a: Array, y: Array) -> Array:
    return jnp.sum(y * jax.nn.softplus(-a) + (1 - y) * jax.nn.softplus(a), axis=-1)


def _cross_entropy_derivative(a: Array, y: Array) -> Array:
    # This is s(a) − y, but without cancellation where an output is sure and right (y = 1 and s(a) near 1).
    return (1 - y) * sigmoid(a) - y * sigmoid(-a)


def _cross_entropy_times_second_derivative(a: Array, _y: Array, v: Array) -> Array:
    return v * (sigmoid(a) * sigmoid(-a))


cross_entropy = Loss(
    "cross_entropy", _cross_entropy, _cross_entropy_derivative, sigmoid, _cross_entropy_times_second_derivative
)
"""ℓ = −Σₖ yₖ log ŷₖ + (1 − yₖ) log(1 − ŷₖ), each output a yes or no by itself (multi-label), y in [0, 1].

On logits: −log s(a) = softplus(−a) and −log(1 − s(a)) = softplus(a), with ∂ℓ/∂a = s(a) − y and ∂²ℓ/∂a² = s(a) s(−a).
"""


def _softmax_cross_entropy(a: Array, y: Array) -> Array:
    # A product in the place of a sum: jaxlib 0.10 compiles a weighted sum of these sums, mapped over many networks that
    # share y, so that on a CPU networks get the losses of others.
    return -(y * jax.nn.log_softmax(a)) @ jnp.ones(a.shape[-1], a.dtype)


def _softmax_cross_entropy_derivative(a: Array, y: Array) -> Array:
    return softmax(a) * jnp.sum(y, axis=-1, keepdims=True) - y


def _softmax_cross_entropy_times_second_derivative(a: Array, y: Array, v: Array) -> Array:
    return softmax.times_derivative(softmax(a), v) * jnp.sum(y, axis=-1, keepdims=True)


softmax_cross_entropy = Loss(
    "softmax_cross_entropy",
    _softmax_cross_entropy,
    _softmax_cross_entropy_derivative,
    softmax,
    _softmax_cross_entropy_times_second_derivative,
)
"""ℓ = −Σₖ yₖ log ŷₖ, one class of several, y one-hot or a distribution over the classes.

On logits, with ∂ℓ/∂a = ŷ Σₖ yₖ − y, which is ŷ − y where the targets sum to one, and ∂²ℓ/∂a² = (diag ŷ − ŷ ŷᵀ) Σₖ yₖ.
"""
