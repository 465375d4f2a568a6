"""The multivariate chain rule number by number: every path from an input to the output, and their sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxnet.graph.nodes import Edge, Node

__all__ = ["Path", "Paths", "Step", "paths_from"]


class Step(NamedTuple):
    """One number on a path: an entry of a node's value. ``entry`` is its index in the array, () for a scalar."""

    node: Node
    entry: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.node.label}[{', '.join(map(str, self.entry))}]" if self.entry else self.node.label


class Path(NamedTuple):
    """One way on which an input entry acts on the output.

    ``steps`` are the numbers on it, from the input to the output; ``derivatives`` the local derivative from each to the
    next; ``cotangent`` what the output entry at its end is multiplied with, 1 for a scalar output; ``product`` the
    product of all of these.
    """

    steps: tuple[Step, ...]
    derivatives: tuple[float, ...]
    cotangent: float
    product: float

    def __repr__(self) -> str:
        return f"<Path {self}>"

    def __str__(self) -> str:
        factors = [f"{factor:.6g}" for factor in self.derivatives]
        if self.cotangent != 1 or not factors:
            factors.append(f"{self.cotangent:.6g}")
        return f"{' → '.join(map(str, self.steps))}:  {' · '.join(factors)} = {self.product:.6g}"


@dataclass(frozen=True, eq=False)
class Paths(Sequence[Path]):
    """All paths from the entries of one node to the output, as a sequence; ``str`` lists them with their sum.

    ∂f/∂x = Σ over the paths x → ... → f of the product of the local derivatives on the path.
    """

    wrt: Node
    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: Any) -> Any:
        return self.paths[i]

    @property
    def sum(self) -> np.ndarray:
        """The sum of the products of the paths from each entry, of the shape of ``wrt``: its gradient."""
        total = np.zeros(self.wrt.value.shape)
        for path in self.paths:
            total[path.steps[0].entry] += path.product
        return total

    def __repr__(self) -> str:
        return f"<Paths: {len(self)} from {self.wrt.label}>"

    def __str__(self) -> str:
        total = f"sum over {len(self)} paths: ∂f/∂{self.wrt.label} = {_short(self.sum)}"
        return "\n".join([*map(str, self.paths), total])


def _short(total: np.ndarray) -> str:
    return np.array2string(total, formatter={"float_kind": lambda value: f"{value:.6g}"})


def paths_from(wrt: Node, outputs: Sequence[tuple[Node, np.ndarray]], limit: int) -> Paths:
    """All paths from a node to outputs with cotangents, if they are not more than ``limit``.

    Entries between which the local derivative is zero are not connected, unless both nodes are scalars.
    """
    for node in wrt.graph.nodes:
        if isinstance(node.value, jax.core.Tracer):
            raise ValueError(
                "paths are lists of numbers, which are not known while the program is compiled or mapped over"
            )
        if node.gradient is not None and jnp.iscomplexobj(node.value):
            raise ValueError(
                f"{node!r} is complex, and its derivatives are not one number each; paths are for real ones"
            )
    ahead = _edges_ahead(wrt)
    ends: dict[int, np.ndarray] = {}
    for node, bar in outputs:  # the same node may be returned twice
        ends[node.index] = ends.get(node.index, 0) + np.asarray(bar).ravel()
    count = _count(wrt, ahead, ends)
    if count > limit:
        raise ValueError(
            f"there are {count:.6g} paths from {wrt!r} to the output, more than limit={limit}; ask for a node nearer "
            "to the output or with fewer entries, or raise limit"
        )
    found = [path for i in range(wrt.value.size) for path in _walk(wrt, i, ahead, ends)]
    return Paths(wrt, tuple(found))


Ahead = dict[int, list[tuple["Edge", np.ndarray]]]


def _edges_ahead(wrt: Node) -> Ahead:
    """For every node between ``wrt`` and the output, its outgoing edges that lead there, with their derivatives."""
    ahead: Ahead = defaultdict(list)
    between = {wrt.index}
    for edge in wrt.graph.edges:
        if edge.operand.index in between and edge.result.active and edge.result.gradient is not None:
            between.add(edge.result.index)
            derivative = np.asarray(edge.derivative)
            ahead[edge.operand.index].append((edge, derivative.reshape(edge.result.value.size, -1)))
    return ahead


def _linked(edge: Edge, derivative: np.ndarray) -> np.ndarray:
    return (
        np.ones_like(derivative, bool) if edge.operand.value.shape == edge.result.value.shape == () else derivative != 0
    )


def _count(wrt: Node, ahead: Ahead, ends: dict[int, np.ndarray]) -> float:
    """How many paths there are, counted from the output back without listing them."""
    counts: dict[int, np.ndarray] = {}
    for node in reversed(wrt.graph.nodes[wrt.index :]):
        here = np.full(node.value.size, float(node.index in ends))
        for edge, derivative in ahead.get(node.index, ()):
            here = here + counts[edge.result.index] @ _linked(edge, derivative)
        counts[node.index] = here
    return float(counts[wrt.index].sum())


def _walk(node: Node, i: int, ahead: Ahead, ends: dict[int, np.ndarray]) -> Iterator[Path]:
    """The paths from entry i of a node, depth first."""
    stack: list[tuple[tuple[tuple[Node, int], ...], tuple[float, ...]]] = [(((node, i),), ())]
    while stack:
        trail, factors = stack.pop()
        node, i = trail[-1]
        if node.index in ends:
            yield _path(trail, factors, float(ends[node.index][i]))
        for edge, derivative in reversed(ahead.get(node.index, ())):
            for j in reversed(np.flatnonzero(_linked(edge, derivative)[:, i])):
                stack.append(((*trail, (edge.result, int(j))), (*factors, float(derivative[j, i]))))


def _path(trail: Sequence[tuple[Node, int]], factors: tuple[float, ...], cotangent: float) -> Path:
    steps = (Step(node, tuple(int(k) for k in np.unravel_index(i, node.value.shape))) for node, i in trail)
    return Path(tuple(steps), factors, cotangent, float(np.prod([*factors, cotangent])))
