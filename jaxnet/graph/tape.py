"""The two passes over any JAX program: forward, recording every value; backward, adding up the cotangents.

The program is a jaxpr, a list of equations z = primitive(x, y, ...). The forward pass runs them one by one and keeps
every value on a tape. The backward pass walks the tape from back to front: the rule of each equation turns the
cotangent z̄ = ∂f/∂z of its result into the contributions to x̄ and ȳ, and a value that is used several times gets their
sum, which is the chain rule over paths. Both passes run eagerly or under jit, vmap and JAX's own differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend.core import Literal, Primitive
from jax.extend.core import primitives as P

from jaxnet.graph.registry import RULES

__all__ = [
    "OPENERS",
    "REACHED",
    "Equation",
    "Opener",
    "Scope",
    "Tape",
    "bind",
    "function_name",
    "is_differentiable",
    "jaxpr_and_consts",
    "reached_results",
    "source_of",
    "to_zero",
]

Opener = Callable[..., list[int] | None]

OPENERS: dict[Primitive, Opener] = {}
"""How to run what is inside a primitive on the tape: ``opener(tape, operands, params, scope)`` gives its results."""

REACHED: dict[Primitive, Callable[[Mapping[str, Any], Sequence[bool]], list[bool]]] = {
    P.stop_gradient_p: lambda _params, _active: [False],
}
"""Which results depend on active operands, by parameters and operands, where that is not all of them."""

_TRANSPARENT = {P.jit_p, P.closed_call_p, P.call_p}
_JAX, _HERE = (str(Path(module).parent) for module in (jax.__file__, __file__))


@dataclass(frozen=True, eq=False)
class Scope:
    """What equations stand in: one call of a function, one iteration of a loop, or one stay in a named scope."""

    name: str


class Equation(NamedTuple):
    """One application of a primitive; operands and results are positions on the tape."""

    primitive: Primitive
    params: Mapping[str, Any]
    operands: tuple[int, ...]
    results: tuple[int, ...]
    saved: Any
    scope: tuple[Scope, ...]
    traceback: Any


@jax.tree_util.register_pytree_node_class
class Tape:
    """Every value of a program, in the order of the forward pass, and the equations between them.

    ``unroll`` says whether loops, branches and rematerialised functions are run equation by equation, or kept whole.
    ``active`` values depend on what is differentiated; no cotangent is wanted of any other. As a pytree, a tape has
    its arrays as leaves.
    """

    def __init__(self, *, unroll: bool = False):
        self.unroll = unroll
        self.values: list[Any] = []
        self.active: list[bool] = []
        self.equations: list[Equation] = []
        self.names: dict[int, str] = {}
        self.inputs: list[int] = []
        self.results: list[int] = []

    @classmethod
    def of(cls, jaxpr: Any, operands: Sequence[Any], active: Sequence[bool], *, unroll: bool = False) -> Tape:
        """The tape of a whole program."""
        tape = cls(unroll=unroll)
        tape.begin(operands, active)
        tape.results = tape.run(jaxpr, tape.inputs)
        return tape

    def begin(self, operands: Sequence[Any], active: Sequence[bool]) -> None:
        """Put the operands of a program on the tape, as its inputs."""
        self.inputs = [self.put(value, active=wanted) for value, wanted in zip(operands, active, strict=True)]

    @property
    def outputs(self) -> list[Any]:
        """The values of the program's results."""
        return [self.values[i] for i in self.results]

    def put(self, value: Any, *, active: bool = False) -> int:
        """A new value's position."""
        self.values.append(value)
        self.active.append(active and is_differentiable(value))
        return len(self.values) - 1

    # ------------------------------------------------------------------------------------------------------------------
    # Forward

    def run(self, jaxpr: Any, operands: Sequence[int], scope: tuple[Scope, ...] = ()) -> list[int]:
        """Run a jaxpr on values of the tape; the positions of its results."""
        jaxpr, consts = jaxpr_and_consts(jaxpr)
        position = dict(zip(jaxpr.invars, operands, strict=True))
        position |= {var: self.put(const) for var, const in zip(jaxpr.constvars, consts, strict=True)}

        def look_up(atom: Any) -> int:
            if isinstance(atom, Literal):
                return self.put(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
            return position[atom]

        for equation in jaxpr.eqns:
            inner = (part for part in equation.source_info.name_stack.stack if hasattr(part, "name"))
            results = self.apply(equation, [look_up(atom) for atom in equation.invars], (*scope, *inner))
            position.update(zip(equation.outvars, results, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def apply(self, equation: Any, operands: list[int], scope: tuple[Scope, ...]) -> list[int]:
        """Run one equation of a jaxpr on values of the tape; the positions of its results."""
        primitive, params = equation.primitive, equation.params
        if primitive is P.name_p:
            self.names[operands[0]] = params["name"]
            return operands
        if primitive in OPENERS and (self.unroll or primitive in _TRANSPARENT):
            results = OPENERS[primitive](self, operands, params, scope)
            if results is not None:
                return results
        values = [self.values[i] for i in operands]
        active = [self.active[i] for i in operands]
        reached = reached_results(equation, active)
        forward = RULES[primitive].forward if primitive in RULES and any(reached) else None
        if forward is None:
            z = saved = bind(primitive, values, params)
        else:
            arrays = (x if isinstance(x, jax.Array) else jnp.asarray(x) for x in values)
            z, saved = forward(active, *arrays, **params)
        z = z if primitive.multiple_results else [z]
        results = [self.put(value, active=wanted) for value, wanted in zip(z, reached, strict=True)]
        traceback = equation.source_info.traceback
        self.equations.append(Equation(primitive, params, tuple(operands), tuple(results), saved, scope, traceback))
        return results

    # ------------------------------------------------------------------------------------------------------------------
    # Backward

    def pull(self, cotangents: Iterable[tuple[int, Any]]) -> dict[int, Any]:
        """Cotangents of all values that those of the given ones come back to.

        x̄ = Σ over the equations z = p(..., x, ...) of the contribution of z̄ to x̄, from back to front.
        """
        bars: dict[int, Any] = {}
        _add(bars, cotangents)
        for equation in reversed(self.equations):
            if any(result in bars for result in equation.results):
                _add(bars, zip(equation.operands, self.contributions(equation, bars), strict=True))
        return bars

    def back(self, bars: Sequence[Any]) -> list[Any]:
        """The cotangents of a program's active inputs, None for the others, from those of its results."""
        given = zip(self.results, bars, strict=True)
        found = self.pull((i, bar) for i, bar in given if bar is not None and self.active[i])
        return [(found[i] if i in found else to_zero(self.values[i])) if self.active[i] else None for i in self.inputs]

    def contributions(self, equation: Equation, bars: Mapping[int, Any]) -> list[Any]:
        """What the cotangents of an equation's results add to those of its operands; None for nothing."""
        active = [self.active[i] for i in equation.operands]
        if not any(active):
            return [None] * len(active)
        if equation.primitive not in RULES:
            raise _missing(equation)
        z_bar = [
            bars[i] if i in bars else to_zero(self.values[i]) if is_differentiable(self.values[i]) else None
            for i in equation.results
        ]
        operands = [self.values[i] for i in equation.operands]
        found = RULES[equation.primitive].backward(
            tuple(z_bar) if equation.primitive.multiple_results else z_bar[0],
            equation.saved,
            *operands,
            **equation.params,
        )
        if not isinstance(found, (tuple, list)) or len(found) != len(operands):
            raise TypeError(
                f"the rule of {equation.primitive} returned {_described(found)}, expected a tuple of "
                f"{len(operands)}: one cotangent, or None, for each operand"
            )
        return [
            _checked(equation, i, x_bar, x, self.values[equation.results[0]]) if needed else None
            for i, (needed, x_bar, x) in enumerate(zip(active, found, operands, strict=True))
        ]

    # ------------------------------------------------------------------------------------------------------------------
    # As a pytree

    def tree_flatten(self) -> tuple[Any, Any]:
        """The arrays, and all else."""
        rest = {name: value for name, value in vars(self).items() if name != "values"}
        return (self.values, [equation.saved for equation in self.equations]), rest

    @classmethod
    def tree_unflatten(cls, rest: Any, arrays: Any) -> Tape:
        """The same program with other arrays."""
        tape = cls()
        vars(tape).update(rest)
        tape.values, saved = arrays
        tape.equations = [e._replace(saved=left) for e, left in zip(tape.equations, saved, strict=True)]
        return tape


def _add(bars: dict[int, Any], contributions: Iterable[tuple[int, Any]]) -> None:
    for position, contribution in contributions:
        if contribution is not None:
            bars[position] = bars[position] + contribution if position in bars else contribution


def _checked(equation: Equation, i: int, x_bar: Any, x: Any, z: Any) -> Any:
    """The cotangent of operand i, summed over what the operand was broadcast to; an error if it does not fit."""
    if x_bar is NotImplemented:
        raise NotImplementedError(
            f"{equation.primitive}{source_of(equation)} cannot be differentiated with respect to its operand {i}"
        )
    if x_bar is None:
        return None
    if not (hasattr(x_bar, "dtype") and hasattr(x_bar, "shape")):
        raise TypeError(
            f"the rule of {equation.primitive} returned {_described(x_bar)} for operand {i}, expected an array or None"
        )
    shape, given = jnp.shape(x), jnp.shape(x_bar)
    if given != shape and given == jnp.shape(z):
        x_bar = _unbroadcast(x_bar, shape)
    if jnp.shape(x_bar) != shape or jnp.result_type(x_bar) != x.dtype:
        raise TypeError(
            f"the rule of {equation.primitive} returned {_described(x_bar)} for operand {i}, "
            f"expected its shape {shape} and dtype {x.dtype}"
        )
    return x_bar


def _unbroadcast(x_bar: Any, shape: tuple[int, ...]) -> Any:
    """Sum over the axes that an operand of this shape was broadcast over: all of a scalar's, or those of size 1."""
    if shape == ():
        return jnp.sum(x_bar)
    if len(shape) != x_bar.ndim:
        return x_bar
    stretched = tuple(i for i, (size, now) in enumerate(zip(shape, x_bar.shape, strict=True)) if size == 1 != now)
    return jnp.sum(x_bar, stretched, keepdims=True)


def _described(value: Any) -> str:
    if hasattr(value, "dtype"):
        return f"an array of {value.dtype} with shape {jnp.shape(value)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (tuple, list)) else "")


def _missing(equation: Equation) -> NotImplementedError:
    name = equation.primitive.name
    return NotImplementedError(
        f"no cotangent rule for the primitive {name!r}{source_of(equation)}. Rules exist for {len(RULES)} primitives; "
        "register one with @graph.rule(primitive) above "
        "def f(z_bar, z, *operands, **params), which returns a cotangent, or None, for each operand; "
        "or hide the call in a jax.custom_vjp"
    )


# ----------------------------------------------------------------------------------------------------------------------
# What JAX's programs are made of


def jaxpr_and_consts(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """The jaxpr, whose constants are variables, and their values."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def function_name(params: Mapping[str, Any]) -> str:
    """What the function is called that a custom_jvp_call or custom_vjp_call with these parameters calls."""
    return jaxpr_and_consts(params["call_jaxpr"])[0].debug_info.func_name


def reached_results(equation: Any, active: Sequence[bool]) -> list[bool]:
    """Which results of an equation of a jaxpr depend on active operands."""
    if equation.primitive in REACHED:
        return REACHED[equation.primitive](equation.params, active)
    return [any(active)] * len(equation.outvars)


def bind(primitive: Primitive, operands: Sequence[Any], params: Mapping[str, Any]) -> Any:
    """Run a primitive: its result, or a list of them."""
    return primitive.bind(*operands, **primitive.get_bind_params(dict(params)))


def is_differentiable(value: Any) -> bool:
    """Whether a value has a cotangent: it is an array of real or complex floats."""
    return jnp.issubdtype(jnp.result_type(value) if not hasattr(value, "dtype") else value.dtype, jnp.inexact)


def source_of(equation: Equation) -> str:
    """Where an equation stands, for a message: the innermost frame of its traceback outside JAX and this package."""
    for frame in equation.traceback.frames if equation.traceback is not None else ():
        if not frame.file_name.startswith((_JAX, _HERE, "<")):
            return f" ({frame.file_name}:{frame.line_num}, in {frame.function_name})"
    return ""


def to_zero(value: Any) -> Array:
    """A zero cotangent of a value."""
    return jnp.zeros(jnp.shape(value), jnp.result_type(value))
