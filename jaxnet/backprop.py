"""The two passes: forward leaves the activations of every layer, backward leaves the deltas.

Every gradient in the library is a contraction of what these two passes leave. The letters are the lecture's: x an
example, y its target, h an activation, a a pre-activation, W and b the weight and bias of a layer, s an activation
function, ℓ the loss of one example, δ = ∂ℓ/∂a a delta; layers are numbered from h⁰ = x to hᴸ = ŷ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxnet._numeric import portions
from jaxnet._products import COLUMNS, ROWS, SUMS, Layout, as_columns, in_columns, sum_of_squares
from jaxnet._sharding import summed_as
from jaxnet._validate import check_batch, check_x
from jaxnet.activations import Activation
from jaxnet.network import Layer, Network, Params, check_network

__all__ = [
    "Signals",
    "autodiff",
    "backprop",
    "cost",
    "forward",
    "forward_with_backprop",
    "input_gradient",
    "signals",
]


class Signals(NamedTuple):
    """What the two passes leave, for each example.

    ``activations``: h⁰ = x, h¹, ..., hᴸ = ŷ, each (..., units); L + 1 of them, so that ``activations[l]`` is the
    input of layer l. ``deltas``: δ¹, ..., δᴸ, each (..., units), the derivative of each example's loss with respect
    to the layer's pre-activations; L of them.
    """

    activations: tuple[Array, ...]
    deltas: tuple[Array, ...]


# ----------------------------------------------------------------------------------------------------------------------
# The passes


def forward_pass(
    params: Params, x: Array, hidden: Activation, output: Activation, layout: Layout = ROWS
) -> tuple[tuple[Array, ...], Array]:
    """Activations of every layer, the input first, and the logits aᴸ.

    h⁰ = x;  aˡ = hˡ⁻¹ Wˡᵀ + bˡ;  hˡ = s(aˡ)
    """
    activations, a = [x], x
    functions = [hidden] * (len(params) - 1) + [output]
    for layer, s, products in zip(params, functions, layout.layers(len(params)), strict=True):
        a = products.weigh(activations[-1], layer.weight)
        a = a + jnp.broadcast_to(layer.bias, a.shape)
        activations.append(s(a))
    return tuple(activations), a


def output_delta(net: Network, outputs: Array, logits: Array, y: Array, factors: Array | float = 1.0) -> Array:
    """δᴸ = ∂ℓ/∂aᴸ times factors: the loss's own derivative where it takes logits, else that times s′(aᴸ)."""
    if net.loss.link is not None:
        return net.loss.derivative(logits, y) * factors
    # The factors before s′: XLA computes δ anew for the sum over the examples where they come last.
    return net.output.times_derivative(outputs, net.loss.derivative(outputs, y) * factors)


def backward_pass(
    params: Params,
    activations: tuple[Array, ...],
    last_delta: Array,
    hidden: Activation,
    layout: Layout = ROWS,
) -> tuple[Array, ...]:
    """Deltas of every layer, the first layer first, from back to front.

    δˡ = (δˡ⁺¹ Wˡ⁺¹) ⊙ s′(aˡ)        Rumelhart, Hinton & Williams 1986
    """
    deltas = [last_delta]
    for layer, h in zip(reversed(params[1:]), reversed(activations[1:-1]), strict=True):
        deltas.append(hidden.times_derivative(h, layout.others.carry_back(deltas[-1], layer.weight)))
    return tuple(reversed(deltas))


def both_passes(
    params: Params, x: Array, y: Array, net: Network, factors: Array | float = 1.0, layout: Layout | None = None
) -> tuple[Array, Signals, Layout]:
    """The losses (n,) of rows of examples, and what the passes leave in a layout, the fastest if None, which comes too.

    Each example's deltas are times its factor, of (n,), or one for all. The activations begin with x, as it came.
    """
    if layout is None:
        layout = COLUMNS if as_columns(params, len(x)) else ROWS
    if layout is COLUMNS:
        params = [Layer(layer.weight, layer.bias[:, None]) for layer in params]
        y, net = y.T, in_columns(net.hidden, net.output, net.loss)
    if isinstance(factors, Array):
        factors = jnp.expand_dims(factors, layout.others.units)
    activations, logits = forward_pass(params, x, net.hidden, net.output, layout)
    last_delta = output_delta(net, activations[-1], logits, y, factors)
    deltas = backward_pass(params, activations, last_delta, net.hidden, layout)
    return losses_of(net, activations[-1], logits, y), Signals(activations, deltas), layout


