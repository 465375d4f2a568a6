"""Kronecker factors of the Gauss-Newton matrix: one pair of small matrices a layer."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxnet._sharding import summed_product
from jaxnet.curvature.diagonals import output_cotangents, times_curvature
from jaxnet.curvature.passes import loss_curvature, run
from jaxnet.network import Network, Params

__all__ = ["Factors", "kfac"]


class Factors(NamedTuple):
    """The block of one layer as G ⊗ A, over the rows of its augmented matrix [W | b].

    ``inputs``: A = E[(h, 1)(h, 1)ᵀ], (inputs + 1, inputs + 1). ``outputs``: G, that of the curvature by the layer's
    pre-activations, (units, units).
    """

    inputs: Array
    outputs: Array


def kfac(
    params: Params, x: ArrayLike, y: ArrayLike, net: Network = Network(), weights: ArrayLike | None = None
) -> tuple[Factors, ...]:
    """Kronecker factors of the Gauss-Newton matrix of the mean loss, layer by layer.

    Aˡ = Σᵢ (wᵢ / Σ w) (hˡ⁻¹, 1)(hˡ⁻¹, 1)ᵀ,  Gˡ = Σᵢ (wᵢ / Σ w) Dˡᵀ M Dˡ        Martens & Grosse 2015

    with D = ∂aᴸ/∂aˡ and M the Gauss-Newton matrix of the loss by the logits: exact, by a backward pass for each output
    (Botev, Ritter & Barber 2017), instead of sampled targets. Gˡ ⊗ Aˡ is the layer's block over the entries of [W | b],
    row by row, as if A and G were independent over the examples: exact for a single example, and for a single linear
    layer under squared error. The penalty is left out, because l2 on the weights alone is no Kronecker product.

    Arguments and errors as for `jaxnet.curvature.ggn_vp`; memory as for `jaxnet.curvature.ggn_diagonal`.

    >>> import jax, jaxnet
    >>> params = jaxnet.init(jax.random.key(0), (2, 3, 1))
    >>> [(a.shape, g.shape) for a, g in jaxnet.curvature.kfac(params, *jaxnet.data.xor())]
    [((3, 3), (3, 3)), ((4, 4), (1, 1))]
    """
    passes = run(params, x, y, net, weights)
    factors = []
    for h, d in zip(passes.activations, output_cotangents(passes), strict=False):
        inputs = jnp.concatenate([h, jnp.ones_like(h[:, :1])], axis=1)
        curved = times_curvature(passes, loss_curvature, d)
        weighed = summed_product(inputs * passes.shares, inputs, ((0,), (0,)))
        factors.append(Factors(weighed, summed_product(d, curved, ((0, 1), (0, 1)))))
    return tuple(factors)
