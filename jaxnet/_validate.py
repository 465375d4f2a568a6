"""Checks of shapes, dtypes and options, each with a message that says what came, what was expected and what to do.

They look at types only, so they run once, when a function is traced: compiled code pays nothing for them.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

_FLOATS = ("float16", "bfloat16", "float32", "float64")
_FLOAT_DTYPES = frozenset(map(jnp.dtype, _FLOATS))
_USE_64_BITS = 'with jax.enable_x64(True): ..., or jax.config.update("jax_enable_x64", True)'


def checked_sizes(sizes: Any) -> tuple[int, ...]:
    """The layer sizes as integers, at least two, all positive."""
    try:
        sizes = tuple(sizes)
    except TypeError:
        raise TypeError(f"sizes is {sizes!r}, expected a sequence of integers such as (2, 3, 1)") from None
    if len(sizes) < 2:
        raise ValueError(f"sizes is {sizes}, expected at least two: inputs and outputs")
    for i, size in enumerate(sizes):
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise TypeError(f"sizes[{i}] is {size!r}, expected a positive integer")
        if size.__index__() < 1:
            raise ValueError(f"sizes[{i}] is {size}, expected a positive integer")
    return tuple(size.__index__() for size in sizes)


def checked_dtype(dtype: DTypeLike | None) -> DTypeLike:
    """A floating dtype that JAX can hold now; its default float if None."""
    try:
        asked = jnp.dtype(float if dtype is None else dtype)
    except TypeError:
        raise TypeError(f"dtype is {dtype!r}, expected one of {', '.join(_FLOATS)}") from None
    if asked.name not in _FLOATS:
        raise TypeError(f"dtype is {asked}, expected one of {', '.join(_FLOATS)}")
    canonical = jax.dtypes.canonicalize_dtype(asked)
    if dtype is not None and canonical != asked:
        raise ValueError(f"dtype is {asked}, which needs JAX's 64-bit mode: {_USE_64_BITS}")
    return canonical


def checked_count(name: str, value: Any, least: int) -> int:
    """An integer option of at least ``least``."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} is {value!r}, expected an integer")
    if value.__index__() < least:
        raise ValueError(f"{name} is {value}, expected an integer >= {least}")
    return value.__index__()


def checked_scalar(
    name: str,
    value: Any,
    dtype: DTypeLike,
    *,
    above: float | None = None,
    least: float | None = None,
    finite: bool = False,
    hint: str = "",
) -> Array:
    """A real number, traced or not, as a scalar array of ``dtype``; where it is not traced, within its limits."""
    array = as_array(name, value)
    if array.shape != () or not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"{name} is {describe(value)}, expected one real number; map over several with jax.vmap")
    if not isinstance(value, Tracer):
        if above is not None and not np.asarray(value) > above:
            raise ValueError(f"{name} is {value}, expected a number > {above:g}{hint}")
        if least is not None and not np.asarray(value) >= least:
            raise ValueError(f"{name} is {value}, expected a number >= {least:g}{hint}")
        if finite and not np.isfinite(np.asarray(value)):
            raise ValueError(f"{name} is {value}, expected a finite number{hint}")
    return array.astype(dtype)


def as_array(name: str, value: Any) -> Array:
    """The value as an array, if it is one of numbers."""
    if isinstance(value, Array):
        return value
    try:
        if isinstance(value, np.ndarray):  # JAX takes the bytes of this machine only
            value = value.astype(value.dtype.newbyteorder("="), copy=False)
        if not isinstance(value, (str, bytes)):
            return jnp.asarray(value)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name} is {describe(value)}, which is not an array of numbers")


def _is_layer(value: Any) -> bool:
    return getattr(value, "_fields", None) == ("weight", "bias")


def check_key(key: Any, name: str = "key") -> None:
    """Raise unless ``key`` is one typed PRNG key."""
    if not isinstance(key, jax.Array) or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{name} is {describe(key)}, expected a typed key: jax.random.key(seed), or "
            "jax.random.wrap_key_data(key) for a legacy uint32 key"
        )
    if key.shape != ():
        raise ValueError(f"{name} has shape {key.shape}, expected one key; map over several with jax.vmap")


