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
    """Run a function on a tape, as one of the arguments at the positions ``active``; the others are constants."""
    traced = tuple(args[i] for i in active)
    leaves, arguments = jax.tree.flatten(traced)
    paths = [(active[path[0].idx], path[1:]) for path, _ in jax.tree_util.tree_leaves_with_path(traced)]
    arrays = [
        as_array(leaf, f"args[{i}]{jax.tree_util.keystr(path)}") for leaf, (i, path) in zip(leaves, paths, strict=True)
    ]

    def of_traced(*traced: Any) -> Any:
        given = dict(zip(active, traced, strict=True))
        return f(*(given.get(i, arg) for i, arg in enumerate(args)))

    jaxpr, result = jax.make_jaxpr(of_traced, return_shape=True)(*traced)
    tape = Tape.of(jaxpr, arrays, [True] * len(arrays), unroll=unroll)
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
    return [(positional[i] if i < len(positional) else f"x{i}") + jax.tree_util.keystr(path) for i, path in paths]


def checked_cotangent(name: str, bar: Any, value: Any) -> list[Any]:
    """The leaves of a cotangent, which has to fit the value; None for those that are not floats."""
    leaves, structure = jax.tree.flatten(value)
    try:
        given = structure.flatten_up_to(bar)
    except (ValueError, TypeError):
        raise ValueError(
            f"{name} has the structure {jax.tree.structure(bar)}, expected that of the value, {structure}"
        ) from None
    checked = []
    for own, z in zip(given, leaves, strict=True):
        if not is_differentiable(z):
            checked.append(None)
            continue
        number = isinstance(own, (int, float)) or (isinstance(own, complex) and jnp.iscomplexobj(z))
        array = jnp.asarray(own, z.dtype) if number else own
        if getattr(array, "shape", None) != z.shape or getattr(array, "dtype", None) != z.dtype:
            raise ValueError(
                f"{name} has a leaf {array!r}, expected an array of {z.dtype} with shape {z.shape}, like the value"
            )
        checked.append(jnp.asarray(array))
    return checked


def seed(recording: Recording) -> Any:
    """The cotangent 1 of a scalar result."""
    outputs, result = recording.tape.outputs, recording.result
    alone = result == jax.tree.structure(0.0)
    if not alone or outputs[0].shape != () or not jnp.issubdtype(outputs[0].dtype, jnp.floating):
        shapes = ", ".join(f"{z.dtype}{list(z.shape)}" for z in outputs) or "nothing"
        came = shapes if alone or not outputs else f"{result}, of {shapes}"
        raise TypeError(f"f returns {came}, expected one real number; sum it, or use vjp with a cotangent")
    return jnp.ones((), outputs[0].dtype)
