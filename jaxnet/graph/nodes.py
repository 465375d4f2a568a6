"""`Graph`: a traced program with the value and the gradient of every node, and what each edge contributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from jaxnet.graph.paths import Paths, paths_from
from jaxnet.graph.recording import Recording, check_callable, checked_cotangent, record, seed
from jaxnet.graph.tape import OPENERS, Equation, Tape, source_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from jaxnet.graph.drawing.plan import Plan

__all__ = ["Edge", "Graph", "Node", "trace"]

LARGEST_JACOBIAN = 1_000_000


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
        tape = Tape(unroll=True)
        tape.inputs = [tape.put(node.value, active=node.active) for node in self.operands]
        results = program(tape)
        if results is None:
            raise ValueError(f"{self!r} cannot be opened: its values are not known while the program is compiled")
        tape.results = results
        names = [node.name or f"operand {i}" for i, node in enumerate(self.operands)]
        structures = jax.tree.structure(tuple(names)), jax.tree.structure(results)
        bars = [self.graph.nodes[i].gradient for i in self.equation.results]
        return Graph(Recording(tape, *structures, names), bars)

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


class Graph:
    """A program that was run, with the value and the gradient of every node.

    ``str(graph)`` is a table; in a notebook, a graph shows itself as a picture.

    Attributes
    ----------
    nodes
        Every value, in the order of the forward pass: a tuple of `Node`.
    arguments, outputs
        The nodes of the leaves of the arguments, and of the result.
    value
        What the function returned.
    gradients
        One for each argument, in its structure: the gradient of the result, or of the result times the cotangent
        that was given. None for leaves that are not floats.
    """

    def __init__(self, recording: Recording, cotangents: Sequence[Any]):
        self.recording, self.cotangents = recording, tuple(cotangents)
        tape = recording.tape
        given = zip(tape.results, cotangents, strict=True)
        bars = tape.pull((i, bar) for i, bar in given if bar is not None and tape.active[i])
        made = {result: equation for equation in tape.equations for result in equation.results}
        names = tape.names | dict(zip(tape.inputs, recording.names, strict=True))
        self.nodes: tuple[Node, ...] = tuple(
            Node(self, i, names.get(i), jnp.asarray(value), active, bars.get(i), made.get(i))
            for i, (value, active) in enumerate(zip(tape.values, tape.active, strict=True))
        )

    @property
    def arguments(self) -> tuple[Node, ...]:
        """The nodes of the leaves of the arguments."""
        return tuple(self.nodes[i] for i in self.recording.tape.inputs)

    @property
    def outputs(self) -> tuple[Node, ...]:
        """The nodes of the leaves of the result."""
        return tuple(self.nodes[i] for i in self.recording.tape.results)

    @property
    def value(self) -> Any:
        """What the function returned."""
        return jax.tree.unflatten(self.recording.result, [node.value for node in self.outputs])

    @property
    def gradients(self) -> tuple[Any, ...]:
        """One for each argument, in its structure; None for leaves that are not floats."""
        found = [
            (jnp.zeros_like(node.value) if node.gradient is None else node.gradient) if node.active else None
            for node in self.arguments
        ]
        return jax.tree.unflatten(self.recording.arguments, found)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every edge, in the order of the forward pass."""
        return tuple(edge for node in self.nodes for edge in node.edges)

    def paths(self, wrt: str | int | Node, *, limit: int = 1000) -> Paths:
        """Every path from an argument to the result, with its product of local derivatives, and their sum.

        ∂f/∂x = Σ over the paths x → ... → f of Π ∂(next) / ∂(this): the multivariate chain rule, number by number. In
        arrays every entry is a number of its own.

        Parameters
        ----------
        wrt
            The name of an argument (of a leaf of it, such as ``"params[0].weight"``), its position among
            ``graph.arguments``, or any node.
        limit
            The most paths that are listed.

        Raises
        ------
        ValueError
            If there are more paths than ``limit``, no argument of that name, or arrays too large for their derivatives.

        >>> from jaxnet import graph
        >>> g = graph.trace(lambda x: x * jnp.sin(x))(jnp.float32(2.0))
        >>> print(g.paths("x"))
        x → sin1 → mul2:  -0.416147 · 2 = -0.832294
        x → mul2:  0.909297 = 0.909297
        sum over 2 paths: ∂f/∂x = 0.0770037
        """
        outputs = [(node, bar) for node, bar in zip(self.outputs, self.cotangents, strict=True) if bar is not None]
        return paths_from(self._find(wrt), outputs, limit)

    def _find(self, wrt: str | int | Node) -> Node:
        if isinstance(wrt, Node):
            if wrt.graph is not self:
                raise ValueError(f"wrt is {wrt!r} of another graph")
            return wrt
        named = {node.name: node for node in self.arguments} | dict(enumerate(self.arguments))
        named |= {node.name: node for node in self.nodes if node.name and node.name not in named}
        if wrt not in named:
            names = ", ".join(str(node.name) for node in self.nodes if node.name)
            raise ValueError(f"wrt is {wrt!r}, expected a node, the position of an argument, or one of {names}")
        return named[wrt]

    def draw(
        self,
        *,
        depth: int | None = None,
        plumbing: bool = False,
        direction: Literal["right", "down"] | None = None,
        title: str = "",
    ) -> Figure:
        """A picture: values in blue, gradients in vermillion, on each link between numbers the local derivative.

        Arrays are shown by shape and heat maps, on one symmetric scale for all values and one for all gradients.
        ``graph.draw().savefig("graph.svg")`` saves it, also as png or pdf. Needs matplotlib.

        Parameters
        ----------
        depth
            How many levels of scopes (functions under jit, iterations of loops, ``jax.named_scope``) are drawn as
            frames around what is in them; deeper ones are folded into one box each. None opens as many as leave
            about 40 boxes, and folds the middle of a long sequence.
        plumbing
            Show also what is left out by default: reshapes and changes of dtype, what has no gradient (computations
            of indices and masks), and what does not lead to the result.
        direction
            Where the result is: ``"right"`` or ``"down"``; None chooses by the shape of the picture.
        title
            A heading.

        Raises
        ------
        ImportError
            If matplotlib is missing.
        ValueError
            If an option is none of these.
        """
        plan = self._plan(depth, plumbing)
        try:
            from jaxnet.graph.drawing.figure import drawn
        except ImportError as error:
            raise ImportError("draw() needs matplotlib: pip install jaxnet[experiments]") from error
        return drawn(plan, direction, title)

    def to_mermaid(self, *, depth: int | None = None, plumbing: bool = False) -> str:
        """The picture as a Mermaid flowchart, which Markdown on code hosts shows. Options as in `draw`."""
        from jaxnet.graph.drawing.text import mermaid

        return mermaid(self._plan(depth, plumbing))

    def to_dot(self, *, depth: int | None = None, plumbing: bool = False) -> str:
        """The picture in Graphviz's language DOT. Options as in `draw`."""
        from jaxnet.graph.drawing.text import dot

        return dot(self._plan(depth, plumbing))

    def table(self, *, rows: int | None = 60) -> Table:
        """All nodes as a table for ``rich.print``, with at most so many rows; None for all of them.

        Arrays are given by shape and Euclidean norm. Numbers that are constants stand in the operations that use
        them. ``str(graph)`` is the same as plain text.

        Raises
        ------
        ImportError
            If rich is missing.
        ValueError
            If ``rows`` is not a positive integer or None.
        """
        if rows is not None and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 1):
            raise ValueError(f"rows is {rows!r}, expected the most rows to print, 1 or more, or None for all")
        from jaxnet.graph.drawing.table import rich_table

        try:
            return rich_table(self, rows)
        except ImportError as error:
            raise ImportError("table() needs rich: pip install jaxnet[experiments], or use str(graph)") from error

    def __str__(self) -> str:
        from jaxnet.graph.drawing.table import plain_table

        return plain_table(self, 60)

    def __repr__(self) -> str:
        return f"<Graph of {len(self.nodes)} nodes>"

    def _repr_html_(self) -> str:
        from jaxnet.graph.drawing.notebook import html

        return html(self)

    def _repr_svg_(self) -> str | None:
        from jaxnet.graph.drawing.notebook import svg

        return svg(self)

    def _plan(self, depth: int | None, plumbing: bool) -> Plan:
        from jaxnet.graph.drawing.plan import plan

        return plan(self, depth=depth, plumbing=plumbing)


