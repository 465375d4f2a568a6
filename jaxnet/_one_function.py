"""Loops of small operations on a CPU, compiled as one function.

XLA compiles a program for a CPU to kernels, one for each fusion of operations, which its runtime starts one by one:
that takes as long as some hundred operations, and a loop whose body has more than eight kernels asks for memory in
every iteration. A loop that it takes for small it compiles to one function, in which a kernel costs nothing to start,
but next to none is small enough. Here loops are marked as such whatever their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

import jax
from jax import Array, lax
from jax.core import eval_jaxpr
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Jaxpr, JaxprEqn, get_opaque_trace_state, subjaxprs
from jax.sharding import SingleDeviceSharding

_R = TypeVar("_R")

QUICKLY: dict[str, Any] = {} if jax.__version_info__ >= (0, 11) else {"xla_cpu_use_fusion_emitters": False}
"""With what a program that only moves numbers is compiled: XLA has one way for its kernels from JAX 0.11 on, and before
a choice of two, of which this one makes slower kernels, in a third to a half of the time."""

COMPILER_OPTIONS = QUICKLY | {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}
"""With what a program that holds one function must be compiled: XLA leaves its sums to no library then."""

_PRODUCT = "dot_general"
"""A product is a plain loop there, which takes long where it is not small."""

_PRIMITIVES = {
    "abs", "add", "and", "argmax", "argmin", "broadcast_in_dim", "cbrt", "ceil", "clamp", "concatenate", "cond",
    "convert_element_type", "copy", "copy_p", "cos", "cosh", "cummax", "cummin", "cumprod", "cumsum",
    "custom_jvp_call", "custom_vjp_call", "div", _PRODUCT, "dynamic_slice", "dynamic_update_slice", "eq", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "gather", "ge", "gt", "integer_pow", "iota", "is_finite",
    "jit", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "optimization_barrier",
    "or", "pad", "pjit", "pow", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum",
    "rem", "reshape", "rev", "round", "rsqrt", "scan", "select_n", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sign", "sin", "sinh", "slice", "split", "sqrt", "square", "squeeze", "stack",
    "stop_gradient", "sub", "tan", "tanh", "transpose", "unstack", "while", "xla_metadata_value", "xor",
}  # fmt: skip
"""What one function can hold; sorting, scattering and factorizations it cannot."""

_LONG = 4096
"""Numbers along the last axis of an array, or over all of it, whose sum takes longer there, one at a time."""

_inside: ContextVar[bool] = ContextVar("_inside", default=False)
"""Whether a function is being traced, so that parts of it are part of it."""

_OUTSIDE = get_opaque_trace_state()
"""JAX's state outside of all transformations."""


def may_be_one_function(tree: Any) -> bool:
    """Whether work on the arrays of a tree may be one function: on one CPU, on no mesh, and in no transformation.

    In one, a traced number may hide in a caller's function, and what becomes of the loop is out of our hands.
    """
    places = {leaf.sharding for leaf in jax.tree.leaves(tree) if isinstance(leaf, Array)}
    alone = len(places) <= 1 and all(isinstance(place, SingleDeviceSharding) for place in places)
    return jax.default_backend() == "cpu" and alone and not in_transformation()


def in_transformation() -> bool:
    """Whether JAX is tracing, for one of its transformations."""
    return get_opaque_trace_state() != _OUTSIDE


class NotOneFunctionError(Exception):
    """What had to be one function holds what it cannot."""


def in_one_function(f: Callable[..., _R], *args: Any, products: int = 0, required: bool = False) -> _R:
    """``f(*args)``, compiled as one function where it can be, and is not part of another; within ``jax.jit``, on a CPU.

    It can be, if it holds nothing but small operations, no long sums, and no more than so many products.

    What f does not get as an argument, but from around it, may be traced, too. Where f cannot be one function, parts of
    it may be; it is traced twice then, and must not hand JAX a function whose trace JAX remembers. If it is required to
    be one, a `NotOneFunctionError` is raised instead.
    """
    if _inside.get():
        return f(*args)
    token = _inside.set(True)
    try:
        closed, shape = jax.make_jaxpr(f, return_shape=True)(*args)
    finally:
        _inside.reset(token)
    equations = list(_equations(closed.jaxpr))
    primitives = [equation.primitive.name for equation in equations]
    long = any(map(_is_long_sum, equations))
    if long or not _PRIMITIVES.issuperset(primitives) or primitives.count(_PRODUCT) > products:
        if required:
            raise NotOneFunctionError
        return f(*args)
    split = len(closed.consts)
    outputs = _marked(
        lambda *inputs: eval_jaxpr(closed.jaxpr, inputs[:split], *inputs[split:]),
        *closed.consts,
        *jax.tree.leaves(args),
    )
    return jax.tree.unflatten(jax.tree.structure(shape), outputs)


def apart(f: Callable[..., _R], *inputs: Array) -> _R:
    """``f(*inputs)``; within `in_one_function` as a function of its own, which XLA fuses with nothing around it."""
    return _marked(f, *inputs) if _inside.get() else f(*inputs)


def _marked(f: Callable[..., _R], *inputs: Array) -> _R:
    """``f(*inputs)`` as a function that XLA makes one of, whatever its size."""

    @jax.jit
    def function(*inputs: Array) -> tuple[_R, Any]:
        return f(*inputs), lax.optimization_barrier(inputs)

    # XLA aborts where such a function has an input that it finds no use for. So all are outputs, too, and the barriers
    # keep JAX from noticing that no one needs them.
    marked = set_xla_metadata(function(*inputs), inlineable="false", xla_cpu_small_call="true")
    outputs, _ = lax.optimization_barrier(marked)
    return outputs


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All operations, with those of loops and branches."""
    yield from jaxpr.eqns
    for part in subjaxprs(jaxpr):
        yield from _equations(part)


def _is_long_sum(equation: JaxprEqn) -> bool:
    if equation.primitive.name not in ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod"):
        return False
    summed: Any = equation.invars[0].aval
    shape, axes = summed.shape, equation.params["axes"]
    return len(shape) - 1 in axes and math.prod(shape[axis] for axis in axes) > _LONG
