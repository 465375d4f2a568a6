"""`vjp` and `grad`: the two passes as plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnet.graph import rules as _  # noqa: F401  (registers them)
from jaxnet.graph.tape import Tape, is_differentiable

__all__ = ["grad", "vjp"]


class Recording(NamedTuple):
    """A function's tape, with the structure of its arguments and of its result."""

    tape: Tape
    arguments: Any
    result: Any
    names: list[str]


def record(f: Callable[..., Any], args: tuple[Any, ...], active: Sequence[int], *, unroll: bool = False) -> Recording:
    """Run a function on a tape, differentiated in the arguments at the positions ``active``."""
    if not callable(f):
        raise TypeError(f"f is a {type(f).__name__}, expected a function of arrays")
    leaves, arguments = jax.tree.flatten(args)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(args)]
    arrays = [_as_array(leaf, f"args{jax.tree_util.keystr(path)}") for leaf, path in zip(leaves, paths, strict=True)]
    jaxpr, result = jax.make_jaxpr(f, return_shape=True)(*args)
    wanted = [path[0].idx in active for path in paths]
    tape = Tape.of(jaxpr, arrays, wanted, unroll=unroll)
    return Recording(tape, arguments, jax.tree.structure(result), _names(f, paths))


def _as_array(leaf: Any, name: str) -> Any:
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


def vjp(f: Callable[..., Any], *args: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of f at args, and the function that pulls a cotangent of it back to the arguments.

    ``value, pull = vjp(f, *args)``; ``pull(value_bar)`` is a tuple with x̄ = value_barᵀ ∂f/∂x for each argument x, in
    its structure, by the rules of this package. Both are plain JAX: they can be compiled, mapped over and
    differentiated again.

    Parameters
    ----------
    f
        A function of arrays, in pytrees, to arrays.
    args
        Its arguments. Leaves that are not floats have None for a cotangent.

    Raises
    ------
    NotImplementedError
        If a primitive of f has no rule (see `rule`), or a while loop has a number of iterations that is not known.
    TypeError, ValueError
        If an argument is not an array, or ``value_bar`` has not the structure, shapes and dtypes of the value.

    >>> from jaxnet import graph
    >>> value, pull = graph.vjp(lambda a, b: a * jnp.sin(b), 2.0, 0.0)
    >>> [float(bar) for bar in pull(jnp.ones(()))]
    [0.0, 2.0]
    """
    tape, arguments, result, _ = record(f, args, range(len(args)))
    value = jax.tree.unflatten(result, tape.outputs)

    def pull(value_bar: Any) -> tuple[Any, ...]:
        return jax.tree.unflatten(arguments, tape.back(checked_cotangent("value_bar", value_bar, value)))

    return value, pull


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


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The gradient of a scalar function, as ``jax.grad``, by the rules of this package.

    ``grad(f)(*args)`` is ∂f/∂x for the argument x at position ``argnums``, in its structure, or a tuple of these for a
    tuple of positions. It is plain JAX: it can be compiled, mapped over and differentiated again.

    Parameters
    ----------
    f
        A function of arrays, in pytrees, to one real number.
    argnums
        Position of the argument to differentiate, or a tuple of them.

    Raises
    ------
    NotImplementedError
        If a primitive of f has no rule (see `rule`), or a while loop has a number of iterations that is not known.
    TypeError, ValueError
        If f is not real and scalar, an argument to differentiate is not of real floats, or ``argnums`` does not fit.

    >>> from jaxnet import graph
    >>> float(graph.grad(lambda a, b, c: ((a + b) * c) ** 2)(1.0, 2.0, 3.0))
    54.0
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def gradient(*args: Any) -> Any:
        for position in positions:
            if not -len(args) <= position < len(args):
                raise ValueError(f"argnums is {argnums}, but there are {len(args)} arguments")
        wanted = [position % len(args) for position in positions]
        for position in wanted:
            _check_real(args[position], position)
        tape, arguments, _, _ = record(f, args, wanted)
        (bars,) = [jax.tree.unflatten(arguments, tape.back([seed(tape)]))]
        found = tuple(bars[position] for position in wanted)
        return found[0] if isinstance(argnums, int) else found

    return gradient


def _check_real(arg: Any, position: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(arg):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"args[{position}]{jax.tree_util.keystr(path)} has dtype {dtype}, expected a real floating dtype to "
                "differentiate; convert it, or leave its position out of argnums"
            )


def seed(tape: Tape) -> Any:
    """The cotangent 1 of a scalar result."""
    outputs = tape.outputs
    if len(outputs) != 1 or outputs[0].shape != () or not jnp.issubdtype(outputs[0].dtype, jnp.floating):
        shapes = ", ".join(f"{z.dtype}{list(z.shape)}" for z in outputs) or "nothing"
        raise TypeError(f"f returns {shapes}, expected one real number; sum it, or use vjp with a cotangent")
    return jnp.ones((), outputs[0].dtype)