def contract(activations: tuple[Array, ...], deltas: tuple[Array, ...], layout: Layout = ROWS) -> list[Layer]:
    """The gradient of each layer summed over the examples: δˡᵀ hˡ⁻¹ and Σ δˡ."""
    return [
        Layer(weight=products.outer(delta, h), bias=products.total(delta))
        for h, delta, products in zip(activations[:-1], deltas, layout.layers(len(deltas)), strict=True)
    ]


def add_penalty(net: Network, layers: list[Layer], v: Params) -> list[Layer]:
    """Add l2 V to the weights: the gradient of the penalty where v is the parameters, its Hessian times v for any v."""
    if not net.penalised:
        return layers
    return [
        Layer(layer.weight + jnp.asarray(net.l2, layer.weight.dtype) * along.weight, layer.bias)
        for layer, along in zip(layers, v, strict=True)
    ]


def in_structure_of(params: Params, gradients: list[Layer]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(gradients))


# ----------------------------------------------------------------------------------------------------------------------
# Outputs and cost


def forward(params: Params, x: ArrayLike, net: Network = Network()) -> Array:
    """The network's outputs ŷ for inputs x: (..., inputs) to (..., outputs).

    ŷ = s(W h), h = s₁(V x), and so on for more layers, with the bias as weight of a constant 1.

    Raises
    ------
    TypeError, ValueError
        If x does not fit the first layer, or anything is not of one floating dtype.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="zeros")
    >>> jaxnet.forward(params, jnp.ones((4, 2))).shape
    (4, 1)
    """
    check_network(net)
    x = check_x(params, x)
    activations, _ = forward_pass(params, x, net.hidden, net.output)
    return activations[-1]


