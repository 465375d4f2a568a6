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
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

import jaxnet
from benchmarks import report
from benchmarks.harness import estimate, memory, operations, turns
from experiments._drawing import STYLES, finish, new_figure
from jaxnet import ensemble

MARGIN = 0.1
"""How far an exponent may lie from the expected one and still be called the same."""
VIRTUAL = 4
"""Devices that a CPU is made to have."""
MANY_PAGES = 1000
"""Fresh pages that take some milliseconds."""
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
    """What was measured along an axis: seconds (sizes, rounds), fresh pages of a call, and exponents of the time."""

    axis: Axis
    sizes: Sequence[int]
    seconds: np.ndarray
    pages: Sequence[int]
    overall: Exponent
    at_the_end: Exponent
    reached: int | None
    """The size from which on the expected exponent holds; None if it does not."""

    @property
    def medians(self) -> np.ndarray:
        """Seconds of each size."""
        return np.median(self.seconds, axis=1)


# ----------------------------------------------------------------------------------------------------------------------
# What is run


def layers(sizes: Sequence[int], *members: int) -> tuple[jaxnet.Layer, ...]:
    """Random layers of a network, or of many, from NumPy: `jaxnet.init` would compile anew for every size."""
    rng = np.random.default_rng(0)
    shapes = [(*members, units, inputs) for inputs, units in pairwise(sizes)]
    weights = [jnp.asarray(rng.standard_normal(shape, np.float32) / shape[-1] ** 0.5) for shape in shapes]
    return tuple(jaxnet.Layer(weight, jnp.zeros(weight.shape[:-1])) for weight in weights)


def problem(sizes: Sequence[int], n: int) -> tuple[Any, jax.Array, jax.Array]:
    """Parameters, inputs and targets."""
    rng = np.random.default_rng(1)
    x, y = (jnp.asarray(rng.random((n, size), np.float32)) for size in (sizes[0], sizes[-1]))
    return layers(sizes), x, y


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
    params, data, key = layers((2, 2, 1), count), jaxnet.data.xor(), jax.random.key(1)
    return lambda: ensemble.train(key, params, data, optimizer=SGD, epochs=steps, record_every=steps).params


def axes() -> list[Axis]:
    """All that can be measured here."""
    w, n, steps = 128, 512, 200
    square, digits = (256,) * 3, (64, 30, 10)
    found = [
        Axis("width", f"gradient of w-w-w, {n} examples", (64, 128, 256, 512, 1024, 2048), 2,
             lambda size: gradient((size,) * 3, n), lambda size: operations((size,) * 3, n),
             "narrow products do not fill the cores, and what is linear in the width (activations) weighs more"),
        Axis("depth", f"gradient of layers {w} wide, {w} examples", (2, 4, 8, 16, 32, 64), 1,
             lambda size: gradient((w,) * (size + 1), w), lambda size: operations((w,) * (size + 1), w),
             "a call has a fixed cost"),
        Axis("batch", f"gradient of {report.named(square)}", (64, 256, 1024, 4096, 16384, 65536), 1,
             lambda size: gradient(square, size), lambda size: operations(square, size),
             "the weights are read and the gradients written whatever the batch, and short products do not fill the "
             "cores"),
        Axis("members", f"ensemble.train of 2-2-1 on XOR, {steps} steps", (256, 1024, 4096, 16384, 65536, 262144), 1,
             lambda size: members(size, steps), lambda size: size * steps * operations((2, 2, 1), 4),
             "preparing and starting a call costs the same for few members as for many"),
        Axis("examples", f"epoch of train, {report.named(digits)}, batches of 10",
             (256, 1024, 4096, 16384, 65536, 262144), 1,
             lambda size: epoch(digits, 10, size), lambda size: operations(digits, size),
             "preparing and starting a call costs the same for few examples as for many"),
    ]  # fmt: skip
    return found + devices_axis()


