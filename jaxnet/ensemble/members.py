"""Many networks at once: their parameters, and their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from jaxnet import network
from jaxnet._validate import as_array, check_key, check_params, check_x, checked_count, checked_dtype, describe
from jaxnet.backprop import forward_pass
from jaxnet.network import Layer, Network, Params, check_network

__all__ = ["forward", "init"]


def init(
    key: Array,
    members: int,
    sizes: Sequence[int],
    *,
    scheme: str = "lecun",
    scale: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
) -> tuple[Layer, ...]:
    """Parameters of many networks of one shape, drawn apart: a tuple of layers with a leading axis of members.

    Member k is ``jaxnet.init(jax.random.split(key, members)[k], sizes, ...)``.

    Parameters
    ----------
    key
        A typed key.
    members
        How many networks, at least 1.
    sizes, scheme, dtype
        As for `jaxnet.init`.
    scale
        A factor on all parameters: one number, or one for each member, (members,).

    Returns
    -------
    Layers of ``weight`` (members, units, inputs) and ``bias`` (members, units).

    Raises
    ------
    TypeError, ValueError
        As for `jaxnet.init`, and where scale is neither one number nor one for each member.

    >>> import jax
    >>> params = init(jax.random.key(0), 100, (2, 3, 1), scheme="normal", scale=jnp.linspace(0.1, 2.0, 100))
    >>> [layer.weight.shape for layer in params]
    [(100, 3, 2), (100, 1, 3)]
    """
    check_key(key)
    members = checked_count("members", members, least=1)
    scales = per_member("scale", scale, members, checked_dtype(dtype))

    def member(key: Array, scale: Array) -> tuple[Layer, ...]:
        return network.init(key, sizes, scheme=scheme, scale=scale, dtype=dtype)

    return jax.vmap(member, in_axes=(0, 0 if scales.ndim else None))(jax.random.split(key, members), scales)


def forward(params: Params, x: ArrayLike, net: Network = Network()) -> Array:
    """The outputs of every member.

    Parameters
    ----------
    params
        Layers with a leading axis of members.
    x
        Inputs that all members share, (inputs,) or (n, inputs); or of each member its own, (members, n, inputs).
    net
        Activations; the loss and l2 do not matter.

    Returns
    -------
    (members, outputs) or (members, n, outputs).

    Raises
    ------
    TypeError, ValueError
        If x does not fit the first layer, or params have no leading axis of members.

    >>> import jax
    >>> params = init(jax.random.key(0), 5, (2, 3, 1))
    >>> forward(params, jnp.ones((4, 2))).shape
    (5, 4, 1)
    """
    check_kind(net)
    members, member = checked_members(params)
    x = as_array("x", x)
    own = x.ndim == 3
    if x.ndim > 3:
        raise ValueError(f"x has shape {x.shape}, expected (inputs,) or (n, inputs), or ({members}, n, inputs)")
    if own and len(x) != members:
        raise ValueError(f"x has shape {x.shape}, but there are {members} members; expected (members, n, inputs)")
    check_x(member, x[0] if own else x)
    return jax.vmap(
        lambda params, x: forward_pass(params, x, net.hidden, net.output)[0][-1], in_axes=(0, 0 if own else None)
    )(params, x)


def check_kind(net: Any) -> None:
    """Raise unless ``net`` is a network; its l2, which may differ between members, is checked apart."""
    check_network(replace(net, l2=0.0) if isinstance(net, Network) else net)


def checked_members(params: Any) -> tuple[int, tuple[Layer, ...]]:
    """How many members the parameters hold, and the shapes of one of them."""
    leaves = jax.tree.leaves(params)
    shapes = [jnp.shape(leaf) for leaf in leaves]
    if not shapes or not all(shapes) or len({shape[0] for shape in shapes}) > 1 or 0 in {shape[0] for shape in shapes}:
        raise ValueError(
            f"params have the shapes {shapes}, expected a leading axis of members on each, as from jaxnet.ensemble.init"
        )
    member = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
    try:
        check_params(member)
    except (TypeError, ValueError) as error:
        raise type(error)(f"params, without their leading axis of members: {error}") from None
    return shapes[0][0], member


def per_member(name: str, value: Any, members: int, dtype: DTypeLike) -> Array:
    """One number, (), or one for each member, (members,), as an array of ``dtype``."""
    array = as_array(name, value)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{name} is {describe(value)}, expected a real number or one for each member")
    if array.shape not in ((), (members,)):
        raise ValueError(f"{name} has shape {array.shape}, expected one number, or one for each member: ({members},)")
    return array.astype(dtype)
