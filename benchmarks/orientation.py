"""Which way round a layer's products are fastest: a whole SGD step, in a compiled loop, over sizes and batches.

The step as the library takes it (units first for narrow layers and single examples, on a CPU), the same with examples
first everywhere, and the usual automatic form: ``jax.value_and_grad`` of a cost written with ``h @ W.T``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import numpy as np
import tyro
from jax import lax
from rich.console import Console
from rich.table import Table

import jaxnet
from benchmarks.harness import interleave, machine, ratio, save
from benchmarks.programs import idiomatic_cost

# Sizes, examples in a batch, and steps enough for some milliseconds.
GRID = [
    ((2, 2, 1), 4, 5000),
    ((2, 16, 1), 32, 2000),
    ((10, 10, 10, 10), 1, 5000),
    ((64, 30, 10), 10, 1000),
    ((64, 64, 10), 32, 500),
    ((64, 256, 10), 10, 500),
    ((64, 256, 10), 100, 100),
    ((784, 30, 10), 1, 1000),
    ((784, 30, 10), 10, 1000),
    ((784, 30, 10), 100, 100),
    ((784, 30, 10), 1000, 20),
    ((784, 64, 10), 10, 300),
    ((784, 100, 10), 1, 200),
    ((784, 100, 10), 100, 50),
    ((784, 512, 512, 10), 10, 20),
    ((784, 512, 512, 10), 128, 10),
    ((1024, 1024, 1024), 1024, 2),
]
console = Console(width=110)


@dataclass(frozen=True)
class Settings:
    """How much to measure."""

    rounds: int = 9
    """Turns of each form."""


def idiomatic_step(params: Any, x: jax.Array, y: jax.Array) -> Any:
    """One step by automatic differentiation of the cost as most people write it."""
    value, grads = jax.value_and_grad(idiomatic_cost)(params, x, y)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value


def our_step(params: Any, x: jax.Array, y: jax.Array) -> Any:
    """One step by hand."""
    return jaxnet.sgd_step(params, x, y, 0.1)


def examples_first_step(params: Any, x: jax.Array, y: jax.Array) -> Any:
    """One step by hand, with examples first in every product."""
    with mock.patch("jaxnet.backprop._units_first", return_value=False):
        return our_step(params, x, y)


def loop(step: Callable[..., Any], params: Any, data: Any) -> Callable[[], Any]:
    """The compiled loop over the steps, as a contender."""
    program = jax.jit(lambda params, data: lax.scan(lambda params, batch: step(params, *batch), params, data))
    return lambda: program(params, data)


def main(settings: Settings) -> None:
    """Measure, print, and write ``results/benchmarks/orientation.json``."""
    found: dict[str, Any] = {"machine": machine(), "rows": []}
    table = Table("sizes", "batch", "µs a step", "over examples first", "over automatic", title="A step by hand")
    for sizes, batch, steps in GRID:
        keys = jax.random.split(jax.random.key(0), 3)
        params = jaxnet.init(keys[0], sizes)
        data = (
            jax.random.normal(keys[1], (steps, batch, sizes[0])),
            jax.random.uniform(keys[2], (steps, batch, sizes[-1])),
        )
        forms = {"ours": our_step, "examples first": examples_first_step, "automatic": idiomatic_step}
        seconds, _ = interleave({name: loop(step, params, data) for name, step in forms.items()}, settings.rounds)
        ratios = {name: ratio(seconds["ours"], seconds[name]) for name in ("examples first", "automatic")}
        microseconds = float(np.median(seconds["ours"])) / steps * 1e6
        shown = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in ratios.values()]
        table.add_row("-".join(map(str, sizes)), str(batch), f"{microseconds:.2f}", *shown)
        found["rows"].append({"sizes": sizes, "batch": batch, "microseconds": microseconds, "ratios": ratios})
    console.print(table)
    for name in ("examples first", "automatic"):
        mean = float(np.exp(np.mean([np.log(row["ratios"][name][0]) for row in found["rows"]])))
        console.print(f"geometric mean over {name}: {mean:.3f}")
        found[f"geometric mean over {name}"] = mean
    console.print(f"wrote {save('orientation', found)}", soft_wrap=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
