"""A function of pytrees seen as a function of one vector, and evaluated at many points by few compiled calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

__all__ = ["Bound", "Layout", "Probes", "Program", "bind", "cast", "first_line", "flatten", "floating"]


class _Varied(NamedTuple):
    """The place of an array that is differentiated."""

    shape: tuple[int, ...]
    dtype: Any


class _Given(NamedTuple):
    """The place of an array that is not."""


@dataclass(frozen=True, eq=False)
class _Opaque:
    """A value that has no hash: equal to itself only."""

    value: Any


@dataclass(frozen=True)
class Program:
    """A function, and everything of its arguments but the numbers: equal programs share their compiled code.

    Called with the differentiated numbers as one vector (n,), real or complex, and the other arrays.
    """

    function: Callable[..., Any]
    structure: Any
    places: tuple[Any, ...]

    def arguments(self, flat: Array, arrays: Sequence[Array]) -> Any:
        """The arguments of the function, in their structure."""
        leaves, start, rest = [], 0, iter(arrays)
        for place in self.places:
            if isinstance(place, _Varied):
                size = math.prod(place.shape)
                leaf = flat[start : start + size].reshape(place.shape)
                leaves.append(leaf if jnp.iscomplexobj(leaf) else leaf.astype(place.dtype))
                start += size
            elif isinstance(place, _Given):
                leaves.append(next(rest))
            else:
                leaves.append(place.value if isinstance(place, _Opaque) else place)
        return jax.tree.unflatten(self.structure, leaves)

    def __call__(self, flat: Array, arrays: Sequence[Array]) -> Any:
        """What the function returns."""
        return self.function(*self.arguments(flat, arrays))


class Layout(NamedTuple):
    """Where each leaf lies in the vector: its path in the pytree, its shape, and its slice."""

    leaves: tuple[tuple[str, tuple[int, ...], slice], ...]

    def spread(self, reduce: Callable[[np.ndarray], Any], vector: np.ndarray) -> np.ndarray:
        """The vector (n,) with each entry replaced by ``reduce`` of its whole leaf."""
        spread = np.zeros_like(vector)
        for _, _, part in self.leaves:
            spread[part] = reduce(vector[part])
        return spread


class Probes(NamedTuple):
    """Points x + t · directions[which], with entry j replaced by a value where j < n; each of shape (points,)."""

    which: np.ndarray
    t: np.ndarray
    j: np.ndarray
    value: np.ndarray


class Bound(NamedTuple):
    """A program at its arguments: the vector x (n,) in double precision on the host, and the other arrays."""

    program: Program
    x: np.ndarray
    arrays: tuple[Array, ...]
    layout: Layout
    dtype: Any

    def values(self, directions: np.ndarray, probes: Probes, dtype: Any = None) -> np.ndarray:
        """The scalar function at every probe, (points,): compiled where it can be traced, else one by one."""
        dtype = self.dtype if dtype is None else dtype
        points, batch = len(probes.t), _batch(self.x.size)
        padding = -points % batch if points > batch else 0
        which, t, j, value = (np.concatenate([column, np.repeat(column[:1], padding)]) for column in probes)
        columns = (jnp.asarray(which), jnp.asarray(t, dtype), jnp.asarray(j), jnp.asarray(value, dtype))
        arguments = (jnp.asarray(self.x, dtype), self.arrays, jnp.asarray(directions, dtype), columns)
        try:
            values = _values(self.program, *arguments)
        except Exception:  # whatever keeps it from being traced; where f itself fails, it fails again here
            if jnp.issubdtype(dtype, jnp.complexfloating):
                raise
            values = [_value(self.program, *arguments[:-1], [c[i] for c in columns]) for i in range(points)]
        return np.asarray(values).astype(complex if jnp.iscomplexobj(values) else float)[:points]

    def gradients(self, direction: np.ndarray, t: np.ndarray) -> np.ndarray:
        """The gradient by automatic differentiation at the points x + t · direction, (points, n)."""
        x, v, steps = (jnp.asarray(part, self.dtype) for part in (self.x, direction, t))
        return np.asarray(_gradients(self.program, x, self.arrays, v, steps), np.float64)

    def tangents(self, directions: np.ndarray) -> np.ndarray:
        """The derivative along each direction by forward differentiation, (directions,)."""
        x, v = jnp.asarray(self.x, self.dtype), jnp.asarray(directions, self.dtype)
        return np.asarray(_tangents(self.program, x, self.arrays, v), np.float64)

    def eager(self, x: np.ndarray) -> np.ndarray:
        """What the function returns at x, operation by operation, as one vector."""
        return np.asarray(flatten(self.program(jnp.asarray(x, self.dtype), self.arrays)), np.float64)

    def compiled(self, x: np.ndarray) -> np.ndarray:
        """What the function returns at x under jit, as one vector."""
        return np.asarray(_compiled(self.program, jnp.asarray(x, self.dtype), self.arrays), np.float64)

    def mapped(self, points: np.ndarray) -> np.ndarray:
        """What the function returns at the points (k, n) under vmap, (k, m)."""
        return np.asarray(_mapped(self.program, jnp.asarray(points, self.dtype), self.arrays), np.float64)


def bind(function: Callable[..., Any], args: tuple[Any, ...], argnums: tuple[int, ...], single: bool) -> Bound:
    """The function as one of the vector of all numbers in ``args[argnums]``."""
    paths, structure = jax.tree_util.tree_flatten_with_path(args)
    places, arrays, varied, leaves, start = [], [], [], [], 0
    for path, leaf in paths:
        if path[0].idx in argnums:
            leaf = jnp.asarray(leaf)
            places.append(_Varied(leaf.shape, leaf.dtype))
            varied.append(np.asarray(leaf, np.float64).ravel())
            name = jax.tree_util.keystr(path[1:])
            name = name if single else f"[{argnums.index(path[0].idx)}]{name}"
            leaves.append((name, leaf.shape, slice(start, start + leaf.size)))
            start += leaf.size
        elif isinstance(leaf, (Array, np.ndarray)):
            places.append(_Given())
            arrays.append(jnp.asarray(leaf))
        else:
            places.append(leaf if _hashable(leaf) else _Opaque(leaf))
    dtypes = [place.dtype for place in places if isinstance(place, _Varied)]
    dtype = min(dtypes, key=lambda dtype: float(jnp.finfo(dtype).eps))
    function = function if _hashable(function) else partial(function)
    program = Program(function, structure, tuple(places))
    return Bound(program, np.concatenate(varied), tuple(arrays), Layout(tuple(leaves)), dtype)


def cast(tree: Any, dtype: Any) -> Any:
    """The tree with every array of floats converted."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if floating(leaf) else leaf, tree)


