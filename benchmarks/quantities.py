"""What comes of the two passes besides the gradient: time and memory against one gradient, and against automatic forms.

Each quantity is set beside one plain gradient (`jaxnet.backprop`) and beside the usual automatic form, a compiled
``vmap`` of ``grad``. Memory is what the compiled code asks for besides its arguments: for its results, and temporarily.
Then a large network, 5120-2560-1280, trained plainly, with clipping of materialised gradients, and with ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jax import Array
from rich.console import Console
from rich.table import Table

import jaxnet
from benchmarks import curvature
from benchmarks.harness import interleave, machine, memory, ratio, save, turns
from jaxnet import Network, per_example

NET = Network()
LARGE, LARGE_BATCH, HUGE_BATCH, MICROBATCH = (5120, 2560, 1280), 32, 131_072, 512
console = Console(width=120)


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    rounds: int = 31
    """Turns of each form."""
    large: bool = True
    """Also the network of 16 million parameters, which takes some 8 GB for materialised gradients."""
    quick: bool = False
    """The smallest network only, in three turns."""


class Rival(NamedTuple):
    """A quantity by hand, and by automatic differentiation."""

    ours: Callable[..., Any]
    automatic: Callable[..., Any]


def problem(sizes: tuple[int, ...], n: int) -> tuple[Any, Array, Array]:
    """Parameters, inputs and targets."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.uniform(keys[1], (n, sizes[0]))
    return jaxnet.init(keys[0], sizes), x, jax.random.uniform(keys[2], (n, sizes[-1]))


# ----------------------------------------------------------------------------------------------------------------------
# The automatic forms


def examples_gradients(params: Any, x: Array, y: Array) -> Any:
    """The gradient of every example, as most people write it."""

    def loss(params: Any, x: Array, y: Array) -> Array:
        h = x
        for weight, bias in params:
            h = jax.nn.sigmoid(weight @ h + bias)
        return jnp.sum((h - y) ** 2)

    return jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))(params, x, y)


def automatic_norms(params: Any, x: Array, y: Array) -> Array:
    """Norms of materialised gradients."""
    return jax.vmap(optax.tree.norm)(examples_gradients(params, x, y))


def automatic_clipped(params: Any, x: Array, y: Array, bound: float = 1.0) -> Any:
    """The mean of materialised gradients, clipped."""
    gradients = examples_gradients(params, x, y)
    factors = jnp.minimum(1, bound / jax.vmap(optax.tree.norm)(gradients))
    return jax.tree.map(lambda g: jnp.tensordot(factors, g, 1) / len(x), gradients)


def automatic_second_moment(params: Any, x: Array, y: Array) -> Any:
    """The mean of squares of materialised gradients."""
    return jax.tree.map(lambda g: jnp.mean(g**2, axis=0), examples_gradients(params, x, y))


def plain_gradient(params: Any, x: Array, y: Array) -> Any:
    """The gradient of the cost, by hand."""
    return jaxnet.backprop(params, x, y, NET)[1]


def clipped(params: Any, x: Array, y: Array) -> Any:
    """Ours."""
    return per_example.clipped_gradient(params, x, y, NET, bound=1.0)[1]


PER_EXAMPLE = {
    "norms": Rival(per_example.norms, automatic_norms),
    "clipped gradient": Rival(clipped, automatic_clipped),
    "second moment": Rival(per_example.second_moment, automatic_second_moment),
}
"""A table of `measure`; each group of quantities has its own."""


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def measure(title: str, rivals: dict[str, Rival], shapes: list[Any], rounds: int) -> list[dict[str, Any]]:
    """Time and memory of quantities by hand against one gradient and against the automatic forms, as a table."""
    columns = ("sizes, n", "", "µs", "over gradient", "automatic over ours", "kB", "over gradient", "automatic kB")
    table, rows = (
        Table(*columns, title=f"{title}: time, against one gradient and the automatic form; temporary memory"),
        [],
    )
    for sizes, n in shapes:
        arguments = problem(sizes, n)
        forms = {"gradient": plain_gradient}
        for name, rival in rivals.items():
            forms |= {name: rival.ours, f"{name}, automatic": rival.automatic}
        programs = {name: jax.jit(form).lower(*arguments).compile() for name, form in forms.items()}
        for name in rivals:
            apart = distance(programs[name](*arguments), programs[f"{name}, automatic"](*arguments))
            if apart > 1e-4:
                raise RuntimeError(f"{name} for {sizes} differs from its automatic form by {apart:.1e}")
        seconds = turns(programs, arguments, rounds)
        used = {name: memory(program) for name, program in programs.items()}
        for name in ("gradient", *rivals):
            row: dict[str, Any] = {"sizes": sizes, "n": n, "quantity": name, "seconds": seconds[name].tolist()}
            row |= {"memory": used[name], "over_gradient": ratio(seconds[name], seconds["gradient"])}
            times = used[name]["temporary"] / used["gradient"]["temporary"]
            shown = ["", f"{used[name]['temporary'] * 1e3:,.0f}", f"{times:.2f}", ""]
            if name in rivals:
                automatic = f"{name}, automatic"
                row |= {"faster": ratio(seconds[automatic], seconds[name]), "automatic_memory": used[automatic]}
                shown[0] = "{:.1f} [{:.1f}, {:.1f}]".format(*row["faster"])
                shown[-1] = f"{used[automatic]['temporary'] * 1e3:,.0f}"
            over = "{:.2f} [{:.2f}, {:.2f}]".format(*row["over_gradient"])
            where = f"{'-'.join(map(str, sizes))}, {n}" if name == "gradient" else ""
            table.add_row(where, name, f"{np.median(seconds[name]) * 1e6:.0f}", over, *shown)
            rows.append(row)
        table.add_section()
    console.print(table)
    return rows


