"""Curvature and tangent kernel by hand, against what automatic differentiation offers for them: time and memory.

Hessian-vector products, and other curvature, in units of one gradient, beside `jvp` of `grad`; the empirical
tangent kernel of 32 examples beside contracting Jacobians from `vmap(jacrev)`. CPU, float32, one process, taking
turns. The structured method of neural-tangents is not among them: its last release, 0.6.5, imports `jax.core.Jaxpr`,
which JAX has no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jaxnet
from benchmarks import report
from benchmarks.harness import memory, must_agree, ratio, turns
from benchmarks.programs import idiomatic_cost, idiomatic_forward
from benchmarks.report import Bar, Report, Table, named
from jaxnet import curvature, kernel

KERNEL_AIMS = {((784, 30, 10), 128): 100, ((784, 100, 10), 256): 250, ((784, 512, 512, 10), 128): 500}
SIZES = list(KERNEL_AIMS)
KERNEL_EXAMPLES = 32


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure."""


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


def measure(settings: Settings, peaks: dict[str, float]) -> Report:
    """Products over the gradient, Jacobians over the kernel; with ``--quick`` of the smallest network only."""
    del peaks  # no share of them is shown
    rounds, shapes = settings.rounds, SIZES[:1] if settings.quick else SIZES
    tables, bars, found = [], [], {"products": [], "kernel": []}
    for sizes, n in shapes:
        arguments = data(sizes, n)
        programs = product_contenders(*arguments)
        name = f"{named(sizes)}, n = {n}"
        must_agree(name, programs, "hvp", (other for other in programs if other.startswith("jvp of")), arguments)
        seconds = turns(programs, arguments, rounds)
        table, rows = _table(f"Curvature: {name}", programs, seconds, "gradient")
        against = rows["hvp"]["over jvp of grad"] = ratio(seconds["hvp"], seconds["jvp of grad, idiomatic"])
        table = table._replace(note=f"hvp over jvp of grad, idiomatic: {against}, {against.verdict}")
        over = rows["hvp"]["ratio"]
        bars.append(Bar(f"{name}: `hvp` at most 3 gradients", str(over), over.value <= 3))
        bars.append(Bar(f"{name}: `hvp` no slower than `jvp` of `grad`", str(against), against.low <= 1))
        tables.append(table)
        found["products"].append({"sizes": sizes, "n": n, "rows": rows})
    for sizes, n in shapes:
        params, _, x, _ = data(sizes, KERNEL_EXAMPLES)
        programs = kernel_contenders(params, x)
        title = f"Tangent kernel of {KERNEL_EXAMPLES} examples: {named(sizes)}"
        jacobians = (other for other in programs if other.startswith("Jacobians"))
        must_agree(title, programs, "empirical_ntk", jacobians, (params, x))
        table, rows = _table(title, programs, turns(programs, (params, x), rounds, rest=0.1), "empirical_ntk")
        aim, einsum = KERNEL_AIMS[sizes, n], rows["Jacobians, einsum"]["ratio"]
        text = f"{named(sizes)}: tangent kernel {aim} times faster than contracting Jacobians"
        bars.append(Bar(text, str(einsum), einsum.value >= aim))
        tables.append(table)
        found["kernel"].append({"sizes": sizes, "n": KERNEL_EXAMPLES, "rows": rows})
    return Report(tables, bars, numbers=found)


def _table(
    title: str, programs: dict[str, Any], seconds: dict[str, np.ndarray], unit: str
) -> tuple[Table, dict[str, Any]]:
    rows = {}
    for name, values in seconds.items():
        used = memory(programs[name])["temporary"]
        rows[name] = {"seconds": values.tolist(), "ratio": ratio(values, seconds[unit]), "temporary_mb": used}
    shown = [
        (name, f"{np.median(row['seconds']) * 1e6:,.0f}", str(row["ratio"]), f"{row['temporary_mb']:.2f}")
        for name, row in rows.items()
    ]
    return Table(title, ("", "µs", f"times {unit}", "temporary MB"), shown), rows


if __name__ == "__main__":
    raise SystemExit(report.script())
