"""Checks of what a training is given: data, parameters' values, metrics, an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxnet._loop import Batch, fetched
from jaxnet._validate import check_batch, check_gradient, check_optimizer, check_parts, checked_count, describe
from jaxnet.network import Params
from jaxnet.steps import Metric


def check_concrete(name: str, *arguments: Any) -> None:
    """Raise where a training is traced: it is driven from Python."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arguments)):
        raise TypeError(
            f"{name} drives a compiled loop from Python, so it cannot run inside jit, vmap or grad; compile or map "
            "over a step from jaxnet.make_step instead"
        )


def checked_data(name: str, params: Params, data: Any) -> Batch:
    """The arrays of ``(x, y)`` or ``(x, y, weights)``, checked against the parameters."""
    check_parts(name, data)
    try:
        x, y, weights = check_batch(params, *data)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    if x.ndim != 2:
        raise ValueError(f"{name}: x has shape {x.shape}, expected (n, inputs)")
    if weights is None:
        return x, y
    if jnp.any(weights < 0) or not jnp.any(weights != 0):
        raise ValueError(f"{name}: weights are negative, or all zero; expected weights >= 0 of which some count")
    return x, y, weights


def check_finite(name: str, data: Batch) -> None:
    """Raise where an array holds a value that is not finite."""
    wrong = not_finite_example(data)
    if wrong:
        raise ValueError(f"{name}: {wrong}")


def not_finite_example(data: Batch) -> str | None:
    """Which array holds a value that is not finite, and where."""
    for name, array in zip(("x", "y", "weights"), data, strict=False):
        examples = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
        if examples.size:
            return f"{name} holds values that are not finite, first in example {examples[0]}"
    return None


def check_values(params: Params) -> None:
    """Raise unless parameters are finite."""
    if not np.all([np.isfinite(leaf).all() for leaf in jax.tree.leaves(fetched(params))]):
        raise ValueError("params hold values that are not finite; start from finite ones, such as jaxnet.init's")


def checked_metrics(metrics: Any) -> tuple[tuple[str, Metric], ...]:
    """The metrics as pairs of name and function."""
    if metrics is None:
        return ()
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics is {describe(metrics)}, expected functions by name: {{'accuracy': jaxnet.accuracy}}")
    for name, metric in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"metrics has the name {name!r}, expected a str")
        if name == "cost" or name.startswith("validation_"):
            raise ValueError(f"metrics has the name {name!r}, which the history uses itself; give it another name")
        if not callable(metric):
            raise TypeError(f"metrics[{name!r}] is {describe(metric)}, expected a function (params, x, y, net)")
        check_hashable(f"metrics[{name!r}]", metric)
    return tuple(metrics.items())


def checked_options(
    n: int, epochs: Any, batch_size: Any, patience: Any, validation: Batch | None
) -> tuple[int, int, int | None]:
    """The epochs, the examples in a step, and the patience, as integers that go with ``n`` examples."""
    epochs = checked_count("epochs", epochs, least=0)
    batch_size = n if batch_size is None else checked_count("batch_size", batch_size, least=1)
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size}, but the data has {n} examples; None takes them all")
    if patience is not None:
        patience = checked_count("patience", patience, least=1)
        if validation is None:
            raise ValueError(f"patience is {patience}, but there is no validation data to stop by")
        patience = min(patience, epochs)
    return epochs, batch_size, patience


def check_functions(optimizer: Any, gradient: Any) -> None:
    """Raise unless they are an optax optimizer and a gradient function that compiled code can be kept for."""
    check_optimizer(optimizer)
    check_gradient(gradient)
    check_hashable("optimizer", optimizer)
    check_hashable("gradient", gradient)


def check_hashable(name: str, value: Any) -> None:
    """Raise unless compiled code can be kept for it."""
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{name} is {describe(value)} that cannot be hashed, so no compiled code can be kept for it; make its "
            "class hashable, as functions and optax optimizers are"
        ) from None
