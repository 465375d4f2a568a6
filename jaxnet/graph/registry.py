"""Where the cotangent rules stand: one for each primitive, registered where it is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from jax.extend.core import Primitive

__all__ = ["Rule", "rule"]

F = TypeVar("F", bound=Callable[..., Any])


class Rule(NamedTuple):
    """How a primitive is run, and how a cotangent comes back through it.

    ``backward(z_bar, saved, *operands, **params)`` returns a cotangent, or None for zero, for each operand; ``saved``
    is the result z, unless ``forward(active, *operands, **params)``, which returns ``(z, saved)``, leaves something
    else. ``active`` says which operands are differentiated.
    """

    backward: Callable[..., Any]
    forward: Callable[..., Any] | None = None


RULES: dict[Primitive, Rule] = {}


def rule(primitive: Primitive, *, forward: Callable[..., Any] | None = None) -> Callable[[F], F]:
    """Register the decorated function as the cotangent rule of a primitive, z = primitive(x, y, ...).

    The function is called as ``backward(z_bar, z, x, y, ..., **params)`` and returns a tuple with one cotangent for
    each operand: of its shape and dtype, or of the shape of z if the operand is broadcast in it; None
    for zero; ``NotImplemented`` if the operand cannot be differentiated. z and z_bar are tuples if the primitive has
    several results. The rule is linear in z_bar and may use any function of JAX but its differentiation.

    Parameters
    ----------
    primitive
        A primitive, for example one of ``jax.extend.core.primitives``. A rule it has already is replaced.
    forward
        How to run the primitive so as to save more than z for the rule: ``forward(active, x, y, ..., **params)``
        returns ``(z, saved)``, where ``active`` has a bool for each operand: whether it is differentiated. The rule
        then finds ``saved`` in the place of z.

    Raises
    ------
    TypeError
        If ``primitive`` is not a ``jax.extend.core.Primitive``.

    >>> from jaxnet import graph
    >>> cube = Primitive("cube")
    >>> _ = cube.def_impl(lambda x: x**3)
    >>> _ = cube.def_abstract_eval(lambda x: x)
    >>> @graph.rule(cube)
    ... def cube_rule(z_bar, z, x):
    ...     return (z_bar * 3 * x**2,)
    >>> float(graph.grad(cube.bind)(2.0))
    12.0
    """
    if not isinstance(primitive, Primitive):
        raise TypeError(
            f"primitive is a {type(primitive).__name__}, expected a jax.extend.core.Primitive: "
            "@graph.rule(primitive), with the primitive that the error or jax.make_jaxpr shows"
        )

    def register(backward: F) -> F:
        if not callable(backward):
            raise TypeError(f"the rule of {primitive} is a {type(backward).__name__}, expected a function")
        RULES[primitive] = Rule(backward, forward)
        return backward

    return register