def distance(actual: Any, expected: Any) -> float:
    """The largest difference, relative to the largest number."""
    pairs = list(zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True))
    size = max(float(jnp.abs(b).max()) for _, b in pairs)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs) / size


# ----------------------------------------------------------------------------------------------------------------------
# A large network


def training_step(gradient: Callable[..., Any], optimizer: optax.GradientTransformation) -> Any:
    """A step of `jaxnet.make_step`, compiled, in the memory of the parameters it replaces."""
    return jax.jit(jaxnet.make_step(optimizer, NET, gradient), donate_argnums=0)


def automatic_clipping(params: Any, x: Array, y: Array, net: Network) -> tuple[Array, Any]:
    """A gradient for `training_step` from materialised ones."""
    return jaxnet.cost(params, x, y, net), automatic_clipped(params, x, y)


def large(rounds: int) -> list[dict[str, Any]]:
    """Time and memory of a training step of the large network: plain, clipped, private; small and huge batches."""
    optimizer = optax.sgd(0.1)
    ours = partial(per_example.clipped_gradient, bound=1.0)
    private = partial(per_example.private_gradient, bound=1.0, noise_multiplier=1.0)
    steps = {
        "plain": (jaxnet.backprop, LARGE_BATCH),
        "clipped, ours": (ours, LARGE_BATCH),
        "private, ours": (private, LARGE_BATCH),
        "clipped, materialised": (automatic_clipping, LARGE_BATCH),
        "plain, huge": (jaxnet.backprop, HUGE_BATCH),
        "clipped in microbatches, huge": (partial(ours, microbatch=MICROBATCH), HUGE_BATCH),
    }
    table = Table("step", "n", "temporary MB", "results MB", "of plain", "ms", "over plain", title=f"Training {LARGE}")
    rows, programs = [], {}
    for name, (gradient, n) in steps.items():
        shapes = jax.eval_shape(partial(problem, LARGE, n))
        state = jax.eval_shape(lambda params: _state(params, optimizer), shapes[0])
        programs[name] = training_step(gradient, optimizer).lower(state, shapes[1:]).compile()
        rows.append({"step": name, "n": n, "memory": memory(programs[name])})
    # The huge batch takes too long here, and 4 GB of data: a share of it is timed, two microbatches.
    part = 2 * MICROBATCH
    timed = {name: (programs[name], LARGE_BATCH) for name, (_, n) in steps.items() if n == LARGE_BATCH}
    params, x, y = problem(LARGE, part)
    for name, gradient in (("plain, part", jaxnet.backprop), ("microbatches, part", steps[list(steps)[-1]][0])):
        step = training_step(gradient, optimizer)
        timed[name] = (step.lower(_state(params, optimizer), (x, y)).compile(), part)
        rows.append({"step": name, "n": part, "memory": memory(timed[name][0])})
    states = {name: jax.tree.map(jnp.copy, _state(params, optimizer)) for name in timed}

    def turn(name: str) -> Any:
        program, n = timed[name]
        states[name], metrics = program(states[name], (x[:n], y[:n]))
        return metrics

    seconds, _ = interleave({name: partial(turn, name) for name in timed}, rounds)
    for row in rows:
        name = row["step"]
        base = {LARGE_BATCH: "plain", HUGE_BATCH: "plain, huge", part: "plain, part"}[row["n"]]
        plain = next(r["memory"]["temporary"] for r in rows if r["step"] == base)
        shown = [f"{row['memory'][kind]:.1f}" for kind in ("temporary", "results")]
        shown.append(f"{row['memory']['temporary'] / plain:.3f}")
        if name in seconds:
            row |= {"seconds": seconds[name].tolist(), "over_plain": ratio(seconds[name], seconds[base])}
            shown += [f"{np.median(seconds[name]) * 1e3:.0f}", "{:.2f} [{:.2f}, {:.2f}]".format(*row["over_plain"])]
        table.add_row(name, f"{row['n']:,}", *shown)
    console.print(table)
    return rows


def _state(params: Any, optimizer: optax.GradientTransformation) -> jaxnet.State:
    return jaxnet.State(params, optimizer.init(params), jax.random.key(1))


def main(settings: Settings) -> None:
    """Measure, print, and write ``results/benchmarks/quantities.json``."""
    shapes, rounds = (curvature.SIZES[:1], 3) if settings.quick else (curvature.SIZES, settings.rounds)
    found: dict[str, Any] = {"machine": machine()}
    found["per_example"] = measure("Per example", PER_EXAMPLE, shapes, rounds)
    tables, found["curvature"] = curvature.measure(rounds, shapes)
    for table in tables:
        console.print(table)
    if settings.large and not settings.quick:
        found["large"] = large(min(rounds, 5))
    console.print(f"wrote {save('quantities', found)}", soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