def cost(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Array:
    """The cost J, a scalar: the mean loss over the examples plus the penalty.

    J = Σᵢ wᵢ ℓᵢ / Σᵢ wᵢ + l2/2 · Σ W²

    Parameters
    ----------
    params
        A tuple of layers.
    x, y
        Inputs (n, inputs) and targets (n, outputs). Any leading axes, or none, stand for the n examples.
    net
        Activations, loss and l2.
    weights
        One weight wᵢ ≥ 0 for each example, (n,); 1 if None. Only their ratios matter, as long as their sum is finite
        (in float32, for half precision): doubling one is the same as repeating its example. Where all are zero, so
        that no example counts, the mean is taken as 0.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit. Nothing is broadcast: y of shape (n,) against outputs (n, 1) is an error.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 2, 1), scheme="zeros")
    >>> x, y = jaxnet.data.xor()
    >>> float(jaxnet.cost(params, x, y))
    0.25
    """
    check_network(net)
    x, y, weights = check_batch(params, x, y, weights)
    activations, logits = forward_pass(params, x, net.hidden, net.output)
    return cost_of(params, losses_of(net, activations[-1], logits, y), shares_of(x, weights), net)


def losses_of(net: Network, outputs: Array, logits: Array, y: Array) -> Array:
    return net.loss.value(outputs if net.loss.link is None else logits, y)


def shares_of(x: Array, weights: Array | None) -> Array | float:
    """The share of each example in the mean: wᵢ / Σ w, or 1/n; 0 where Σ w is 0."""
    if weights is None:
        return 1 / math.prod(x.shape[:-1])
    return portions(weights)


def _sum_of_squares(weight: Array) -> Array:
    return jnp.sum(weight**2)


def cost_of(
    params: Params,
    losses: Array,
    shares: Array | float,
    net: Network,
    squares_of: Callable[[Array], Array] = _sum_of_squares,
) -> Array:
    mean = jnp.sum(losses * shares)
    if not net.penalised:
        return mean
    squares = sum(squares_of(layer.weight) for layer in params)
    return mean + jnp.asarray(net.l2, mean.dtype) / 2 * squares


# ----------------------------------------------------------------------------------------------------------------------
# Gradients, by hand


def signals(params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network()) -> Signals:
    """What the two passes leave for each example: activations of every layer, and deltas δ = ∂ℓ/∂a.

    Shapes, and errors, as for `cost`. The gradient of the mean loss is δᵀh / n layer by layer:

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.xor()
    >>> h, delta = jaxnet.signals(params, x, y)
    >>> _, grads = jaxnet.backprop(params, x, y)
    >>> bool(jnp.allclose(grads[1].weight, delta[1].T @ h[1] / 4))
    True
    """
    check_network(net)
    x, y, _ = check_batch(params, x, y)
    activations, logits = forward_pass(params, x, net.hidden, net.output)
    last_delta = output_delta(net, activations[-1], logits, y)
    return Signals(activations, backward_pass(params, activations, last_delta, net.hidden))


def backprop(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> tuple[Array, Any]:
    """The cost and its gradient, by hand: ``(cost, grads)``, grads in the structure of params.

    ∂J/∂Wˡ = Σᵢ (wᵢ / Σ w) δᵢˡ hᵢˡ⁻¹ᵀ + l2 Wˡ and ∂J/∂bˡ = Σᵢ (wᵢ / Σ w) δᵢˡ: two passes and one contraction a layer.
    Parameters and errors are those of `cost`; `autodiff` is the same by automatic differentiation. It is plain JAX:
    it can be compiled, mapped over, and differentiated again.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.xor()
    >>> value, grads = jax.jit(jaxnet.backprop)(params, x, y)
    >>> [layer.weight.shape for layer in grads]
    [(3, 2), (1, 3)]
    """
    return _gradient(params, x, y, net, weights)


def backprop_as_sums(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> tuple[Array, Any]:
    """`backprop` of few examples, within one function."""
    return _gradient(params, x, y, net, weights, SUMS)


def _gradient(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network, weights: ArrayLike | None, layout: Layout | None = None
) -> tuple[Array, Any]:
    check_network(net)
    x, y, weights = check_batch(params, x, y, weights)
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    shares = shares_of(x, None if weights is None else weights.ravel())
    # Scaling the last delta scales every other one, because the backward pass is linear.
    losses, found, layout = both_passes(params, x, y, net, shares, layout)
    gradients = add_penalty(net, contract(*found, layout), params)
    value = cost_of(params, losses, shares, net, sum_of_squares if layout is SUMS else _sum_of_squares)
    return value, in_structure_of(params, gradients)


def input_gradient(params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network()) -> Array:
    """The gradient of each example's loss with respect to its input, ∂ℓᵢ/∂xᵢ = δᵢ¹ W¹: of the shape of x.

    Shapes, and errors, as for `cost`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> jaxnet.input_gradient(params, *jaxnet.data.xor()).shape
    (4, 2)
    """
    return signals(params, x, y, net).deltas[0] @ params[0].weight


def forward_with_backprop(params: Params, x: ArrayLike, net: Network = Network()) -> Array:
    """`forward`, as one piece of a larger program that JAX differentiates: our backward pass runs inside it.

    Same arguments, result and errors as `forward`. Works under jit, vmap and repeated reverse differentiation. Forward
    differentiation (``jax.jvp``) is an error, as for any ``jax.custom_vjp``: use `forward` there.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> def entropy(params, x):
    ...     p = jaxnet.forward_with_backprop(params, x)
    ...     return -jnp.sum(p * jnp.log(p))
    >>> jax.grad(entropy)(params, jnp.ones((4, 2)))[0].weight.shape
    (3, 2)
    """
    check_network(net)
    return _outputs(net.hidden, net.output, params, check_x(params, x))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _outputs(hidden: Activation, output: Activation, params: Params, x: Array) -> Array:
    return forward_pass(params, x, hidden, output)[0][-1]


def _outputs_forward(hidden: Activation, output: Activation, params: Params, x: Array) -> tuple[Array, Any]:
    activations, _ = forward_pass(params, x, hidden, output)
    return activations[-1], (params, activations)


def _outputs_backward(hidden: Activation, output: Activation, saved: Any, outputs_bar: Array) -> Any:
    params, activations = saved
    last_delta = output.times_derivative(activations[-1], outputs_bar)
    deltas = backward_pass(params, activations, last_delta, hidden)
    cotangents = in_structure_of(params, contract(activations, deltas)), deltas[0] @ params[0].weight
    return jax.tree.map(summed_as, cotangents, (params, activations[0]))


_outputs.defvjp(_outputs_forward, _outputs_backward)


# ----------------------------------------------------------------------------------------------------------------------
# The referee


def autodiff(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> tuple[Array, Any]:
    """The cost and its gradient by ``jax.value_and_grad`` of `cost`: the referee of `backprop`, same arguments."""
    return jax.value_and_grad(cost)(params, x, y, net, weights)
