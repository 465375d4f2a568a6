"""`trace` and `Graph`: a program that was run, with the value and the gradient of every node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from jaxnet._validate import checked_count
from jaxnet.graph.nodes import Edge, Node
from jaxnet.graph.paths import Paths, paths_from
from jaxnet.graph.recording import Recording, check_callable, checked_cotangent, record, seed
from jaxnet.graph.tape import Tape

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from jaxnet.graph.drawing.plan import Plan

__all__ = ["Graph", "trace"]


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

    def inside(
        self, operands: Sequence[Node], program: Callable[[Tape], list[int] | None], results: Sequence[Node]
    ) -> Graph:
        """The graph of a program that leads from some nodes to others, whose gradients are its cotangents."""
        tape = Tape(unroll=True)
        tape.begin([node.value for node in operands], [node.active for node in operands])
        found = program(tape)
        if found is None:
            raise ValueError(f"{results[0]!r} cannot be opened: its values are not known while the program is compiled")
        tape.results = found
        names = [node.label for node in operands]
        structures = jax.tree.structure(tuple(names)), jax.tree.structure(found)
        return Graph(Recording(tape, *structures, names), [node.gradient for node in results])

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
        x → v₁ → v₂:  -0.416147 · 2 = -0.832294
        x → v₂:  0.909297 = 0.909297
        sum over 2 paths: ∂f/∂x = 0.0770037
        """
        outputs = [(node, bar) for node, bar in zip(self.outputs, self.cotangents, strict=True) if bar is not None]
        return paths_from(self._find(wrt), outputs, checked_count("limit", limit, least=1))

    def _find(self, wrt: str | int | Node) -> Node:
        if isinstance(wrt, Node):
            if wrt.graph is not self:
                raise ValueError(f"wrt is {wrt!r} of another graph")
            return wrt
        if isinstance(wrt, int) and not isinstance(wrt, bool) and 0 <= wrt < len(self.arguments):
            return self.arguments[wrt]
        found = [node for node in self.nodes if node.name is not None and node.name == wrt]
        if len(found) > 1:
            raise ValueError(f"wrt is {wrt!r}, which {len(found)} nodes are called: give one of them, {found}")
        if not found:
            names = ", ".join(node.name for node in self.nodes if node.name)
            raise ValueError(f"wrt is {wrt!r}, expected a node, the position of an argument, or one of {names}")
        return found[0]

    def draw(
        self,
        *,
        depth: int | None = None,
        plumbing: bool = False,
        direction: Literal["right", "down"] | None = None,
        title: str = "",
    ) -> Figure:
        """A picture: values in blue, gradients in vermillion, on each link between numbers the local derivative.

        Arrays are shown by shape and heat maps, on one symmetric scale for all values and one for all gradients,
        with colours by the cube root, so that small gradients show.
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

    f is staged, as by ``jax.jit``: Python code that branches on an argument's value, or needs a number for a shape, has
    to get it as a keyword argument, ``trace(f)(*args, **options)``, or from outside. Options are not differentiated.

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

    def traced(*args: Any, **options: Any) -> Graph:
        recording = record(partial(f, **options), args, range(len(args)), unroll=unroll)
        tape = recording.tape
        if cotangent is None:
            return Graph(recording, [seed(recording)])
        value = jax.tree.unflatten(recording.result, tape.outputs)
        return Graph(recording, checked_cotangent("cotangent", cotangent, value))

    return traced
