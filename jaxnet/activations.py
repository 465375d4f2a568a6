"""Activations h = s(a), each with its two derivatives written by hand.

The derivatives are functions of the activation h alone, as in the lecture's s′(a) = h(1 − h). So a forward pass
needs to keep nothing but the activations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array, lax

__all__ = ["Activation", "identity", "relu", "sigmoid", "softmax", "softplus", "tanh"]


@dataclass(frozen=True)
class Activation:
    """A function h = s(a) from pre-activations (..., units) to activations (..., units), and its derivatives.

    Parameters
    ----------
    name
        What error messages and figures call it.
    value
        ``a -> h``.
    times_derivative
        ``(h, v) -> J v``, with J = ∂h/∂a of one example and v of the shape of h. J must be symmetric: diagonal
        for a function that acts on each unit by itself, and for softmax J = diag(h) − h hᵀ. So the same product
        carries a derivative back to the pre-activations (Jᵀv) and a direction forward (Jv).
    times_second_derivative
        ``(h, c, v) -> (Σₖ cₖ ∂²hₖ/∂a²) v``, symmetric in c and v, which have the shape of h; s″(a) ⊙ c ⊙ v for a
        function that acts on each unit by itself. Only curvature needs it; None where there is none to give.
    elementwise
        Whether it acts on each unit by itself, so that J is diagonal. Softmax does not.

    An activation is called like a function. One of your own needs a derivative that can be written in terms of h:

    >>> import jax.numpy as jnp
    >>> square_root = Activation("square root", jnp.sqrt, lambda h, v: v / (2 * h))
    >>> square_root(jnp.array([4.0, 9.0]))
    Array([2., 3.], dtype=float32)
    """

    name: str
    value: Callable[[Array], Array] = field(repr=False)
    times_derivative: Callable[[Array, Array], Array] = field(repr=False)
    times_second_derivative: Callable[[Array, Array, Array], Array] | None = field(default=None, repr=False)
    elementwise: bool = field(default=True, repr=False)

    def __call__(self, a: Array) -> Array:
        """The activations h = s(a)."""
        return self.value(a)


# Values and derivatives are functions of this module, so that activations can be pickled and compared.


def _sigmoid(a: Array) -> Array:
    return lax.logistic(a)


def _sigmoid_times_derivative(h: Array, v: Array) -> Array:
    return v * (h * (1 - h))


def _sigmoid_times_second_derivative(h: Array, c: Array, v: Array) -> Array:
    return c * v * (h * (1 - h) * (1 - 2 * h))


sigmoid = Activation("sigmoid", _sigmoid, _sigmoid_times_derivative, _sigmoid_times_second_derivative)
"""The logistic function h = 1 / (1 + e⁻ᵃ), with h′ = h(1 − h) and h″ = h(1 − h)(1 − 2h)."""


def _tanh(a: Array) -> Array:
    return lax.tanh(a)


def _tanh_times_derivative(h: Array, v: Array) -> Array:
    return v * ((1 - h) * (1 + h))


def _tanh_times_second_derivative(h: Array, c: Array, v: Array) -> Array:
    return c * v * (-2 * h * ((1 - h) * (1 + h)))


tanh = Activation("tanh", _tanh, _tanh_times_derivative, _tanh_times_second_derivative)
"""h = tanh a, with h′ = 1 − h² = (1 − h)(1 + h) and h″ = −2h h′: the product keeps its digits where h is near ±1."""


def _relu(a: Array) -> Array:
    return jnp.maximum(a, 0)


def _relu_times_derivative(h: Array, v: Array) -> Array:
    return jnp.where(h > 0, v, jnp.zeros_like(v))


def _no_curvature(h: Array, _c: Array, _v: Array) -> Array:
    return jnp.zeros_like(h)


relu = Activation("relu", _relu, _relu_times_derivative, _no_curvature)
"""h = max(a, 0), with h′ = 1 where a > 0 and 0 elsewhere; 0 at the kink a = 0, as in ``jax.nn.relu``; h″ = 0."""


def _softplus(a: Array) -> Array:
    return jax.nn.softplus(a)


def _softplus_times_derivative(h: Array, v: Array) -> Array:
    return v * -jnp.expm1(-h)


def _softplus_times_second_derivative(h: Array, c: Array, v: Array) -> Array:
    return c * v * (-jnp.expm1(-h) * jnp.exp(-h))


softplus = Activation("softplus", _softplus, _softplus_times_derivative, _softplus_times_second_derivative)
"""h = log(1 + eᵃ), with h′ = 1 / (1 + e⁻ᵃ) = 1 − e⁻ʰ and h″ = (1 − e⁻ʰ) e⁻ʰ."""


def _identity(a: Array) -> Array:
    return a


def _identity_times_derivative(_: Array, v: Array) -> Array:
    return v


identity = Activation("identity", _identity, _identity_times_derivative, _no_curvature)
"""h = a, with h′ = 1: a linear layer."""


def _softmax(a: Array) -> Array:
    return jax.nn.softmax(a)


def _softmax_times_derivative(h: Array, v: Array) -> Array:
    return h * (v - jnp.sum(h * v, axis=-1, keepdims=True))


def _softmax_times_second_derivative(h: Array, c: Array, v: Array) -> Array:
    along = _softmax_times_derivative(h, v)
    return along * (c - jnp.sum(h * c, axis=-1, keepdims=True)) - h * jnp.sum(along * c, axis=-1, keepdims=True)


softmax = Activation(
    "softmax", _softmax, _softmax_times_derivative, _softmax_times_second_derivative, elementwise=False
)
"""hⱼ = e^(aⱼ) / Σₖ e^(aₖ) over the units of a layer, with ∂hⱼ/∂aₖ = hⱼ(δⱼₖ − hₖ).

The second derivative is that of J(h) c = h ⊙ (c − ⟨h, c⟩) along ḣ = J(h) v: ḣ ⊙ (c − ⟨h, c⟩) − h⟨ḣ, c⟩.
"""
