"""Eigenvalues and trace of the Hessian of a network of any size, by products with random directions."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxnet._numeric import wide
from jaxnet._sharding import varying_as
from jaxnet._validate import as_array, check_key, checked_count, checked_scalar
from jaxnet.curvature.dense import Product, on_vectors
from jaxnet.curvature.products import hessian_operator
from jaxnet.network import Network, Params

__all__ = ["Estimate", "Spectrum", "spectrum", "trace_estimate"]


class Estimate(NamedTuple):
    """A random estimate: its value, and the standard error of that (NaN for a single probe)."""

    value: Array
    standard_error: Array


def trace_estimate(
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    net: Network = Network(),
    weights: ArrayLike | None = None,
    *,
    key: Array,
    probes: int = 32,
) -> Estimate:
    """The trace of the Hessian by Hutchinson's estimator, unbiased: the mean of vᵀHv over random signs v.

    Each probe takes one `hvp`; the variance of one is 2 Σᵢ≠ⱼ Hᵢⱼ² (Hutchinson 1990). `trace` is exact.

    Parameters
    ----------
    params, x, y, net, weights
        As for `jaxnet.curvature.hvp`.
    key
        A typed key.
    probes
        How many random directions; the standard error falls with its root.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> value, error = trace_estimate(params, *jaxnet.data.xor(), key=jax.random.key(1), probes=1000)
    >>> bool(abs(value - jaxnet.curvature.trace(params, *jaxnet.data.xor())) < 4 * error)
    True
    """
    check_key(key)
    probes = checked_count("probes", probes, least=1)
    product, theta = on_vectors(hessian_operator(params, x, y, net, weights), params)

    def sample(key: Array) -> Array:
        v = jax.random.rademacher(key, theta.shape, theta.dtype)
        return v @ product(v)

    samples = lax.map(sample, jax.random.split(key, probes))
    return Estimate(jnp.mean(samples), jnp.std(samples, ddof=1) / probes**0.5)


class Spectrum(NamedTuple):
    """What Lanczos finds from each of several random starts: arrays (probes, steps), eigenvalues ascending.

    ``eigenvalues``: Ritz values; the outermost are the first to converge to eigenvalues of the matrix.
    ``errors``: a bound for each: an eigenvalue of the matrix lies no further from it.
    ``weights``: the share of the spectrum that each stands for; non-negative, with sum 1 for each start.
    """

    eigenvalues: Array
    errors: Array
    weights: Array

    @property
    def smallest(self) -> Array:
        """The smallest eigenvalue found, at least the matrix's own."""
        return jnp.min(self.eigenvalues)

    @property
    def largest(self) -> Array:
        """The largest eigenvalue found, at most the matrix's own."""
        return jnp.max(self.eigenvalues)

    def density(self, points: ArrayLike, width: ArrayLike) -> Array:
        """The density of eigenvalues at ``points``, (...): its integral is 1, over the shares of all eigenvalues.

        Stochastic Lanczos quadrature smoothed by Gaussians of standard deviation ``width`` (Lin, Saad & Yang 2016).
        """
        points = as_array("points", points).astype(self.eigenvalues.dtype)
        width = checked_scalar("width", width, self.eigenvalues.dtype, above=0)
        away = (jnp.expand_dims(points, (-1, -2)) - jnp.expand_dims(self.eigenvalues, range(points.ndim))) / width
        bells = jnp.exp(-(away**2) / 2) / (width * (2 * jnp.pi) ** 0.5)
        return jnp.mean(jnp.sum(bells * jnp.expand_dims(self.weights, range(points.ndim)), axis=-1), axis=-1)


def spectrum(
    params: Params,
    x: ArrayLike,
    y: ArrayLike,
    net: Network = Network(),
    weights: ArrayLike | None = None,
    *,
    key: Array,
    steps: int = 64,
    probes: int = 4,
) -> Spectrum:
    """Extreme eigenvalues of the Hessian of the cost, and its density of eigenvalues, by Lanczos from random starts.

    H Q = Q T + βₘ qₘ₊₁ eₘᵀ: eigenvalues θ of the tridiagonal T approximate those of H, with errors |βₘ sₘ| and weights
    s₁² from its eigenvectors s (Golub & Welsch 1969). Every new direction is made orthogonal to all earlier ones,
    twice, so no eigenvalue appears as a ghost of another. Where the directions span an invariant space, the iteration
    goes on from a new random one, so that with steps = P all of the P eigenvalues are found.

    Parameters
    ----------
    params, x, y, net, weights
        As for `jaxnet.curvature.hvp`, of which each step takes one.
    key
        A typed key, for the starts.
    steps
        Directions from each start, P of them at the most; they take (steps, P) of memory.
    probes
        Starts. The extremes need one; the density gains from several.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1), scheme="normal")
    >>> found = spectrum(params, *jaxnet.data.xor(), key=jax.random.key(1))
    >>> exact = jnp.linalg.eigvalsh(jaxnet.curvature.hessian(params, *jaxnet.data.xor()))
    >>> bool(jnp.allclose(found.largest, exact[-1], rtol=1e-4))
    True
    """
    check_key(key)
    steps, probes = checked_count("steps", steps, least=1), checked_count("probes", probes, least=1)
    product, theta = on_vectors(hessian_operator(params, x, y, net, weights), params)
    lanczos = partial(_lanczos, product, theta.size, min(steps, theta.size), theta.dtype)
    # Half precision has no eigenvalues.
    found = lax.map(lanczos, jax.random.split(key, probes))
    diagonal, beside = (array.astype(wide(array.dtype)) for array in found)
    off = jax.vmap(partial(jnp.diag, k=1))(beside[:, :-1])
    values, vectors = jnp.linalg.eigh(jax.vmap(jnp.diag)(diagonal) + off + jnp.swapaxes(off, 1, 2))
    return Spectrum(values, jnp.abs(beside[:, -1:] * vectors[:, -1]), vectors[:, 0] ** 2)


def _lanczos(product: Product, size: int, steps: int, dtype: jnp.dtype, key: Array) -> tuple[Array, Array]:
    """The diagonal of T, and the β beside it, the last one leading out of the space; (steps,) each."""

    def step(carry: tuple[Array, Array, Array], k: Array) -> tuple[tuple[Array, Array, Array], tuple[Array, Array]]:
        basis, q, scale = carry
        basis = basis.at[k].set(q)

        def orthogonal(w: Array) -> Array:
            for _ in range(2):  # once leaves what rounding made of large parts; twice is enough (Parlett 1998)
                w = w - basis.T @ (basis @ w)
            return w

        along = product(q)
        alpha = q @ along
        w = orthogonal(along)
        beta = jnp.linalg.norm(w)
        scale = jnp.maximum(scale, jnp.linalg.norm(along))
        ends = beta <= jnp.finfo(dtype).eps * scale
        w = jnp.where(ends, orthogonal(jax.random.normal(jax.random.fold_in(key, k), (size,), dtype)), w)
        return (basis, _unit(w), scale), (alpha, jnp.where(ends, jnp.zeros_like(beta), beta))

    start = _unit(jax.random.normal(jax.random.fold_in(key, steps), (size,), dtype))
    carry = jnp.zeros((steps, size), dtype), start, jnp.zeros((), dtype)
    carry = jax.tree.map(partial(varying_as, jax.eval_shape(product, start)), carry)  # as from the first step on
    return lax.scan(step, carry, jnp.arange(steps))[1]


def _unit(w: Array) -> Array:
    norm = jnp.linalg.norm(w)
    return w / jnp.where(norm == 0, 1, norm)
