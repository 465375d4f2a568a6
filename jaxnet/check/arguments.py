"""Checks of what `check_gradient` and `check_vjp` are given, and of what a gradient under test returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._validate import check_floating, check_key, describe

__all__ = [
    "Paired", "Shaped", "check_scalar", "checked_args", "differentiated", "positions_of", "random_cotangent", "seed_of",
]  # fmt: skip


@dataclass(frozen=True)
class Paired:
    """⟨f(*args), u⟩, of the arguments and u."""

    f: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """The product, a scalar."""
        products = jax.tree.map(lambda out, u: jnp.sum(jnp.asarray(out) * u), self.f(*args[:-1]), args[-1])
        return sum(jax.tree.leaves(products)[1:], start=jax.tree.leaves(products)[0])


@dataclass(frozen=True)
class Shaped:
    """A gradient function, checked to return what it should; equal ones share compiled code."""

    function: Callable[..., Any]
    name: str
    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    paths: tuple[str, ...]

    @classmethod
    def like(cls, args: tuple[Any, ...], argnums: Any, function: Callable[..., Any], name: str) -> Shaped:
        """A function that returns the structure of the arguments to differentiate."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(differentiated(args, argnums))
        paths = tuple(jax.tree_util.keystr(path) for path, _ in leaves)
        return cls(function, name, structure, tuple(leaf.shape for _, leaf in leaves), paths)

    def __call__(self, *args: Any) -> Any:
        """The gradient."""
        found = self.function(*args)
        leaves, structure = jax.tree.flatten(found)
        if structure != self.structure:
            hint = ""
            if isinstance(found, tuple) and len(found) == 2 and jax.tree.structure(found[1]) == self.structure:
                hint = f"; if it returns (value, gradient), pass lambda *args: {self.name}(*args)[1]"
            raise ValueError(
                f"{self.name}(*args) has the structure {structure}, expected that of the arguments to differentiate, "
                f"{self.structure}{hint}"
            )
        for path, leaf, shape in zip(self.paths, leaves, self.shapes, strict=True):
            if jnp.shape(leaf) != shape:
                hint = "; is it transposed?" if jnp.shape(leaf) == shape[::-1] else ""
                raise ValueError(f"{self.name}(*args){path} has shape {jnp.shape(leaf)}, expected {shape}{hint}")
            if not jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating):
                raise TypeError(f"{self.name}(*args){path} is {describe(leaf)}, expected an array of floats")
        return found


def positions_of(argnums: int | tuple[int, ...]) -> tuple[int, ...]:
    """The positions as a tuple."""
    return (argnums,) if isinstance(argnums, int) else argnums


def differentiated(args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> Any:
    """The argument to differentiate, or the tuple of them: the structure of the gradient."""
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


def checked_args(args: Any, argnums: Any) -> tuple[Any, ...]:
    """The arguments, those to differentiate as arrays of floats."""
    if not isinstance(args, tuple):
        raise TypeError(f"args is {describe(args)}, expected the tuple of all arguments, such as (params, x, y)")
    positions = positions_of(argnums)
    if not isinstance(positions, tuple) or not all(isinstance(i, int) and 0 <= i < len(args) for i in positions):
        raise ValueError(f"argnums is {argnums!r}, expected positions in args, from 0 to {len(args) - 1}")
    if len(set(positions)) < len(positions):
        raise ValueError(f"argnums is {argnums!r}, which names a position twice")
    args = tuple(
        jax.tree_util.tree_map_with_path(_floats(f"args[{i}]"), arg) if i in positions else arg
        for i, arg in enumerate(args)
    )
    if not sum(leaf.size for leaf in jax.tree.leaves(differentiated(args, argnums))):
        raise ValueError("the arguments to differentiate hold no numbers, so there is nothing to check")
    return args


def _floats(name: str) -> Callable[..., jax.Array]:
    def convert(path: Any, leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf, jnp.result_type(float)) if isinstance(leaf, float) else leaf
        check_floating(f"{name}{jax.tree_util.keystr(path)}", array)
        return jnp.asarray(array)

    return convert


def check_scalar(value: Any) -> None:
    """Raise unless ``value`` is one float."""
    if len(jax.tree.leaves(value)) != 1 or (not hasattr(value, "dtype") and not isinstance(value, float)):
        raise TypeError(f"f(*args) is {describe(value)}, expected a scalar")
    if jnp.shape(value) != ():
        raise ValueError(f"f(*args) has shape {jnp.shape(value)}, expected a scalar; for arrays there is check_vjp")
    if not jnp.issubdtype(jnp.asarray(value).dtype, jnp.floating):
        raise TypeError(f"f(*args) is {describe(value)}, expected a float")


def random_cotangent(out: Any, random: np.random.Generator) -> Any:
    """A random cotangent for what f returned, in quarters: exact, and its sums as well, in every dtype."""
    if not jax.tree.leaves(out):
        raise ValueError("f(*args) holds no arrays, so there is nothing to check")

    def draw(path: Any, leaf: Any) -> jax.Array:
        check_floating(f"f(*args){jax.tree_util.keystr(path)}", leaf)
        quarters = random.integers(1, 9, leaf.shape) * random.choice([-0.25, 0.25], leaf.shape)
        return jnp.asarray(quarters, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, out)


def seed_of(key: jax.Array | None) -> int:
    """The bits of the key, as a seed for what is drawn on the host."""
    key = jax.random.key(0) if key is None else key
    check_key(key)
    return int.from_bytes(np.asarray(jax.random.key_data(key)).tobytes(), "little")
