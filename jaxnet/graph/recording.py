"""Functions of pytrees on a tape: what `vjp`, `grad` and `trace` share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.graph import rules as _rules  # noqa: F401  (registers them)
from jaxnet.graph.tape import Tape, is_differentiable

__all__ = ["Recording", "as_array", "check_callable", "checked_cotangent", "record", "seed"]


class Recording(NamedTuple):
    """A function's tape, with the structure of its arguments and of its result."""

    tape: Tape
    arguments: Any
    result: Any
    names: list[str]


def record(f: Callable[..., Any], args: tuple[Any, ...], active: Sequence[int], *, unroll: bool = False) -> Recording:
    """Run a function on a tape, differentiated in the arguments at the positions ``active``."""
    leaves, arguments = jax.tree.flatten(args)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(args)]
    arrays = [as_array(leaf, f"args{jax.tree_util.keystr(path)}") for leaf, path in zip(leaves, paths, strict=True)]
    jaxpr, result = jax.make_jaxpr(f, return_shape=True)(*args)
    wanted = [path[0].idx in active for path in paths]
    tape = Tape.of(jaxpr, arrays, wanted, unroll=unroll)
    return Recording(tape, arguments, jax.tree.structure(result), _names(f, paths))


def check_callable(f: Any) -> None:
    """Raise unless f can be called."""
    if not callable(f):
        raise TypeError(f"f is a {type(f).__name__}, expected a function of arrays")


def as_array(leaf: Any, name: str) -> Any:
    """A leaf of the arguments as an array."""
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is a {type(leaf).__name__}, expected an array; close f over what is not one") from None


def _names(f: Callable[..., Any], paths: Sequence[Any]) -> list[str]:
    """What the leaves of the arguments are called in f."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [
        (positional[path[0].idx] if path[0].idx < len(positional) else f"x{path[0].idx}")
        + jax.tree_util.keystr(path[1:])
        for path in paths
    ]


def checked_cotangent(name: str, bar: Any, value: Any) -> list[Any]:
    """The leaves of a cotangent, which has to fit the value; None for those that are not floats."""
    leaves, structure = jax.tree.flatten(value)
    given, given_structure = jax.tree.flatten(bar, is_leaf=lambda leaf: leaf is None)
    if given_structure != structure:
        raise ValueError(f"{name} has the structure {given_structure}, expected that of the value, {structure}")
    checked = []
    for own, z in zip(given, leaves, strict=True):
        if not is_differentiable(z):
            checked.append(None)
            continue
        array = jnp.asarray(own, z.dtype) if isinstance(own, (int, float, complex)) else own
        if jnp.shape(array) != z.shape or getattr(array, "dtype", None) != z.dtype:
            raise ValueError(
                f"{name} has a leaf {array!r}, expected an array of {z.dtype} with shape {z.shape}, like the value"
            )
        checked.append(jnp.asarray(array))
    return checked


def seed(tape: Tape) -> Any:
    """The cotangent 1 of a scalar result."""
    outputs = tape.outputs
    if len(outputs) != 1 or outputs[0].shape != () or not jnp.issubdtype(outputs[0].dtype, jnp.floating):
        shapes = ", ".join(f"{z.dtype}{list(z.shape)}" for z in outputs) or "nothing"
        raise TypeError(f"f returns {shapes}, expected one real number; sum it, or use vjp with a cotangent")
    return jnp.ones((), outputs[0].dtype)
