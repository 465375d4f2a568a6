"""`vjp` and `grad`: the two passes as plain functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.graph.recording import as_array, check_callable, checked_cotangent, record, seed

__all__ = ["grad", "vjp"]


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
    check_callable(f)
    tape, arguments, result, _ = record(f, args, range(len(args)))
    value = jax.tree.unflatten(result, tape.outputs)

    def pull(value_bar: Any) -> tuple[Any, ...]:
        return jax.tree.unflatten(arguments, tape.back(checked_cotangent("value_bar", value_bar, value)))

    return value, pull


def grad(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """The gradient of a scalar function, as ``jax.grad``, by the rules of this package.

    ``grad(f)(*args)`` is ∂f/∂x for the argument x at position ``argnums``, in its structure, or a tuple of these for a
    tuple of positions; all other arguments, and keywords, are handed to f as they are. It is plain JAX: it can be
    compiled, mapped over and differentiated again.

    Parameters
    ----------
    f
        A function of arrays, in pytrees, to one real number. It is staged, as by ``jax.jit``: Python code must not
        branch on the value of what is differentiated.
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
    check_callable(f)
    alone = hasattr(argnums, "__index__")
    positions: Any = (argnums,) if alone else argnums
    if not isinstance(positions, (tuple, list)) or not all(_is_position(position) for position in positions):
        raise TypeError(f"argnums is {argnums!r}, expected the position of an argument, or a tuple of positions")

    def gradient(*args: Any, **options: Any) -> Any:
        for position in positions:
            if not -len(args) <= position < len(args):
                raise ValueError(f"argnums is {argnums}, but there are {len(args)} arguments")
        wanted = [position % len(args) for position in positions]
        active = sorted(set(wanted))
        for position in active:
            _check_real(args[position], position)
        recording = record(partial(f, **options), args, active)
        bars = jax.tree.unflatten(recording.arguments, recording.tape.back([seed(recording)]))
        found = tuple(bars[active.index(position)] for position in wanted)
        return found[0] if alone else found

    return gradient


def _is_position(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def _check_real(arg: Any, position: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(arg):
        name = f"args[{position}]{jax.tree_util.keystr(path)}"
        dtype = as_array(leaf, name).dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name} has dtype {dtype}, expected a real floating dtype to differentiate; convert it, or leave its "
                "position out of argnums"
            )
