"""Examples that lie on several devices, where JAX must be told how results shall lie.

Where the axes of a mesh are automatic, the compiler decides. Where they are explicit, how an array lies is part of its
type, and a sum over examples, or a result for all pairs of them, must say it. Within ``jax.shard_map``, types say along
which axes devices hold different values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_P = ParamSpec("_P")
_R = TypeVar("_R")

# ----------------------------------------------------------------------------------------------------------------------
# Explicit axes


def explicit(array: Array, spec: list[Any]) -> NamedSharding | None:
    """What a result of the array is told, by axis, where the mesh that the array lies on has explicit axes."""
    mesh = jax.typeof(array).sharding.mesh
    return NamedSharding(mesh, PartitionSpec(*spec)) if mesh.explicit_axes else None


def summed_product(a: Array, b: Array, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """``jnp.tensordot`` over axes of examples: where devices hold parts of them, the sum of all, on each device."""
    specs = [jax.typeof(array).sharding.spec for array in (a, b)]
    kept = [spec[axis] for spec, summed in zip(specs, axes, strict=True) for axis in range(len(spec))
            if axis not in summed]  # fmt: skip
    return jnp.tensordot(a, b, axes, out_sharding=explicit(a, kept))


def summed_matmul(a: Array, b: Array) -> Array:
    """``a @ b``, a sum over examples, (..., units, n) and (..., n, inputs): likewise."""
    left, right = (jax.typeof(array).sharding.spec for array in (a, b))
    return jnp.matmul(a, b, out_sharding=explicit(a, [*left[:-1], right[-1]]))


def everywhere(array: Array) -> Array:
    """The whole array on each device, where devices hold parts by explicit axes."""
    sharding = explicit(array, [])
    return array if sharding is None else jax.sharding.reshard(array, sharding)


def rows_as(array: Array) -> NamedSharding | None:
    """How a result lies whose first axis is that of the array, where that is explicit."""
    return explicit(array, jax.typeof(array).sharding.spec[:1])


def take(array: Array, rows: Array) -> Array:
    """Different rows of the array, (..., k) of them: of each k, devices hold parts as of the array, where they can."""
    sharding = jax.typeof(array).sharding
    first, *others = sharding.spec
    parts = len(array) // sharding.shard_shape(array.shape)[0]
    spec = [*[None] * (rows.ndim - 1), first if rows.shape[-1] % parts == 0 else None, *others]
    return array.at[rows].get(mode="promise_in_bounds", unique_indices=True, out_sharding=explicit(array, spec))


def with_automatic_axes(run: Callable[_P, _R]) -> Callable[_P, _R]:
    """The same function, not for use within ``jax.jit``, with explicit axes of meshes automatic while it runs."""

    @wraps(run)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        meshes = {leaf.sharding.mesh for leaf in jax.tree.leaves((args, kwargs)) if _explicitly_placed(leaf)}
        if jax.sharding.get_abstract_mesh().explicit_axes:
            meshes.add(jax.sharding.get_mesh())
        if len(meshes) != 1:  # there is none; or JAX refuses several
            return run(*args, **kwargs)
        (mesh,) = meshes
        automatic = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * mesh.devices.ndim)
        args, kwargs = _moved((args, kwargs), mesh, automatic)
        with jax.set_mesh(automatic):
            found = run(*args, **kwargs)
        return _moved(found, automatic, mesh)

    return wrapped


def _moved(tree: Any, source: Mesh, target: Mesh) -> Any:
    """The same tree, its arrays on one mesh now on another of the same devices and names of axes."""

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Array) and isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh == source:
            return jax.device_put(leaf, NamedSharding(target, leaf.sharding.spec))
        return leaf

    return jax.tree.map(moved, tree)


def _explicitly_placed(leaf: Any) -> bool:
    concrete = isinstance(leaf, Array) and not isinstance(leaf, Tracer)
    return concrete and bool(jax.typeof(leaf).sharding.mesh.explicit_axes)


# ----------------------------------------------------------------------------------------------------------------------
# Within shard_map


def summed_as(cotangent: Array, array: Array) -> Array:
    """In ``jax.shard_map``: summed over the mesh axes along which devices hold parts, but ``array`` whole."""
    parts = _varying(cotangent) - _varying(array)
    return lax.psum(cotangent, tuple(parts)) if parts else cotangent


def varying_as(like: Any, array: Array) -> Array:
    """In ``jax.shard_map``: the same values, of the type of what differs between devices where ``like`` does."""
    axes = _varying(like) - _varying(array)
    return lax.pcast(array, tuple(axes), to="varying") if axes else array


def _varying(array: Any) -> frozenset[str]:
    return jax.typeof(array).manual_axis_type.varying