def check_optimizer(optimizer: Any) -> None:
    """Raise unless it is an optax optimizer, as far as can be seen."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(f"optimizer is {describe(optimizer)}, expected an optax optimizer such as optax.sgd(0.5)")


def check_gradient(gradient: Any) -> None:
    """Raise unless it can be called."""
    if not callable(gradient):
        raise TypeError(f"gradient is {describe(gradient)}, expected a function such as jaxnet.backprop")


def check_params(params: Any) -> None:
    """Raise unless ``params`` is a non-empty tuple or list of layers that fit each other, of one floating dtype."""
    if not isinstance(params, (tuple, list)) or _is_layer(params):
        raise TypeError(f"params is {describe(params)}, expected a tuple of jaxnet.Layer")
    if not params:
        raise ValueError("params is empty, expected at least one jaxnet.Layer")
    units = None
    for i, layer in enumerate(params):
        if not _is_layer(layer):
            raise TypeError(f"params[{i}] is {describe(layer)}, expected a jaxnet.Layer(weight, bias)")
        for name, leaf in layer._asdict().items():
            check_floating(f"params[{i}].{name}", leaf)
            if leaf.dtype == jnp.float64 and not jax.config.read("jax_enable_x64"):
                raise TypeError(
                    f"params[{i}].{name} has dtype float64, but JAX's 64-bit mode is off; convert it to float32, or "
                    f"use {_USE_64_BITS}"
                )
        weight, bias = layer.weight.shape, layer.bias.shape
        if len(weight) != 2:
            hint = "; map over an ensemble with jax.vmap" if len(weight) == 3 else ""
            raise ValueError(f"params[{i}].weight has shape {weight}, expected (units, inputs){hint}")
        if 0 in weight:
            raise ValueError(f"params[{i}].weight has shape {weight}, expected at least one unit and one input")
        if bias != weight[:1]:
            raise ValueError(
                f"params[{i}].bias has shape {bias}, expected {weight[:1]}, one per unit of the weight {weight}"
            )
        if units is not None and weight[1] != units:
            raise ValueError(
                f"params[{i}].weight has shape {weight}, so it expects {weight[1]} inputs, but the layer before "
                f"has {units} units"
            )
        units = weight[0]
        for name, leaf in layer._asdict().items():
            if leaf.dtype != params[0].weight.dtype:
                raise TypeError(
                    f"params[{i}].{name} has dtype {leaf.dtype}, but params[0].weight has "
                    f"{params[0].weight.dtype}; give all parameters one dtype"
                )


def check_x(params: Any, x: ArrayLike) -> Array:
    """The inputs as an array, (..., inputs), checked against the parameters."""
    check_params(params)
    x = as_array("x", x)
    check_floating("x", x)
    weight = params[0].weight
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        features = f"{x.shape[-1]} features (shape {x.shape})" if x.ndim else "no feature axis (shape ())"
        raise ValueError(
            f"x has {features}, but the first layer expects {weight.shape[1]} (params[0].weight is {weight.shape})"
        )
    check_same_dtype("x", x, weight)
    return x


def check_batch(
    params: Any, x: ArrayLike, y: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Array, Array, Array | None]:
    """Inputs (..., inputs), targets (..., outputs) and example weights (...) as arrays, checked against each other."""
    x = check_x(params, x)
    y = as_array("y", y)
    check_floating("y", y)
    outputs = params[-1].weight.shape[0]
    if y.shape != (*x.shape[:-1], outputs):
        hint = ""
        if y.shape == x.shape[:-1]:
            hint = "; give it an output axis, y[..., None]" if outputs == 1 else "; see jaxnet.data.one_hot"
        raise ValueError(
            f"y has shape {y.shape}, expected {(*x.shape[:-1], outputs)}: a row of outputs for each example in x "
            f"(x is {x.shape}, the last layer has {outputs} units){hint}"
        )
    check_same_dtype("y", y, params[0].weight)
    if math.prod(x.shape[:-1]) == 0:
        raise ValueError(f"x has shape {x.shape}: no examples, and a mean over none is not defined")
    if weights is None:
        return x, y, None
    weights = as_array("weights", weights)
    check_floating("weights", weights)
    if weights.shape != x.shape[:-1]:
        raise ValueError(f"weights has shape {weights.shape}, expected {x.shape[:-1]}: one for each example in x")
    check_same_dtype("weights", weights, params[0].weight)
    return x, y, weights


def check_parts(name: str, data: Any) -> None:
    """Raise unless ``data`` is a tuple or list of x and y, and perhaps weights, whatever these are."""
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3) or isinstance(data[0], tuple):
        came = f"{describe(data)} of {len(data)}" if isinstance(data, (tuple, list)) else describe(data)
        raise TypeError(f"{name} is {came}, expected a tuple (x, y) or (x, y, weights) of arrays")


def check_direction(name: str, v: Any, params: Any) -> None:
    """Raise unless ``v`` is a tuple or list of layers with the shapes and the dtype of the parameters."""
    if not isinstance(v, (tuple, list)) or len(v) != len(params) or not all(_is_layer(layer) for layer in v):
        came = f"{describe(v)} of {len(v)}" if isinstance(v, (tuple, list)) else describe(v)
        raise TypeError(f"{name} is {came}, expected a tuple of {len(params)} jaxnet.Layer, like params")
    for i, (layer, expected) in enumerate(zip(v, params, strict=True)):
        for field, leaf in layer._asdict().items():
            here, like = f"{name}[{i}].{field}", getattr(expected, field)
            check_floating(here, leaf)
            if leaf.shape != like.shape:
                raise ValueError(f"{here} has shape {leaf.shape}, expected {like.shape} as params[{i}].{field}")
            check_same_dtype(here, leaf, like)


def checked_array(name: str, value: Any, shape: tuple[int, ...], weight: Array) -> Array:
    """An array of ``shape`` and of the dtype of the parameters."""
    array = as_array(name, value)
    check_floating(name, array)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    check_same_dtype(name, array, weight)
    return array


def check_floating(name: str, array: Any) -> None:
    """Raise unless ``array`` is an array of floats."""
    if getattr(array, "dtype", None) not in _FLOAT_DTYPES:
        raise TypeError(
            f"{name} is {describe(array)}, expected an array of floats ({', '.join(_FLOATS)}); convert it, for example "
            "with jnp.asarray(..., dtype=jnp.float32)"
        )


def check_same_dtype(name: str, array: Array, weight: Array) -> None:
    """Raise unless ``array`` has the dtype of the parameters."""
    if array.dtype != weight.dtype:
        raise TypeError(
            f"{name} has dtype {array.dtype}, but the parameters have {weight.dtype}; convert one of them, for "
            f"example {name}.astype({weight.dtype})"
        )


def describe(value: Any) -> str:
    """What a value is, for a message."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"an array of {value.dtype} with shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
