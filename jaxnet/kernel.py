"""The empirical neural tangent kernel, from activations and deltas, without a Jacobian.

Θ(x, x′) = (∂ŷ/∂θ)(∂ŷ′/∂θ)ᵀ, one matrix of outputs by outputs for each pair of examples. A weight's derivative is
Dᵢ hⱼ, with D the deltas of every output, so a layer's part is (h·h′ + 1)(D D′ᵀ): two small products instead of one
over all parameters.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxnet._numeric import add_up
from jaxnet._sharding import everywhere, rows_as
from jaxnet._validate import check_x, checked_array, checked_count
from jaxnet.backprop import backward_pass, contract, forward_pass
from jaxnet.curvature.passes import forward_along
from jaxnet.network import Network, Params, check_network

__all__ = ["empirical_ntk", "ntk_vp"]

Derivatives = tuple[tuple[Array, ...], tuple[Array, ...]]
"""Of every layer, its inputs h, (n, inputs), and D, ∂ŷ by its pre-activations, (n, outputs, units)."""


def empirical_ntk(
    params: Params,
    x1: ArrayLike,
    x2: ArrayLike | None = None,
    net: Network = Network(),
    *,
    outputs: str = "full",
    block_size: int | None = None,
) -> Array:
    """The empirical neural tangent kernel of `jaxnet.forward`.

    Θᵢⱼ = Σˡ (hᵢˡ⁻¹·hⱼˡ⁻¹ + 1) Dᵢˡ Dⱼˡᵀ,  Dˡ = ∂ŷ/∂aˡ (outputs, units)        Jacot, Gabriel & Hongler 2018

    Parameters
    ----------
    params
        A tuple of layers.
    x1, x2
        Inputs (n1, inputs) and (n2, inputs); x2 is x1 if None.
    net
        Activations; the loss and l2 do not matter. For the kernel of logits, use the output `identity`.
    outputs
        ``"full"``: every pair of outputs, (n1, n2, outputs, outputs). ``"diagonal"``: each with itself, (n1, n2,
        outputs). ``"trace"``: the sum of the diagonal, (n1, n2), for a small part of the work.
    block_size
        Take so many rows of x1 at a time, which bounds what is held beside the result: (n2, outputs, units) for x2,
        and a layer's part of so many rows of the result. All at once if None.

    Raises
    ------
    TypeError, ValueError
        If x1 or x2 are not matrices that fit the parameters, or an option is not one of those above.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, _ = jaxnet.data.xor()
    >>> jaxnet.kernel.empirical_ntk(params, x).shape
    (4, 4, 1, 1)
    """
    check_network(net)
    x1 = _checked_matrix("x1", params, x1)
    contractions = {"full": partial(_full, elementwise=net.output.elementwise), "diagonal": _diagonal, "trace": _trace}
    if not isinstance(outputs, str) or outputs not in contractions:
        raise ValueError(f"outputs is {outputs!r}, expected one of {', '.join(sorted(contractions))}")
    x2 = x1 if x2 is None else _checked_matrix("x2", params, x2)
    derivatives = _derivatives(params, x2, net)
    right = jax.tree.map(everywhere, derivatives)

    def rows(x: Array) -> Array:
        left = derivatives if x is x2 else _derivatives(params, x, net)
        return contractions[outputs](left, right)

    if block_size is None:
        return rows(x1)
    whole = len(x1) // checked_count("block_size", block_size, least=1) * block_size
    x1 = everywhere(x1)
    blocks = x1[:whole].reshape(-1, block_size, x1.shape[1])
    parts = lax.map(rows, blocks)
    parts = parts.reshape(whole, *parts.shape[2:])
    return parts if whole == len(x1) else jnp.concatenate([parts, rows(x1[whole:])])


def ntk_vp(params: Params, x1: ArrayLike, v: ArrayLike, x2: ArrayLike | None = None, net: Network = Network()) -> Array:
    """The empirical neural tangent kernel times v, without forming either: Σⱼ Θᵢⱼ vⱼ, (n1, outputs).

    J₁ (J₂ᵀ v): one backward pass from v on x2 gives a direction of the parameters; one forward pass along it, on x1.

    Parameters
    ----------
    params, x1, x2, net
        As for `empirical_ntk`.
    v
        (n2, outputs).

    Raises
    ------
    TypeError, ValueError
        As for `empirical_ntk`, or if v does not fit x2 and the outputs.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> x, y = jaxnet.data.xor()
    >>> theta = jaxnet.kernel.empirical_ntk(params, x, outputs="trace")
    >>> bool(jnp.allclose(ntk_vp(params, x, y), theta @ y, rtol=1e-5))
    True
    """
    check_network(net)
    x1 = _checked_matrix("x1", params, x1)
    x2 = x1 if x2 is None else _checked_matrix("x2", params, x2)
    v = checked_array("v", v, (len(x2), len(params[-1].bias)), params[0].weight)
    activations, _ = forward_pass(params, x2, net.hidden, net.output)
    deltas = backward_pass(params, activations, net.output.times_derivative(activations[-1], v), net.hidden)
    direction = contract(activations, deltas)
    if x1 is not x2:
        activations, _ = forward_pass(params, x1, net.hidden, net.output)
    pre_activations, _ = forward_along(params, direction, activations, net.hidden)
    return net.output.times_derivative(activations[-1], pre_activations[-1])


def _checked_matrix(name: str, params: Params, x: ArrayLike) -> Array:
    try:
        x = check_x(params, x)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if x.ndim != 2:
        raise ValueError(f"{name} has shape {x.shape}, expected (n, inputs)")
    return x


def _derivatives(params: Params, x: Array, net: Network) -> Derivatives:
    """Both passes, with one backward pass for each output, all of them together."""
    activations, logits = forward_pass(params, x, net.hidden, net.output)
    n, outputs = logits.shape

    def along(output_bar: Array) -> Array:
        return net.output.times_derivative(activations[-1], jnp.broadcast_to(output_bar, (n, outputs)))

    last_delta = jax.vmap(along, out_axes=1)(jnp.eye(outputs, dtype=logits.dtype))
    for_each = tuple(jnp.broadcast_to(h[:, None], (n, outputs, h.shape[1])) for h in activations)
    return activations[:-1], backward_pass(params, for_each, last_delta, net.hidden)


def _full(left: Derivatives, right: Derivatives, elementwise: bool) -> Array:
    *layers, (h, last, g, last2) = zip(*left, *right, strict=True)
    if elementwise:  # the last D are diagonal
        slopes, slopes2 = (jnp.diagonal(d, axis1=1, axis2=2) for d in (last, last2))
        identity = jnp.eye(last.shape[1], dtype=last.dtype)
        products = slopes[:, :, None, None] * slopes2[None, None] * identity[None, :, None, :]
    else:
        products = _products(last, last2)
    parts = [products * (h @ g.T + 1)[:, None, :, None]]
    parts += [_products(d, e) * (h @ g.T + 1)[:, None, :, None] for h, d, g, e in layers]
    return jnp.swapaxes(add_up(parts), 1, 2)


def _products(d: Array, e: Array) -> Array:
    """D D′ᵀ of all pairs, (n1, outputs, n2, outputs), as one matrix product, which is faster than einsum's."""
    products = d.reshape(-1, d.shape[2]) @ e.reshape(-1, e.shape[2]).T
    return jnp.reshape(products, (*d.shape[:2], *e.shape[:2]), out_sharding=rows_as(d))


def _diagonal(left: Derivatives, right: Derivatives) -> Array:
    parts = [
        jnp.einsum("iku,jku->ijk", d, e) * (h @ g.T + 1)[:, :, None] for h, d, g, e in zip(*left, *right, strict=True)
    ]
    return add_up(parts)


def _trace(left: Derivatives, right: Derivatives) -> Array:
    parts = [jnp.einsum("iku,jku->ij", d, e) * (h @ g.T + 1) for h, d, g, e in zip(*left, *right, strict=True)]
    return add_up(parts)