def trace(f: Callable[..., Any], *, cotangent: Any = None, unroll: bool = True) -> Callable[..., Graph]:
    """Run a function with every intermediate value kept, and backpropagate through it: ``trace(f)(*args)``, a `Graph`.

    Parameters
    ----------
    f
        A function of arrays, in pytrees, to one real number, or with ``cotangent`` to arrays.
    cotangent
        What the result is multiplied with if it is not one real number, in its structure: the gradients are then
        those of ⟨result, cotangent⟩.
    unroll
        Show loops iteration by iteration, branches as the one taken, rematerialised functions from inside; or keep
        each of them as one node, which ``node.open()`` opens.

    Raises
    ------
    NotImplementedError
        If a primitive of f has no rule (see `rule`).
    TypeError, ValueError
        If an argument is not an array, the result is not a real number and no cotangent is given, or it does not fit.

    >>> from jaxnet import graph
    >>> g = graph.trace(lambda a, b, c: ((a + b) * c) ** 2)(1.0, 2.0, 3.0)
    >>> float(g.value), [float(bar) for bar in g.gradients]
    (81.0, [54.0, 54.0, 54.0])
    >>> [node.primitive for node in g.nodes]
    ['argument', 'argument', 'argument', 'add', 'mul', 'integer_pow']
    >>> [float(edge.derivative) for edge in g.edges]
    [1.0, 1.0, 3.0, 3.0, 18.0]
    """
    check_callable(f)

    def traced(*args: Any) -> Graph:
        recording = record(f, args, range(len(args)), unroll=unroll)
        tape = recording.tape
        if cotangent is None:
            return Graph(recording, [seed(tape)])
        value = jax.tree.unflatten(recording.result, tape.outputs)
        return Graph(recording, checked_cotangent("cotangent", cotangent, value))

    return traced