def floating(leaf: Any) -> bool:
    """Whether the leaf is an array of floats."""
    return isinstance(leaf, (Array, np.ndarray, np.floating)) and jnp.issubdtype(leaf.dtype, jnp.floating)


def flatten(tree: Any) -> Array:
    """All numbers of a tree as one vector."""
    leaves = [jnp.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)]
    widest = min((leaf.dtype for leaf in leaves), key=lambda dtype: float(jnp.finfo(dtype).eps))
    return jnp.concatenate([leaf.astype(widest) for leaf in leaves])


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _batch(entries: int) -> int:
    """How many points are evaluated at once: 64, or fewer where their vectors would take more than 32 MiB."""
    return max(1, min(64, 2**22 // entries))


def _value(program: Program, x: Array, arrays: Any, directions: Array, probe: Any) -> Array:
    which, t, j, value = probe
    point = (x + t * directions[which]).at[j].set(value, mode="drop")
    return jnp.asarray(program(point, arrays))


@partial(jax.jit, static_argnums=0)
def _values(program: Program, x: Array, arrays: Any, directions: Array, probes: Any) -> Array:
    return lax.map(partial(_value, program, x, arrays, directions), probes, batch_size=_batch(x.size))


@partial(jax.jit, static_argnums=0)
def _gradients(program: Program, x: Array, arrays: Any, direction: Array, t: Array) -> Array:
    gradient = jax.grad(lambda x: jnp.asarray(program(x, arrays)))
    return lax.map(lambda t: gradient(x + t * direction), t, batch_size=_batch(x.size))


@partial(jax.jit, static_argnums=0)
def _tangents(program: Program, x: Array, arrays: Any, directions: Array) -> Array:
    return lax.map(lambda v: jax.jvp(lambda x: jnp.asarray(program(x, arrays)), (x,), (v,))[1], directions)


@partial(jax.jit, static_argnums=0)
def _compiled(program: Program, x: Array, arrays: Any) -> Array:
    return flatten(program(x, arrays))


@partial(jax.jit, static_argnums=0)
def _mapped(program: Program, points: Array, arrays: Any) -> Array:
    return jax.vmap(lambda x: flatten(program(x, arrays)))(points)
