"""What is said of each example's gradient: time and memory against one gradient, and against automatic forms.

Each quantity is set beside one plain gradient (`jaxnet.backprop`) and beside the usual automatic form, a compiled
`vmap` of `grad`. Memory is what the compiled code asks for besides its arguments: for its results, and temporarily.
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
from jax import Array

import jaxnet
from benchmarks import report
from benchmarks.curvature import SIZES
from benchmarks.harness import interleave, memory, must_agree, ratio, turns
from benchmarks.report import Bar, Report, Table, forest, named
from jaxnet import Network, per_example

NET = Network()
LARGE, LARGE_BATCH, HUGE_BATCH, MICROBATCH = (5120, 2560, 1280), 32, 131_072, 512


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure."""

    rounds: int = 15
    """Turns of each form."""


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
AIMS = {"norms": 1.0, "clipped gradient": 1.6, "second moment": 1.6}


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def compare(rivals: dict[str, Rival], shapes: list[Any], rounds: int) -> list[dict[str, Any]]:
    """Time and memory of quantities by hand, against one gradient and against the automatic forms."""
    rows = []
    for sizes, n in report.progress(shapes, "per example"):
        arguments = problem(sizes, n)
        forms = {"gradient": plain_gradient}
        for name, rival in rivals.items():
            forms |= {name: rival.ours, f"{name}, automatic": rival.automatic}
        programs = {name: jax.jit(form).lower(*arguments).compile() for name, form in forms.items()}
        for name in rivals:
            must_agree(f"{name} of {named(sizes)}", programs, name, [f"{name}, automatic"], arguments)
        seconds = turns(programs, arguments, rounds, rest=0.1)
        used = {name: memory(program) for name, program in programs.items()}
        for name in ("gradient", *rivals):
            row: dict[str, Any] = {"sizes": sizes, "n": n, "quantity": name, "seconds": seconds[name].tolist()}
            row |= {"memory": used[name], "over_gradient": ratio(seconds[name], seconds["gradient"])}
            row["of_gradients_memory"] = used[name]["temporary"] / used["gradient"]["temporary"]
            if name in rivals:
                automatic = f"{name}, automatic"
                row |= {"faster": ratio(seconds[automatic], seconds[name]), "automatic_memory": used[automatic]}
            rows.append(row)
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    """What `compare` found."""
    shown = [
        (
            f"{named(row['sizes'])}, {row['n']}: {row['quantity']}",
            f"{np.median(row['seconds']) * 1e6:,.0f}",
            str(row["over_gradient"]),
            str(row.get("faster", "")),
            f"{row['memory']['temporary'] * 1e3:,.0f}",
            f"{row['of_gradients_memory']:.2f}",
            f"{row['automatic_memory']['temporary'] * 1e3:,.0f}" if "faster" in row else "",
        )
        for row in rows
    ]
    columns = ("sizes, n", "µs", "over gradient", "automatic over ours", "kB", "over gradient's", "automatic kB")
    return Table("Per example: time, against one gradient and the automatic form; temporary memory", columns, shown)


def bars_of(rows: list[dict[str, Any]]) -> list[Bar]:
    """The aims for what `compare` found."""
    bars = []
    for row in rows:
        if (aim := AIMS.get(row["quantity"])) is None:
            continue
        name, over = f"{named(row['sizes'])}, n = {row['n']}: {row['quantity']}", row["over_gradient"]
        bars.append(Bar(f"{name} takes at most {aim} of a gradient's time", str(over), over.value <= aim))
        if row["quantity"] != "norms":
            found = row["of_gradients_memory"]
            bars.append(Bar(f"{name} at most 1.5 of its temporary memory", f"{found:.2f}", found <= 1.5))
    return bars


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
    rows, programs = [], {}
    for name, (gradient, n) in steps.items():
        shapes = jax.eval_shape(partial(problem, LARGE, n))
        state = jax.eval_shape(lambda params: _state(params, optimizer), shapes[0])
        programs[name] = training_step(gradient, optimizer).lower(state, shapes[1:]).compile()
        rows.append({"step": name, "n": n, "memory": memory(programs[name])})
    for n, turns_of in ((LARGE_BATCH, rounds), (HUGE_BATCH, 2)):  # a step of the huge batch takes half a minute
        own = [row for row in rows if row["n"] == n]
        params, *batch = problem(LARGE, n)
        states = {row["step"]: jax.tree.map(jnp.copy, _state(params, optimizer)) for row in own}
        costs: dict[str, list[float]] = {row["step"]: [] for row in own}

        def turn(name: str, states: Any = states, batch: Any = batch, costs: Any = costs) -> None:
            states[name], metrics = programs[name](states[name], tuple(batch))
            costs[name].append(float(metrics["cost"]))

        contenders = {row["step"]: partial(turn, row["step"]) for row in own}
        seconds, _ = interleave(contenders, turns_of, warm=n == LARGE_BATCH)
        for row in own:
            plain, name = own[0], row["step"]
            row |= {"seconds": seconds[name].tolist(), "over_plain": ratio(seconds[name], seconds[plain["step"]])}
            row |= {"of_plain": row["memory"]["temporary"] / plain["memory"]["temporary"], "costs": costs[name]}
    return rows


def table_of_large(rows: list[dict[str, Any]]) -> Table:
    """What `large` found."""
    shown = [
        (
            row["step"],
            f"{row['n']:,}",
            *(f"{row['memory'][kind]:,.1f}" for kind in ("temporary", "results")),
            f"{row['of_plain']:.3f}",
            f"{np.median(row['seconds']) * 1e3:,.0f}",
            str(row["over_plain"]),
            f"{row['costs'][0]:.2f} to {row['costs'][-1]:.2f}",
        )
        for row in rows
    ]
    columns = ("step", "n", "temporary MB", "results MB", "of plain", "ms", "over plain", "cost, first to last step")
    return Table(f"A training step of {named(LARGE)}", columns, shown)


def _state(params: Any, optimizer: optax.GradientTransformation) -> jaxnet.State:
    return jaxnet.State(params, optimizer.init(params), jax.random.key(1))


def measure(settings: Settings, _: dict[str, float]) -> Report:
    """Everything but, with ``--quick``, on the smallest network only."""
    rows = compare(PER_EXAMPLE, SIZES[:1] if settings.quick else SIZES, settings.rounds)
    tables, bars = [table_of(rows)], bars_of(rows)
    numbers: dict[str, Any] = {"per_example": rows}
    if not settings.quick:
        steps = numbers["large"] = large(min(settings.rounds, 5))
        tables.append(table_of_large(steps))
        clipped = next(row for row in steps if row["step"] == "clipped, ours")["of_plain"]
        text = f"{named(LARGE)}: exact clipping within 1.2 of plain training's memory"
        bars.append(Bar(text, f"{clipped:.2f}", clipped <= 1.2))
        huge = steps[-1]["costs"]
        text = f"{named(LARGE)}: trains with exact clipping at n = {HUGE_BATCH:,}"
        bars.append(Bar(text, f"the cost goes from {huge[0]:.2f} to {huge[-1]:.2f} in a step", huge[-1] < huge[0]))
    rivals = [row for row in rows if "faster" in row]
    figure = forest(
        [f"{named(row['sizes'])}, {row['n']}: {row['quantity']}" for row in rivals],
        {
            "of one gradient": [row["over_gradient"] for row in rivals],
            "automatic over ours": [row["faster"] for row in rivals],
        },
        "ratio of times",
    )
    return Report(tables, bars, {"per_example": figure}, numbers)


if __name__ == "__main__":
    raise SystemExit(report.script())
