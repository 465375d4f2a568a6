"""The nodes of a traced program, with value and gradient, and the edges, with what each contributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxnet.graph.tape import OPENERS, Equation, Tape, source_of

if TYPE_CHECKING:
    from jaxnet.graph.tracing import Graph

__all__ = ["Edge", "Node"]

LARGEST_JACOBIAN = 1_000_000
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True, eq=False)
class Node:
    """One value of the program: an argument, a constant, or a result of a primitive.

    Attributes
    ----------
    index
        Its place in ``graph.nodes``, which are in the order of the forward pass.
    name
        The argument's name, or the name given with ``jax.ad_checkpoint.checkpoint_name``; else None.
    value
        The array.
    active
        Whether it depends on an argument of floats; only then it can have a gradient.
    gradient
        ∂f/∂value, of the shape of the value: the sum of the contributions of its outgoing edges. None where the
        result does not depend on it, or it is not active.
    """

    graph: Graph
    index: int
    name: str | None
    value: Any
    active: bool
    gradient: Any
    equation: Equation | None

    @property
    def label(self) -> str:
        """What it is called in pictures, tables and paths: its name, or v and its index, as in v₁₂."""
        return self.name if self.name is not None else f"v{self.index}".translate(_SUBSCRIPTS)

    @property
    def primitive(self) -> str:
        """The name of the primitive; ``"argument"`` or ``"constant"`` for what no primitive computes."""
        if self.equation is not None:
            return self.equation.primitive.name
        return "argument" if self.index in self.graph.recording.tape.inputs else "constant"

    @property
    def params(self) -> Mapping[str, Any]:
        """The parameters of the primitive."""
        return self.equation.params if self.equation is not None else {}

    @property
    def scope(self) -> tuple[str, ...]:
        """The functions under jit, loops and ``jax.named_scope`` that it stands in, outermost first."""
        return tuple(part.name for part in self.equation.scope) if self.equation is not None else ()

    @property
    def source(self) -> str:
        """The line of the program that it comes from: ``"file:line, in function"``, or an empty string."""
        return source_of(self.equation).strip(" ()") if self.equation is not None else ""

    @property
    def operands(self) -> tuple[Node, ...]:
        """The nodes that the primitive was applied to."""
        if self.equation is None:
            return ()
        return tuple(self.graph.nodes[i] for i in self.equation.operands)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """The edges from its operands, one for each."""
        return tuple(Edge(operand, self, i) for i, operand in enumerate(self.operands))

    @property
    def can_open(self) -> bool:
        """Whether there is a program inside it: a loop, a branch, or a function with a derivative of its own."""
        return self.equation is not None and _inside(self.equation) is not None

    def open(self) -> Graph:
        """The graph of what is inside a node that was kept whole, with the gradient of f at its inner nodes.

        A scan or a while loop is unrolled; a function with a derivative of its own (``jax.custom_jvp``,
        ``jax.custom_vjp``) is differentiated by the chain rule instead, which may differ from what its author says.

        Raises
        ------
        ValueError
            If there is nothing inside.
        """
        program = None if self.equation is None else _inside(self.equation)
        if self.equation is None or program is None:
            raise ValueError(f"{self!r} has nothing inside; node.can_open says which nodes have")
        return self.graph.inside(self.operands, program, [self.graph.nodes[i] for i in self.equation.results])

    def __repr__(self) -> str:
        shape = f"{self.value.dtype}{list(self.value.shape)}"
        return f"<Node {self.index}: {self.name + ' = ' if self.name else ''}{self.primitive}, {shape}>"


def _inside(equation: Equation) -> Callable[[Tape], list[int] | None] | None:
    """How to run what is inside an equation on a tape, or None."""
    if equation.primitive in OPENERS:
        return lambda tape: OPENERS[equation.primitive](tape, tape.inputs, equation.params, equation.scope)
    for name in ("call_jaxpr", "jaxpr"):
        if name in equation.params:
            return lambda tape: tape.run(equation.params[name], tape.inputs, equation.scope)
    return None


@dataclass(frozen=True, eq=False)
class Edge:
    """The use of one node, the operand, in another, the result."""

    operand: Node
    result: Node
    position: int

    @cached_property
    def contribution(self) -> Any:
        """What this use adds to the operand's gradient: z̄ ∂z/∂x, of its shape; None where that is nothing."""
        if self.result.gradient is None:
            return None
        return self._pulled(self.result.gradient)

    @cached_property
    def derivative(self) -> Any:
        """The local derivative ∂z/∂x, of shape (*shape of z, *shape of x); None where z does not depend on x.

        Raises
        ------
        ValueError
            If it would have more than a million entries.
        """
        z, x = self.result.value, self.operand.value
        if not (self.operand.active and self.result.active):
            return None
        if z.size * x.size > LARGEST_JACOBIAN:
            raise ValueError(
                f"the derivative of {self.result!r} with respect to {self.operand!r} has {z.size} x {x.size} entries, "
                f"more than {LARGEST_JACOBIAN}; use edge.contribution, or smaller arrays"
            )
        if z.size == 0 or x.size == 0 or z.shape == ():
            rows = self._pulled(jnp.ones_like(z))
            return rows if rows is not None else jnp.zeros((*z.shape, *x.shape), x.dtype)
        basis = jnp.eye(z.size, dtype=z.dtype).reshape(z.size, *z.shape)
        rows = jax.vmap(lambda bar: _or_zero(self._pulled(bar), x))(basis)
        return rows.reshape(*z.shape, *x.shape)

    def _pulled(self, bar: Any) -> Any:
        tape, equation = self.result.graph.recording.tape, self.result.equation
        assert equation is not None
        return tape.contributions(equation, {self.result.index: bar})[self.position]

    def __repr__(self) -> str:
        return f"<Edge from {self.operand!r} to {self.result!r}>"


def _or_zero(bar: Any, x: Any) -> Any:
    return jnp.zeros_like(x) if bar is None else bar
