"""Whether a program, run on complex numbers, is complex-differentiable: what the complex step needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

__all__ = ["not_holomorphic"]

_NOT_HOLOMORPHIC = {"sign", "conj", "cholesky", "eigh", "eig", "svd", "qr", "householder_product", "schur"}


@lru_cache(maxsize=256)
def not_holomorphic(program: Callable[..., Any], n: int, arrays: tuple[Any, ...], dtype: Any) -> str:
    """The first operation on complex numbers that is not complex-differentiable, in words, or nothing."""
    jaxpr = jax.make_jaxpr(program)(jax.ShapeDtypeStruct((n,), dtype), arrays)
    (out,) = jaxpr.out_avals
    for eqn in _equations(jaxpr.jaxpr):
        takes = any(jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in eqn.invars)
        gives = all(jnp.issubdtype(v.aval.dtype, jnp.complexfloating) for v in eqn.outvars)
        if takes and (not gives or eqn.primitive.name in _NOT_HOLOMORPHIC):
            return f"f uses {eqn.primitive.name!r}, which has no complex derivative"
    return "" if jnp.issubdtype(out.dtype, jnp.complexfloating) else "f turns complex numbers into real ones"


def _equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """The equations of a program, those of its parts in place of the equation that holds them."""
    for eqn in jaxpr.eqns:
        held = [part for value in eqn.params.values() for part in (value if isinstance(value, tuple) else (value,))]
        parts = [part.jaxpr if isinstance(part, ClosedJaxpr) else part for part in held]
        parts = [part for part in parts if isinstance(part, Jaxpr)]
        if not parts:
            yield eqn
        for part in parts:
            yield from _equations(part)
