"""What the optimizers share: arithmetic on trees as vectors, and what a step hands them beside the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxnet._numeric import add_up


def dot(a: Any, b: Any) -> Array:
    """The inner product of two trees of one structure."""
    return add_up([jnp.vdot(p, q) for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)])


def check_damping(damping: Any) -> None:
    if not isinstance(damping, Real) or not float(damping) > 0:
        raise ValueError(f"damping is {damping!r}, expected a number > 0")


def check_decay(decay: Any) -> None:
    if not isinstance(decay, Real) or not 0 <= float(decay) < 1:
        raise ValueError(f"decay is {decay!r}, expected a number in [0, 1)")


def needed(optimizer: str, given: Mapping[str, Any], *names: str) -> list[Any]:
    """The named arguments of an update; an error says which are missing, and who passes them."""
    missing = [name for name in names if name not in given]
    if missing:
        raise TypeError(
            f"the update of {optimizer} got no {', '.join(missing)}, expected keyword arguments {', '.join(names)}; "
            "jaxnet.make_step and jaxnet.train pass them"
        )
    return [given[name] for name in names]
