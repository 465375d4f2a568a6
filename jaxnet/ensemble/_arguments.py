"""Checks of what `jaxnet.ensemble.train` is given, beside those of `jaxnet.train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxnet import _arguments
from jaxnet._loop import Batch
from jaxnet._validate import as_array, check_key, check_parts, describe
from jaxnet.ensemble.members import per_member
from jaxnet.network import Network, Params

_SHARED = (2, 2, 1)  # axes of x, y and weights without one of members


def checked_key(key: Any, members: int) -> Array:
    """One typed key, or one for each member."""
    shape = getattr(key, "shape", ())
    check_key(key if shape == () else key.reshape(-1)[0] if 0 not in shape else key)
    if shape not in ((), (members,)):
        raise ValueError(
            f"key has shape {shape}, expected one key, or one for each member, jax.random.split(key, {members})"
        )
    return key


def checked_data(name: str, members: int, member: Params, data: Any) -> Batch:
    """The arrays of ``(x, y)`` or ``(x, y, weights)``, each shared or with a leading axis of members."""
    check_parts(name, data)
    parts = ("x", "y", "weights")
    arrays = tuple(as_array(f"{name}: {part}", array) for part, array in zip(parts, data, strict=False))
    for part, array, axes in zip(parts, arrays, _SHARED, strict=False):
        if array.ndim == axes + 1 and len(array) != members:
            raise ValueError(
                f"{name}: {part} has shape {array.shape}, whose first axis should be that of the {members} members"
            )
    first = [array[0] if array.ndim == axes + 1 else array for array, axes in zip(arrays, _SHARED, strict=False)]
    _arguments.checked_data(name, member, tuple(first))
    if len(arrays) == 3 and (jnp.any(arrays[2] < 0) or not jnp.all(jnp.any(arrays[2] != 0, axis=-1))):
        raise ValueError(f"{name}: weights are negative, or all zero; expected weights >= 0 of which some count")
    return arrays


def check_finite(name: str, data: Batch) -> None:
    """Raise where an array holds a value that is not finite."""
    for part in not_finite_parts(data):
        raise ValueError(f"{name}: {part} holds values that are not finite")


def not_finite_parts(data: Batch) -> list[str]:
    """Which arrays hold a value that is not finite."""
    return [part for part, array in zip(("x", "y", "weights"), data, strict=False) if not np.isfinite(array).all()]


def checked_subset(subset: Any, members: int, n: int) -> Array | None:
    """The rows of the data that each member trains on, integers (members, rows)."""
    if subset is None:
        return None
    try:
        rows = np.asarray(subset)
    except ValueError:  # lists of different lengths
        raise ValueError(f"subset holds rows of different lengths, expected integers ({members}, rows)") from None
    if rows.ndim != 2 or rows.shape[0] != members or rows.shape[1] == 0 or rows.dtype.kind not in "iu":
        raise ValueError(
            f"subset is {describe(rows)}, expected rows of the data for each member: integers ({members}, rows)"
        )
    if rows.min() < 0 or rows.max() >= n:
        raise ValueError(f"subset holds rows from {rows.min()} to {rows.max()}, but the data has {n} examples")
    return as_array("subset", rows)


def check_weights_of_subset(data: Batch, subset: Array | None) -> None:
    """Raise where all the rows that a member trains on have a weight of 0."""
    if subset is None or len(data) < 3:
        return
    weights, rows = np.asarray(data[2]), np.asarray(subset)
    taken = weights[rows] if weights.ndim == 1 else np.take_along_axis(weights, rows, axis=1)
    empty = np.flatnonzero(~taken.any(axis=1))
    if empty.size:
        raise ValueError(f"subset picks only rows of weight 0 for member {empty[0]}; expected some that count")


def checked_l2(net: Network, members: int, dtype: DTypeLike) -> Array | None:
    """The penalty, one or one for each member; None where there is none."""
    if not net.penalised:
        return None
    l2 = per_member("net.l2", net.l2, members, dtype)
    if not np.all((np.asarray(l2) >= 0) & np.isfinite(l2)):
        raise ValueError("net.l2 holds values that are negative or not finite, expected numbers >= 0")
    return l2


def checked_hyperparams(
    hyperparams: Any, members: int, dtype: DTypeLike, optimizer: Any
) -> tuple[tuple[str, ...] | None, tuple[Array, ...]]:
    """Names and values of the optimizer's arguments; no names where the optimizer is one already."""
    if hyperparams is None:
        return None, ()
    if not isinstance(hyperparams, Mapping) or not all(isinstance(name, str) for name in hyperparams):
        raise TypeError(f"hyperparams is {describe(hyperparams)}, expected values by name: {{'learning_rate': rates}}")
    if not callable(optimizer):
        raise TypeError(
            f"optimizer is {describe(optimizer)}, but with hyperparams it has to be a function that makes one from "
            "them, such as optax.sgd"
        )
    values = {name: per_member(f"hyperparams[{name!r}]", value, members, dtype) for name, value in hyperparams.items()}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise ValueError(f"hyperparams[{name!r}] holds values that are not finite")
    return tuple(values), tuple(values.values())


def optimizer_of(make: Any, names: tuple[str, ...], values: tuple[Array, ...]) -> Any:
    """The optimizer that is made from hyperparameters."""
    hyperparams = dict(zip(names, values, strict=True))
    try:
        return make(**hyperparams)
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            f"optimizer needs the value of one of the hyperparams {', '.join(names)} while it is compiled, where none "
            "has any; give what is the same for all members to the function itself: functools.partial(make, steps=10)"
        ) from error
    except TypeError as error:
        raise TypeError(f"optimizer cannot be made from the hyperparams {', '.join(names)}: {error}") from error


def first(values: tuple[Array, ...]) -> tuple[Array, ...]:
    """The values of the first member."""
    return jax.tree.map(lambda value: value[0] if value.ndim else value, values)
