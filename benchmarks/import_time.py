"""What a process waits for before it learns: `import jaxnet`, and the first call, compiled or taken from a cache.

Every measurement is a process of its own, and the contenders take turns. `import jaxnet` is compared with importing
jax, optax and numpy, which it needs. The first calls are `jaxnet.init` of 784-30-10 and 2-2-1, a jitted
`jaxnet.sgd_step` of the one, and 100 epochs of `jaxnet.train` of the other: without JAX's persistent compilation cache,
with an empty one, and with the one that the process before has filled; by hand, and with the usual automatic gradient.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.harness import estimate, ratio
from experiments._drawing import STYLES, finish, new_figure

ROOT = Path(__file__).parents[1]
MOST = 0.15
"""Seconds that importing jaxnet may add."""
STAGES = ("import", "init", "first step", "first training")
GRADIENTS, CACHES = ("by hand", "automatic"), ("no cache", "empty cache", "filled cache")

WITHOUT, WITH = "import jax, optax, numpy", "import jax, optax, numpy, jaxnet"
IMPORT = """
import time
began = time.perf_counter()
{}
print(time.perf_counter() - began)
"""
FIRST_CALLS = """
import json, sys, time
seconds = {}
began = time.perf_counter()
import jax, optax, numpy, jaxnet
seconds["import"] = time.perf_counter() - began

from benchmarks.programs import idiomatic_cost

def automatic_step(params, x, y, learning_rate):
    value, grads = jax.value_and_grad(idiomatic_cost)(params, x, y)
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads), value

def timed(name, run):
    began = time.perf_counter()
    found = jax.block_until_ready(run())
    seconds[name] = time.perf_counter() - began
    return found

def train():
    return jaxnet.train(key, small, jaxnet.data.xor(), optimizer=optax.sgd(4.0), epochs=100, gradient=gradient).params

by_hand = sys.argv[1] == "by hand"
step, gradient = (jaxnet.sgd_step, jaxnet.backprop) if by_hand else (automatic_step, jaxnet.autodiff)
x, y = numpy.ones((10, 784), "float32"), numpy.ones((10, 10), "float32")
key = jax.random.key(0)
large, small = timed("init", lambda: (jaxnet.init(key, (784, 30, 10)), jaxnet.init(key, (2, 2, 1))))
timed("first step", lambda: jax.jit(step)(large, x, y, 0.5))
timed("first training", train)
print(json.dumps(seconds))
"""


@dataclass(frozen=True)
class Settings(report.Settings):
    """How much to measure."""

    rounds: int = 5
    """Turns of each process."""


class Difference(NamedTuple):
    """A difference of medians, in seconds, with a 95 % bootstrap interval over the rounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Module(NamedTuple):
    """What importing a module takes: seconds by itself, and with the modules that it is the first to import."""

    name: str
    alone: float
    cumulative: float


# ----------------------------------------------------------------------------------------------------------------------
# Measuring


def process(code: str, *arguments: str, options: Sequence[str] = (), **environment: str) -> tuple[str, str, float]:
    """What a fresh process prints and reports as errors, and the seconds from its start to its end."""
    # Bytecode is kept, as it is for users; without, a package is compiled anew in every process.
    environment = os.environ | environment | {"PYTHONDONTWRITEBYTECODE": ""}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, *options, "-c", code, *arguments], cwd=ROOT, env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    return done.stdout, done.stderr, time.perf_counter() - began


def imports(rounds: int) -> dict[str, dict[str, np.ndarray]]:
    """Seconds of the import statement, and of the whole process, without jaxnet and with it."""
    found = {statement: np.empty((2, rounds)) for statement in (WITHOUT, WITH)}
    for statement in found:
        process(IMPORT.format(statement))  # files come from the disk, and are compiled to bytecode, only once
    for i in range(rounds):
        for statement, seconds in found.items():
            printed, _, whole = process(IMPORT.format(statement))
            seconds[:, i] = float(printed), whole
    return {statement: {"statement": s[0], "process": s[1]} for statement, s in found.items()}


def modules(statement: str) -> dict[str, Module]:
    """Every module that a statement imports, by name, from one process with ``-X importtime``.

    The garbage collector is off: one full pass takes as long as several modules, and falls on any one of them.
    """
    found = {}
    _, reported, _ = process(f"import gc; gc.disable(); {statement}", options=("-X", "importtime"))
    for line in reported.splitlines():
        if line.startswith("import time:") and "[us]" not in line:
            alone, cumulative, name = line.removeprefix("import time:").split("|")
            found[name.strip()] = Module(name.strip(), int(alone) / 1e6, int(cumulative) / 1e6)
    return found


def first_calls(gradient: str, **environment: str) -> list[float]:
    """Seconds of each stage in a fresh process."""
    printed, *_ = process(FIRST_CALLS, gradient, **environment)
    seconds = json.loads(printed)
    return [seconds[stage] for stage in STAGES]


def stages(gradients: Sequence[str], rounds: int) -> dict[tuple[str, str], np.ndarray]:
    """Seconds (rounds, stages) by gradient and cache; each round fills a cache of its own."""
    found = {(gradient, cache): np.empty((rounds, len(STAGES))) for gradient in gradients for cache in CACHES}
    for i in report.progress(range(rounds), "first calls"):
        for gradient in gradients:
            with tempfile.TemporaryDirectory() as folder:  # readable for its owner alone
                off = {"JAX_ENABLE_COMPILATION_CACHE": "0"}
                on = {
                    "JAX_ENABLE_COMPILATION_CACHE": "1",
                    "JAX_COMPILATION_CACHE_DIR": folder,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                }
                for cache, environment in zip(CACHES, (off, on, on), strict=True):
                    found[gradient, cache][i] = first_calls(gradient, **environment)
    return found


