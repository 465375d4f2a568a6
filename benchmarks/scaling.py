"""How cost grows with width, depth, batch, members, examples and devices: measured exponents beside the expected ones.

An exponent is the slope of log time against log size: over all sizes by least squares, and between the two largest,
where overheads weigh least. The expected ones count the operations. Sizes of an axis take turns, and the intervals are
95 % bootstrap intervals over the rounds.

Devices split one batch between them, each with all parameters. On a CPU they are virtual and share its cores, so that
more of them should cost nothing and gain nothing; where devices are real, twice as many should take half of the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import jaxnet
from benchmarks import report
from benchmarks.harness import memory, turns
from experiments._drawing import STYLES, finish, new_figure
from jaxnet import ensemble

MARGIN = 0.1
"""How far an exponent may lie from the expected one and still be called the same."""
VIRTUAL = 4
"""Devices that a CPU is made to have."""
SGD = optax.sgd(0.5)


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure."""


class Exponent(NamedTuple):
    """A slope in logarithms, with a 95 % bootstrap interval over the rounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:z.2f} [{self.low:z.2f}, {self.high:z.2f}]"


class Axis(NamedTuple):
    """What grows, and what is run at each size."""

    name: str
    program: str
    sizes: Sequence[int]
    expected: float
    run: Callable[[int], Callable[[], Any]]
    flops: Callable[[int], float]
    reason: str
    """Why small sizes do not follow the expected exponent."""


class Found(NamedTuple):
    """What was measured along an axis: seconds (sizes, rounds), and their exponents."""

    axis: Axis
    sizes: Sequence[int]
    seconds: np.ndarray
    overall: Exponent
    at_the_end: Exponent
    reached: int | None
    """The size from which on the expected exponent holds; None if it does not."""


# ----------------------------------------------------------------------------------------------------------------------
# What is run


def problem(sizes: Sequence[int], n: int) -> tuple[Any, jax.Array, jax.Array]:
    """Parameters, inputs and targets."""
    keys = jax.random.split(jax.random.key(0), 3)
    shape = n, sizes[-1]
    return jaxnet.init(keys[0], sizes), jax.random.normal(keys[1], (n, sizes[0])), jax.random.uniform(keys[2], shape)


def gradient(sizes: Sequence[int], n: int) -> Callable[[], Any]:
    """The gradient by hand of a batch."""
    arguments = problem(sizes, n)
    program = jax.jit(jaxnet.backprop)
    return lambda: program(*arguments)


def split_gradient(sizes: Sequence[int], n: int, devices: int) -> Callable[[], Any]:
    """The same, with the examples split over devices and the parameters on each of them."""
    mesh = jax.make_mesh((devices,), ("examples",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
    params, x, y = problem(sizes, n)
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    x, y = jax.device_put((x, y), NamedSharding(mesh, PartitionSpec("examples")))
    program = jax.jit(jaxnet.backprop)
    return lambda: program(params, x, y)


def epoch(sizes: Sequence[int], batch: int, n: int) -> Callable[[], Any]:
    """One epoch of training."""
    params, *data = problem(sizes, n)
    key = jax.random.key(1)
    return lambda: jaxnet.train(key, params, tuple(data), optimizer=SGD, epochs=1, batch_size=batch).params


def members(count: int, steps: int) -> Callable[[], Any]:
    """Steps of many 2-2-1 networks on XOR."""
    params, data, key = ensemble.init(jax.random.key(0), count, (2, 2, 1)), jaxnet.data.xor(), jax.random.key(1)
    return lambda: ensemble.train(key, params, data, optimizer=SGD, epochs=steps, record_every=steps).params


def operations(sizes: Sequence[int], n: int) -> float:
    """Of the products in the gradient of a batch: forward, contraction, and backward through all layers but the first."""
    weights = [inputs * units for inputs, units in pairwise(sizes)]
    return 2 * n * (3 * sum(weights) - weights[0])


def axes() -> list[Axis]:
    """All that can be measured here."""
    w, n, steps = 128, 128, 200
    square, digits, wide = (256,) * 3, (64, 30, 10), (512,) * 3
    found = [
        Axis("width", f"gradient of w-w-w, {n} examples", (64, 128, 256, 512, 1024, 2048), 2,
             lambda size: gradient((size,) * 3, n), lambda size: operations((size,) * 3, n),
             "Narrow products do not fill the cores, and what is linear in the width (activations) weighs more."),
        Axis("depth", f"gradient of layers {w} wide, {n} examples", (2, 4, 8, 16, 32, 64), 1,
             lambda size: gradient((w,) * (size + 1), n), lambda size: operations((w,) * (size + 1), n),
             "A call has a fixed cost, and the first layer needs no backward product."),
        Axis("batch", f"gradient of {report.named(square)}", (16, 64, 256, 1024, 4096, 16384), 1,
             lambda size: gradient(square, size), lambda size: operations(square, size),
             "The weights are read and the gradients written whatever the batch, and short products do not fill the "
             "cores."),
        Axis("members", f"ensemble.train of 2-2-1 on XOR, {steps} steps", (256, 1024, 4096, 16384, 65536, 262144), 1,
             lambda size: members(size, steps), lambda size: size * steps * operations((2, 2, 1), 4),
             "Checking, preparing and starting a call costs the same for few members as for many."),
        Axis("examples", f"epoch of train, {report.named(digits)}, batches of 10",
             (256, 1024, 4096, 16384, 65536, 262144), 1,
             lambda size: epoch(digits, 10, size), lambda size: operations(digits, size),
             "Checking, preparing and starting a call costs the same for few examples as for many."),
    ]  # fmt: skip
    virtual = jax.default_backend() == "cpu"
    count = VIRTUAL if virtual else len(jax.devices())
    sizes = [size for size in (1, 2, 4, 8) if size <= count]
    if len(sizes) > 1:
        found.append(
            Axis("devices", f"gradient of {report.named(wide)}, 8192 examples split over them", sizes,
                 0 if virtual else -1, lambda size: split_gradient(wide, 8192, size),
                 lambda size: operations(wide, 8192),
                 "The devices are virtual: they share the cores, and add up their gradients." if virtual else
                 "The devices add up their gradients, which takes the same time however few examples each has.")
        )  # fmt: skip
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def follow(axis: Axis, settings: Settings) -> Found:
    """Measure along an axis: every other size if quick, with the largest."""
    sizes = axis.sizes if axis.name == "devices" or not settings.quick else axis.sizes[1::2]
    if axis.name == "devices" and jax.default_backend() == "cpu":
        seconds = on_virtual_devices(settings.rounds)
    else:
        seconds = seconds_of(axis, sizes, settings.rounds)
    overall, at_the_end = exponents(sizes, seconds)
    return Found(axis, sizes, seconds, overall, at_the_end, reached_from(sizes, seconds, axis.expected))


def seconds_of(axis: Axis, sizes: Sequence[int], rounds: int) -> np.ndarray:
    """Seconds (sizes, rounds), with the sizes taking turns."""
    found = turns({str(size): axis.run(size) for size in sizes}, (), rounds)
    return np.stack([found[str(size)] for size in sizes])


def on_virtual_devices(rounds: int) -> np.ndarray:
    """The seconds along the last axis, from a process whose CPU counts as several devices, which this one's does not."""
    code = (
        "import json; from benchmarks import scaling; axis = scaling.axes()[-1]; "
        f"print(json.dumps(scaling.seconds_of(axis, axis.sizes, {rounds}).tolist()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True,
                          check=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": str(VIRTUAL)})  # fmt: skip
    return np.array(json.loads(done.stdout))


def slopes(sizes: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Slopes in logarithms from each size to the next; values (sizes, ...)."""
    return np.diff(np.log(values), axis=0) / np.diff(np.log(sizes)).reshape(-1, *[1] * (values.ndim - 1))


def slope(sizes: Sequence[int], values: np.ndarray) -> np.ndarray:
    """The slope in logarithms over all sizes, by least squares; values (sizes, ...)."""
    away = np.log(sizes) - np.mean(np.log(sizes))
    return np.tensordot(away, np.log(values), axes=1) / np.sum(away**2)


def exponents(sizes: Sequence[int], seconds: np.ndarray) -> tuple[Exponent, Exponent]:
    """Over all sizes, and between the two largest."""
    rounds = seconds.shape[1]
    rows = np.random.default_rng(0).integers(rounds, size=(2000, rounds))
    medians, drawn = np.median(seconds, axis=1), np.median(seconds[:, rows], axis=2)

    def with_interval(value: np.ndarray, values: np.ndarray) -> Exponent:
        return Exponent(float(value), *map(float, np.quantile(values, [0.025, 0.975])))

    return (
        with_interval(slope(sizes, medians), slope(sizes, drawn)),
        with_interval(slopes(sizes, medians)[-1], slopes(sizes, drawn)[-1]),
    )


def reached_from(sizes: Sequence[int], seconds: np.ndarray, expected: float) -> int | None:
    """The smallest size from which on every slope to the next one is within the margin of the expected exponent."""
    off = np.abs(slopes(sizes, np.median(seconds, axis=1)) - expected) > MARGIN
    first = int(np.flatnonzero(off)[-1]) + 1 if off.any() else 0
    return sizes[first] if first < len(off) else None


def temporaries(axis: Axis, sizes: Sequence[int]) -> np.ndarray:
    """Megabytes of temporary memory that the compiled gradient asks for at each size."""
    found = []
    for size in sizes:
        widths, n = ((size,) * 3, 128) if axis.name == "width" else ((256,) * 3, size)
        found.append(memory(jax.jit(jaxnet.backprop).lower(*problem(widths, n)).compile())["temporary"])
    return np.array(found)