def devices_axis() -> list[Axis]:
    """Devices, where there are several: those that there are, or virtual ones."""
    sizes, n, virtual = (512,) * 3, 4096, jax.default_backend() == "cpu"
    devices = [count for count in (1, 2, 4, 8) if count <= (VIRTUAL if virtual else len(jax.devices()))]
    if len(devices) == 1:
        return []
    return [
        Axis("devices", f"gradient of {report.named(sizes)}, {n:,} examples split over them", devices,
             0 if virtual else -1, lambda count: split_gradient(sizes, n, count), lambda _: operations(sizes, n),
             "they are virtual, and share the cores" if virtual else
             "adding up the gradients takes the same time however few examples each has")
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def follow(axis: Axis, settings: Settings) -> Found:
    """Measure along an axis: two sizes of it if quick."""
    few = axis.sizes[::2] if axis.name == "devices" else axis.sizes[2:4]
    sizes = few if settings.quick else axis.sizes
    if axis.name == "devices" and jax.default_backend() == "cpu":
        seconds, pages = on_virtual_devices(sizes, settings.rounds)
    else:
        seconds, pages = measured(axis, sizes, settings.rounds)
    overall, at_the_end = exponents(sizes, seconds)
    return Found(axis, sizes, seconds, pages, overall, at_the_end, reached_from(sizes, seconds, axis.expected))


def measured(axis: Axis, sizes: Sequence[int], rounds: int) -> tuple[np.ndarray, list[int]]:
    """Seconds (sizes, rounds), with the sizes taking turns, and the fresh pages of a call at each size."""
    runs = {str(size): axis.run(size) for size in sizes}
    seconds = turns(runs, (), rounds)
    return np.stack([seconds[size] for size in runs]), [fresh_pages(run) for run in runs.values()]


def fresh_pages(run: Callable[[], Any]) -> int:
    """Pages of memory that the system hands out anew during a call: how many page faults it takes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(run())
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def on_virtual_devices(sizes: Sequence[int], rounds: int) -> tuple[np.ndarray, list[int]]:
    """What is measured along the last axis, in a process whose CPU counts as several devices: in this one it is one."""
    code = (
        "import json; from benchmarks import scaling; "
        f"seconds, pages = scaling.measured(scaling.axes()[-1], {list(sizes)}, {rounds}); "
        "print(json.dumps([seconds.tolist(), pages]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE,
                          check=True, env=os.environ | {"JAX_NUM_CPU_DEVICES": str(VIRTUAL)})  # fmt: skip
    seconds, pages = json.loads(done.stdout)
    return np.array(seconds), pages


def slopes(sizes: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Slopes in logarithms from each size to the next; values (sizes, ...)."""
    return np.diff(np.log(values), axis=0) / np.diff(np.log(sizes)).reshape(-1, *[1] * (values.ndim - 1))


def slope(sizes: Sequence[int], values: np.ndarray) -> np.ndarray:
    """The slope in logarithms over all sizes, by least squares; values (sizes, ...)."""
    away = np.log(sizes) - np.mean(np.log(sizes))
    return np.tensordot(away, np.log(values), axes=1) / np.sum(away**2)


def exponents(sizes: Sequence[int], seconds: np.ndarray) -> tuple[Exponent, Exponent]:
    """Over all sizes, and between the two largest."""
    overall = estimate(lambda medians: slope(sizes, medians), seconds)
    return Exponent(*overall), Exponent(*estimate(lambda medians: slopes(sizes, medians)[-1], seconds))


def reached_from(sizes: Sequence[int], seconds: np.ndarray, expected: float) -> int | None:
    """The smallest size from which on every slope to the next one is within the margin of the expected exponent."""
    off = np.abs(slopes(sizes, np.median(seconds, axis=1)) - expected) > MARGIN
    first = int(np.flatnonzero(off)[-1]) + 1 if off.any() else 0
    return sizes[first] if first < len(off) else None


def temporaries(settings: Settings) -> dict[str, tuple[Sequence[int], list[float]]]:
    """Megabytes of temporary memory of the compiled gradient of a w-w-w network, against width and batch."""
    sizes = {"width": (256, 512, 1024, 2048), "batch": (1024, 4096, 16384, 65536)}
    found = {}
    for name, along in sizes.items():
        along = along[:2] if settings.quick else along
        problems = [problem((size,) * 3, 512) if name == "width" else problem((256,) * 3, size) for size in along]
        programs = [jax.jit(jaxnet.backprop).lower(*arguments).compile() for arguments in problems]
        found[name] = along, [memory(program)["temporary"] for program in programs]
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Reporting


def table_of_axes(found: Sequence[Found], peak: float) -> report.Table:
    """An axis a row."""
    rows = []
    for item in found:
        axis, sizes = item.axis, item.sizes
        least, most = (axis.flops(sizes[i]) / item.medians[i] / peak for i in (0, -1))
        rows.append((
            axis.name, f"{sizes[0]:,} to {sizes[-1]:,}", f"{axis.expected:g}", str(item.overall), str(item.at_the_end),
            "not here" if item.reached is None else f"{item.reached:,}", f"{least:.1%} to {most:.1%}",
        ))  # fmt: skip
    columns = ("axis", "sizes", "expected", "exponent", "at the large end", "holds from", "of the peak")
    note = (
        "At the large end: between the two largest sizes. Holds from: the size after which no slope between neighbours "
        f"is more than {MARGIN:g} from the expected exponent. Of the peak: operations of the products in a second, at "
        "the smallest and at the largest size, as a share of what a large product reaches."
    )
    return report.Table("Exponents of the time", columns, rows, note)


def table_of_sizes(found: Sequence[Found]) -> report.Table:
    """A size a row."""
    rows = []
    for item in found:
        local = ["", *(f"{value:z.2f}" for value in slopes(item.sizes, item.medians))]
        for size, seconds, exponent, pages in zip(item.sizes, item.seconds, local, item.pages, strict=True):
            median, low, high = (f"{value * 1e3:.4g}" for value in estimate(np.asarray, seconds))
            rows.append((item.axis.name, f"{size:,}", f"{median} [{low}, {high}]", exponent, f"{pages:,}"))
    columns = ("axis", "size", "ms", "exponent from the size before", "fresh pages")
    note = (
        "Fresh pages: of memory that the system hands out, and clears, during one call. On Linux, arrays of more than "
        "32 MB go back to the system after every call, so that the next one takes their pages anew."
    )
    return report.Table("Every size", columns, rows, note)


def table_of_memory(found: dict[str, tuple[Sequence[int], list[float]]]) -> report.Table:
    """Temporary memory, with its exponents."""
    rows = []
    for name, (sizes, megabytes) in found.items():
        local = ["", *(f"{value:.2f}" for value in slopes(sizes, np.array(megabytes)))]
        rows += [(name, f"{s:,}", f"{mb:.2f}", "1", e) for s, mb, e in zip(sizes, megabytes, local, strict=True)]
    note = (
        "As the compiler plans it, without arguments and results: activations and deltas, examples x width each. "
        "Against width: 512 examples; against batch: 256-256-256."
    )
    columns = ("axis", "size", "temporary MB", "expected exponent", "exponent")
    return report.Table("Temporary memory of the gradient of w-w-w", columns, rows, note)


def bars(found: Sequence[Found], memories: dict[str, tuple[Sequence[int], list[float]]]) -> list[report.Bar]:
    """At the large end, no exponent is above the expected one."""
    made = []
    for item in found:
        axis, exponent = item.axis, item.at_the_end
        text = f"{axis.name}: time grows at the large end with an exponent of at most {axis.expected:g} + {MARGIN:g}"
        made.append(report.Bar(text, str(exponent), exponent.value <= axis.expected + MARGIN))
    for name, (sizes, megabytes) in memories.items():
        last = float(slopes(sizes, np.array(megabytes))[-1])
        text = f"{name}: temporary memory grows at the large end with an exponent of at most 1 + {MARGIN:g}"
        made.append(report.Bar(text, f"{last:.2f}", last <= 1 + MARGIN))
    return made


def remark(found: Found) -> str:
    """What was run along an axis, and where, and why, it does not follow the expected exponent."""
    axis, sizes = found.axis, found.sizes
    off = slopes(sizes, found.medians) - axis.expected
    below, above = (np.flatnonzero(chosen).tolist() for chosen in (off < -MARGIN, off > MARGIN))
    parts = [f"below the expected exponent up to {sizes[below[-1] + 1]:,}: {axis.reason}"] if below else []
    for i in above:
        fresh = f", where a call takes {found.pages[i + 1]:,} fresh pages" if found.pages[i + 1] >= MANY_PAGES else ""
        parts.append(f"above it from {sizes[i]:,} to {sizes[i + 1]:,}{fresh}")
    return f"{axis.name.capitalize()} ({axis.program}): {'; '.join(parts) or 'as expected at all sizes'}."


def figure_of(found: Sequence[Found]) -> Figure:
    """A panel an axis: the measured times, and the expected slope through the last of them."""
    figure = new_figure(9, 5.8)
    panels = figure.subplots(2, 3).ravel()
    for panel, item in zip(panels, found, strict=False):
        axis, sizes, milliseconds = item.axis, item.sizes, item.medians * 1e3
        colour, line, marker = STYLES[0]
        _, low, high = np.transpose([estimate(np.asarray, seconds) for seconds in item.seconds]) * 1e3
        panel.errorbar(sizes, milliseconds, yerr=[milliseconds - low, high - milliseconds], fmt=line + marker,
                       color=colour, markersize=4, linewidth=1.4, label="measured")  # fmt: skip
        colour, line, _ = STYLES[1]
        steady = milliseconds[-1] * (np.array(sizes) / sizes[-1]) ** axis.expected
        panel.plot(sizes, steady, line, color=colour, linewidth=1.4, label=f"slope {axis.expected:g}")
        panel.set_xscale("log", base=2)
        panel.set(yscale="log", ylim=(low.min() / 2, high.max() * 2))
        shown = sizes if len(sizes) < 4 else sizes[1::2]
        panel.set(xticks=shown, xticklabels=[f"{size:,}" for size in shown])
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        if panel.get_ylim()[1] > 10 * panel.get_ylim()[0]:
            panel.yaxis.set_minor_formatter(NullFormatter())
        finish(panel, axis.name, "ms", f"{item.at_the_end.value:z.2f} at the large end", fontsize=8, loc="upper left")
    for panel in panels[len(found) :]:
        panel.remove()
    return figure


def measure(settings: Settings, peaks: dict[str, float]) -> report.Report:
    """Everything."""
    found = [follow(axis, settings) for axis in report.progress(axes(), "axes")]
    memories = temporaries(settings)
    numbers = {
        item.axis.name: {
            "sizes": item.sizes, "seconds": item.seconds, "fresh pages": item.pages, "expected": item.axis.expected,
            "exponent": item.overall, "at the large end": item.at_the_end, "holds from": item.reached,
        }
        for item in found
    }  # fmt: skip
    return report.Report(
        tables=[table_of_axes(found, peaks["matmul float32"]), table_of_sizes(found), table_of_memory(memories)],
        bars=bars(found, memories),
        figures={"axes": figure_of(found)},
        numbers=numbers | {"temporary megabytes": memories},
        notes=[remark(item) for item in found],
    )


if __name__ == "__main__":
    raise SystemExit(report.script())
