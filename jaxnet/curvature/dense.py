"""The Hessian of a small network as a matrix, and the kind of its stationary points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from jaxnet._numeric import wide
from jaxnet.backprop import backprop
from jaxnet.curvature.products import Operator, hessian_operator
from jaxnet.network import Network, Params

__all__ = ["StationaryPoint", "hessian", "is_minimum"]

Product = Callable[[Array], Array]

# Directions in one batched product: enough to fill the cores, few enough to keep memory at some hundred activations.
_TOGETHER = 128


def on_vectors(operator: Operator, params: Params) -> tuple[Product, Array]:
    """An operator on vectors, and the parameters as one."""
    theta, unravel = ravel_pytree(params)
    return lambda v: ravel_pytree(operator(unravel(v)))[0], theta


def hessian(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> Array:
    """The Hessian of the cost as a matrix (P, P), for small networks: one `hvp` for each of the P parameters.

    Rows and columns are in the order of ``jax.flatten_util.ravel_pytree(params)``: the first layer's weight row by
    row, its bias, and so on. Arguments and errors as for `jaxnet.curvature.hvp`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 2, 1))
    >>> jaxnet.curvature.hessian(params, *jaxnet.data.xor()).shape
    (9, 9)
    """
    product, theta = on_vectors(hessian_operator(params, x, y, net, weights), params)
    return lax.map(product, jnp.eye(theta.size, dtype=theta.dtype), batch_size=_TOGETHER)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StationaryPoint:
    """What `is_minimum` finds; true, as a Python bool, where it is a minimum beyond doubt.

    ``eigenvalues``: of the Hessian, ascending, (P,). ``tolerance``: those within ± this cannot be told from zero.
    ``index``: how many are below it, the directions that descend. ``nullity``: how many are within it.
    ``gradient_norm``: ‖∇J‖. ``displacement``: how far, to first order, the stationary point is: the length of the
    Newton step along eigenvectors whose eigenvalues are not zero, relative to ‖θ‖. ``stationary``: whether that is
    at most the root of the machine's precision, and the gradient along the other eigenvectors no more than rounding.
    """

    eigenvalues: Array
    tolerance: Array
    index: Array
    nullity: Array
    gradient_norm: Array
    displacement: Array
    stationary: Array

    def __bool__(self) -> bool:
        return bool(self.stationary & (self.index == 0) & (self.nullity == 0))


def is_minimum(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> StationaryPoint:
    """Whether params are a minimum of the cost, with the index of the stationary point: for small networks.

    The second derivative test: at a stationary point, a minimum where every eigenvalue of the Hessian is positive, a
    saddle where ``index`` of them are negative. Eigenvalues within P ε max |λ| of zero, ε the machine's precision,
    are called neither: a Hessian is computed no better than that. Where there are any, and none is negative, the test
    is undecided; a network with more weights than the examples determine always has some. Then ``bool`` is false,
    and ``index == 0`` says that no direction descends to second order.

    Arguments and errors as for `jaxnet.curvature.hessian`. Use 64-bit mode: in float32, little can be told from zero.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 2, 1), scheme="zeros")
    >>> point = is_minimum(params, *jaxnet.data.xor())
    >>> bool(point), bool(point.stationary), int(point.index)
    (False, True, 0)
    """
    matrix = hessian(params, x, y, net, weights)
    gradient, theta = ravel_pytree(backprop(params, x, y, net, weights)[1])[0], ravel_pytree(params)[0]
    # Half precision has no eigenvalues.
    matrix, gradient, theta = (array.astype(wide(array.dtype)) for array in (matrix, gradient, theta))
    values, vectors = jnp.linalg.eigh(matrix)
    eps = jnp.finfo(values.dtype).eps
    tolerance = len(values) * eps * jnp.max(jnp.abs(values))
    null = jnp.abs(values) <= tolerance
    along = vectors.T @ gradient
    newton = jnp.where(null, 0, along / jnp.where(null, 1, values))
    size = jnp.linalg.norm(theta)
    displacement = jnp.linalg.norm(newton) / jnp.where(size == 0, 1, size)
    rest = jnp.linalg.norm(jnp.where(null, along, 0))
    return StationaryPoint(
        eigenvalues=values,
        tolerance=tolerance,
        index=jnp.sum(values < -tolerance),
        nullity=jnp.sum(null),
        gradient_norm=jnp.linalg.norm(gradient),
        displacement=displacement,
        stationary=(displacement <= eps**0.5) & (rest <= tolerance * jnp.where(size == 0, 1, size)),
    )