def difference(more: np.ndarray, less: np.ndarray) -> Difference:
    """The difference of the medians of two contenders that took turns."""
    return Difference(*estimate(np.subtract, more, less))


# ----------------------------------------------------------------------------------------------------------------------
# Reporting


def table_of_imports(found: Mapping[str, Mapping[str, np.ndarray]]) -> report.Table:
    """Without jaxnet, with it, and what it adds."""
    rows = [
        (statement, *(f"{np.median(found[statement][part]):.3f}" for part in ("statement", "process")))
        for statement in (WITHOUT, WITH)
    ]
    added = [str(difference(found[WITH][part], found[WITHOUT][part])) for part in ("statement", "process")]
    columns = ("", "seconds of the statement", "of the whole process")
    return report.Table("Importing", columns, [*rows, ("jaxnet adds", *added)])


def table_of_modules(title: str, found: Sequence[Module], note: str = "") -> report.Table:
    """The ten slowest modules."""
    slowest = sorted(found, key=lambda module: -module.cumulative)[:10]
    rows = [(m.name, f"{m.cumulative * 1e3:.1f}", f"{m.alone * 1e3:.1f}") for m in slowest]
    return report.Table(title, ("module", "ms, with what it imports first", "ms alone"), rows, note)


def table_of_stages(found: Mapping[tuple[str, str], np.ndarray]) -> report.Table:
    """A gradient and cache a row."""
    rows = []
    for (gradient, cache), seconds in found.items():
        calls = seconds[:, 1:].sum(axis=1)
        without = found[gradient, CACHES[0]][:, 1:].sum(axis=1)
        medians = (f"{value:.3f}" for value in np.median(seconds, axis=0))
        rows.append((f"{gradient}, {cache}", *medians, f"{np.median(calls):.3f}", str(ratio(calls, without))))
    note = "Seconds, medians. All calls: the last three stages together."
    return report.Table("The first calls of a process", ("", *STAGES, "all calls", "over no cache"), rows, note)


def figure_of(found: Mapping[tuple[str, str], np.ndarray]) -> Figure:
    """The stages of each process, end to end."""
    figure = new_figure(8, 1.2 + 0.34 * len(found))
    axes = figure.subplots()
    rows, ends = range(len(found)), np.zeros(len(found))
    medians = np.array([np.median(seconds, axis=0) for seconds in found.values()])
    for stage, (colour, *_), hatch, seconds in zip(STAGES, STYLES, ("", "//", "", ".."), medians.T, strict=False):
        axes.barh(rows, seconds, left=ends, color=colour, edgecolor="white", hatch=hatch, height=0.7, label=stage)
        ends += seconds
    axes.set(yticks=rows, yticklabels=[f"{gradient}, {cache}" for gradient, cache in found])
    axes.invert_yaxis()
    finish(axes, "seconds", "", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(STAGES))
    return figure


def bars(added: Difference, found: Mapping[tuple[str, str], np.ndarray]) -> list[report.Bar]:
    """What was aimed at."""
    empty, filled = (found["by hand", cache][:, 1:].sum(axis=1) for cache in CACHES[1:])
    share = ratio(filled, empty)
    return [
        report.Bar(f"importing jaxnet adds at most {MOST} s", f"{added} s", added.value <= MOST),
        report.Bar("with the cache that a first process filled, a second one's first calls take at most half of "
                   "the first one's", str(share), share.value <= 0.5),
    ]  # fmt: skip


def measure(settings: Settings, _: Mapping[str, float]) -> report.Report:
    """Everything; the gradient by hand once if quick."""
    imported = imports(settings.rounds)
    added = difference(imported[WITH]["statement"], imported[WITHOUT]["statement"])
    ours, others = modules(WITH), modules(WITHOUT)
    own = [module for name, module in ours.items() if name.partition(".")[0] == "jaxnet"]
    pulled = [module for name, module in ours.items() if module not in own and name not in others]
    found = stages(GRADIENTS[:1], 1) if settings.quick else stages(GRADIENTS, settings.rounds)
    note = (
        "From one process with -X importtime, which slows imports down, and without garbage collection, one pass of "
        "which falls on some module or other. A module counts for its first importer."
    )
    seconds = found["by hand", CACHES[0]]
    share = float(np.median(seconds[:, 1]) / np.median(seconds[:, 1:].sum(axis=1)))
    return report.Report(
        tables=[
            table_of_imports(imported),
            table_of_modules("jaxnet's own modules", own, note),
            table_of_modules("Other modules that only jaxnet imports", pulled),
            table_of_stages(found),
        ],
        bars=bars(added, found),
        notes=[f"Without a cache, init takes {share:.0%} of the first calls: it compiles a program of its own."],
        figures={"stages": figure_of(found)},
        numbers={
            "import": imported,
            "modules": {"jaxnet": own, "others": pulled},
            "stages": STAGES,
            "first calls": {", ".join(names): seconds for names, seconds in found.items()},
        },
    )


if __name__ == "__main__":
    raise SystemExit(report.script())
