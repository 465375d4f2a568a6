"""Curvature and tangent kernel by hand, against what automatic differentiation offers for them: time and memory.

Hessian-vector products, and other curvature, in units of one gradient, beside ``jvp`` of ``grad``; the empirical
tangent kernel of 32 examples beside contracting Jacobians from ``vmap(jacrev)``. CPU, float32, one process, taking
turns. The structured method of neural-tangents is not among them: its last release, 0.6.5, imports ``jax.core.Jaxpr``,
which JAX has no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array
from rich.console import Console
from rich.table import Table

import jaxnet
from benchmarks.harness import machine, memory, ratio, save, turns
from benchmarks.programs import idiomatic_cost, idiomatic_forward
from jaxnet import curvature, kernel

SIZES = [((784, 30, 10), 128), ((784, 100, 10), 256), ((784, 512, 512, 10), 128)]
KERNEL_EXAMPLES = 32
console = Console(width=120)


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    rounds: int = 9
    """Turns of each contender."""


def product_contenders(params: Any, v: Any, x: Array, y: Array) -> dict[str, Any]:
    """Gradient, Hessian-vector products and other curvature, compiled."""

    def along(gradient: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, v, x, y: jax.jvp(lambda p: gradient(p, x, y), (params,), (v,))[1]

    forms = {
        "gradient": lambda params, _, x, y: jaxnet.backprop(params, x, y)[1],
        "hvp": lambda params, v, x, y: curvature.hvp(params, x, y, v),
        "jvp of grad, idiomatic": along(jax.grad(idiomatic_cost)),
        "jvp of grad of our cost": along(jax.grad(jaxnet.cost)),
        "jvp of backprop": along(lambda params, x, y: jaxnet.backprop(params, x, y)[1]),
        "ggn_vp": lambda params, v, x, y: curvature.ggn_vp(params, x, y, v),
        "ggn_diagonal": lambda params, _, x, y: curvature.ggn_diagonal(params, x, y),
        "hessian_diagonal": lambda params, _, x, y: curvature.hessian_diagonal(params, x, y),
        "kfac": lambda params, _, x, y: curvature.kfac(params, x, y),
    }
    return {name: jax.jit(form).lower(params, v, x, y).compile() for name, form in forms.items()}


def contracted_jacobians(einsum: bool) -> Callable[[Any, Array], Array]:
    """The kernel from materialised Jacobians, (n, n, outputs, outputs): as an einsum, or as plain matrix products."""

    def contract(params: Any, x: Array) -> Array:
        jacobians = jax.vmap(jax.jacrev(idiomatic_forward), (None, 0))(params, x)
        total = jnp.zeros(())
        for leaf in jax.tree.leaves(jacobians):
            n, outputs = leaf.shape[:2]
            if einsum:
                flat = leaf.reshape(n, outputs, -1)
                total = total + jnp.einsum("ikw,jlw->ijkl", flat, flat)
            else:
                flat = leaf.reshape(n * outputs, -1)
                total = total + (flat @ flat.T).reshape(n, outputs, n, outputs).swapaxes(1, 2)
        return total

    return contract


def kernel_contenders(params: Any, x: Array) -> dict[str, Any]:
    """The tangent kernel, compiled."""
    forms = {
        "empirical_ntk": kernel.empirical_ntk,
        "its trace": lambda params, x: kernel.empirical_ntk(params, x, outputs="trace"),
        "Jacobians, einsum": contracted_jacobians(einsum=True),
        "Jacobians, matrix products": contracted_jacobians(einsum=False),
    }
    return {name: jax.jit(form).lower(params, x).compile() for name, form in forms.items()}


def data(sizes: tuple[int, ...], n: int) -> tuple[Any, Any, Array, Array]:
    """Parameters, a direction, inputs and targets."""
    keys = jax.random.split(jax.random.key(0), 3)
    labels = jnp.arange(n) % sizes[-1]
    y = jax.nn.one_hot(labels, sizes[-1])
    return jaxnet.init(keys[0], sizes), jaxnet.init(keys[1], sizes), jax.random.uniform(keys[2], (n, sizes[0])), y


def measure(rounds: int, shapes: Any = SIZES) -> tuple[list[Table], dict[str, Any]]:
    """Tables to print, and the figures in them: products over the gradient, Jacobians over the kernel."""
    tables, found = [], {"products": [], "kernel": []}
    for sizes, n in shapes:
        arguments = data(sizes, n)
        programs = product_contenders(*arguments)
        name = "-".join(map(str, sizes))
        seconds = turns(programs, arguments, rounds)
        table, rows = _table(f"{name}, n = {n}", programs, seconds, "gradient")
        times, low, high = rows["hvp"]["over jvp of grad"] = ratio(seconds["hvp"], seconds["jvp of grad, idiomatic"])
        table.caption = f"hvp takes {times:.2f} [{low:.2f}, {high:.2f}] of the time of jvp of grad, idiomatic"
        tables.append(table)
        found["products"].append({"sizes": sizes, "n": n, "rows": rows})
    for sizes, _ in shapes:
        params, _, x, _ = data(sizes, KERNEL_EXAMPLES)
        programs = kernel_contenders(params, x)
        title = f"{'-'.join(map(str, sizes))}, tangent kernel of {KERNEL_EXAMPLES} examples"
        table, rows = _table(title, programs, turns(programs, (params, x), rounds), "empirical_ntk")
        tables.append(table)
        found["kernel"].append({"sizes": sizes, "n": KERNEL_EXAMPLES, "rows": rows})
    return tables, found


def _table(
    title: str, programs: dict[str, Any], seconds: dict[str, np.ndarray], unit: str
) -> tuple[Table, dict[str, Any]]:
    table = Table("", "µs", f"times {unit}", "temporary MB", title=title)
    rows = {}
    for name, values in seconds.items():
        times, low, high = ratio(values, seconds[unit])
        used = memory(programs[name])["temporary"]
        table.add_row(name, f"{np.median(values) * 1e6:,.0f}", f"{times:.2f} [{low:.2f}, {high:.2f}]", f"{used:.2f}")
        rows[name] = {"seconds": values.tolist(), "ratio": [times, low, high], "temporary_mb": used}
    return table, rows


def main(settings: Settings) -> None:
    """Measure, print, and write ``results/benchmarks/curvature.json``."""
    tables, found = measure(settings.rounds)
    console.print(*(f"{name}: {value}" for name, value in machine().items()), sep="   ")
    for table in tables:
        console.print(table)
    console.print(f"wrote {save('curvature', {'machine': machine()} | found)}", soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
