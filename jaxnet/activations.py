"""Activations h = s(a), each with its derivative written by hand.

The derivative is a function of the activation h alone, as in the lecture's s′(a) = h(1 − h). So a forward pass
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
    """A function h = s(a) from pre-activations (..., units) to activations (..., units), and its derivative.

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

    An activation is called like a function. One of your own needs a derivative that can be written in terms of h:

    >>> import jax.numpy as jnp
    >>> square_root = Activation("square root", jnp.sqrt, lambda h, v: v / (2 * h))
    >>> square_root(jnp.array([4.0, 9.0]))
    Array([2., 3.], dtype=float32)
    """

    name: str
    value: Callable[[Array], Array] = field(repr=False)
    times_derivative: Callable[[Array, Array], Array] = field(repr=False)

    def __call__(self, a: Array) -> Array:
        """The activations h = s(a)."""
        return self.value(a)


sigmoid = Activation("sigmoid", lax.logistic, lambda h, v: v * (h * (1 - h)))
"""The logistic function h = 1 / (1 + e⁻ᵃ), with h′ = h(1 − h)."""

tanh = Activation("tanh", jnp.tanh, lambda h, v: v * ((1 - h) * (1 + h)))
"""h = tanh a, with h′ = 1 − h² = (1 − h)(1 + h), the product because it keeps its digits where h is near ±1."""

relu = Activation("relu", lambda a: jnp.maximum(a, 0), lambda h, v: jnp.where(h > 0, v, jnp.zeros_like(v)))
"""h = max(a, 0), with h′ = 1 where a > 0 and 0 elsewhere; at the kink a = 0 it is 0, as in ``jax.nn.relu``."""

softplus = Activation("softplus", jax.nn.softplus, lambda h, v: v * -jnp.expm1(-h))
"""h = log(1 + eᵃ), with h′ = 1 / (1 + e⁻ᵃ) = 1 − e⁻ʰ."""

identity = Activation("identity", lambda a: a, lambda _, v: v)
"""h = a, with h′ = 1: a linear layer."""

softmax = Activation(
    "softmax",
    jax.nn.softmax,
    lambda h, v: h * (v - jnp.sum(h * v, axis=-1, keepdims=True)),
)
"""hⱼ = e^(aⱼ) / Σₖ e^(aₖ) over the units of a layer, with ∂hⱼ/∂aₖ = hⱼ(δⱼₖ − hₖ)."""
