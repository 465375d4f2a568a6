"""How everything is timed: contenders take turns, round after round, each waited for, after a warm-up apart."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax
from jax import lax

import jaxnet


def interleave(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, *, rest: float = 0.0, warm: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Seconds of each contender in each round, and of its first call, which compiles and is not among the rounds.

    A contender returns what must be ready before the clock stops. ``rest`` is how many seconds pass before each turn:
    the threads of other libraries go on spinning for some hundredths of a second after their last product, and a system
    goes on with a gigabyte that was given back to it; both take a core from whoever comes next. A program whose threads
    have slept takes up to 1.7 times its time for the next tenth of a second or two, so after the rest it runs for
    ``SETTLE`` seconds, and once at the least, before it is timed. ``warm=False`` leaves out the first call, for
    programs that are compiled already and long.
    """
    first = {name: _seconds(run) for name, run in contenders.items()} if warm else {}
    seconds = {name: np.empty(rounds) for name in contenders}
    for i in range(rounds):
        for name, run in contenders.items():
            if rest:
                time.sleep(rest)
                began = time.perf_counter()
                while time.perf_counter() < began + SETTLE:
                    jax.block_until_ready(run())
            seconds[name][i] = _seconds(run)
    return seconds, first


SETTLE = 0.2
"""Seconds for which a contender runs after a rest before it is timed."""


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


TURN = 0.05
"""Seconds that a turn of a short program should last at the least: it is called many times in it, on warm caches."""


def turns(
    programs: Mapping[str, Callable[..., Any]], arguments: tuple[Any, ...], rounds: int, *, rest: float = 0.0
) -> dict[str, np.ndarray]:
    """Seconds a call of each program; a turn is as many calls as fill its time, one after the other."""
    single, _ = interleave({name: lambda p=p: p(*arguments) for name, p in programs.items()}, 3)
    calls = {name: max(1, round(TURN / float(seconds.min()))) for name, seconds in single.items()}

    contenders = {name: partial(repeated, partial(p, *arguments), calls[name]) for name, p in programs.items()}
    seconds, _ = interleave(contenders, rounds, rest=rest)
    return {name: values / calls[name] for name, values in seconds.items()}


def repeated(run: Callable[[], Any], times: int) -> Any:
    """What the last of so many calls returns, each but it waited for."""
    for _ in range(times - 1):
        jax.block_until_ready(run())
    return run()


def estimate(statistic: Callable[..., Any], *seconds: np.ndarray) -> tuple[float, float, float]:
    """A statistic of medians over the rounds, the last axis, and its 95 % bootstrap interval: rounds drawn together."""
    rounds = seconds[0].shape[-1]
    rows = np.random.default_rng(0).integers(rounds, size=(2000, rounds))
    drawn = statistic(*(np.median(values[..., rows], axis=-1) for values in seconds))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(statistic(*(np.median(values, axis=-1) for values in seconds))), float(low), float(high)


class Ratio(NamedTuple):
    """A ratio of medians, with a 95 % bootstrap interval over the rounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 2 if self.value < 10 else 1 if self.value < 100 else 0
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    @property
    def verdict(self) -> str:
        """What a ratio of times says of the numerator; of a single round, whose interval is a point, nothing."""
        if self.low == self.high:
            return "not known"
        return "no difference" if self.low <= 1 <= self.high else "faster" if self.value < 1 else "slower"


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Ratio:
    """The ratio of the medians of two contenders that took turns."""
    return Ratio(*estimate(np.divide, numerator, denominator))


def geometric_mean(values: Iterable[float]) -> float:
    """The mean for ratios."""
    return float(np.exp(np.mean(np.log(list(values)))))


# ----------------------------------------------------------------------------------------------------------------------
# Equal results

AGREEMENT = 1e-4
"""How far apart, relative to the largest number, results in float32 may be that are called equal."""


def distance(actual: Any, expected: Any) -> float:
    """The largest difference of two trees, relative to the largest number."""
    pairs = list(zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True))
    size = max(float(jnp.abs(b).max()) for _, b in pairs)
    return max(float(jnp.abs(a - b).max()) for a, b in pairs) / size


def must_agree(
    what: str, programs: Mapping[str, Callable[..., Any]], first: str, others: Iterable[str], arguments: tuple[Any, ...]
) -> None:
    """Times are compared of equal results only: RuntimeError where others are further than that from the first."""
    expected = programs[first](*arguments)
    for name in others:
        apart = distance(programs[name](*arguments), expected)
        if not apart <= AGREEMENT:
            raise RuntimeError(f"{what}: {name} differs from {first} by {apart:.1e}, relative, of {AGREEMENT:.0e}")


# ----------------------------------------------------------------------------------------------------------------------
# What a compiled program asks for


def memory(compiled: Any) -> dict[str, float]:
    """Megabytes that a compiled program asks for, besides its arguments."""
    found = compiled.memory_analysis()
    # Results that reuse the memory of donated arguments ask for nothing.
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return {"temporary": found.temp_size_in_bytes / 1e6, "results": results / 1e6}


def counts(compiled: Any) -> dict[str, float]:
    """Floating-point operations and bytes read and written, as the compiler counts them; a loop's body counts once."""
    found = compiled.cost_analysis()
    return {"flops": float(found.get("flops", 0)), "bytes": float(found.get("bytes accessed", 0))}


def operations(sizes: Sequence[int], n: int) -> int:
    """Operations in the products of a gradient: forward, backward, and the contraction; none carry back to x."""
    weights = [inputs * units for inputs, units in pairwise(sizes)]
    return 2 * n * (3 * sum(weights) - weights[0])


# ----------------------------------------------------------------------------------------------------------------------
# The machine


def peaks(n: int = 2048, rounds: int = 7) -> dict[str, float]:
    """What this machine reaches: operations a second in matrix products of n x n, bytes a second read and written."""
    found = {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            a = jax.random.normal(jax.random.key(0), (n, n), dtype)
            product = jax.jit(lambda a: a @ a)
            seconds, _ = interleave({"product": lambda product=product, a=a: product(a)}, rounds)
            found[f"matmul {dtype}"] = 2 * n**3 / float(seconds["product"].min())
    passes, numbers = 4, jnp.zeros(16 * n**2)
    copy = jax.jit(lambda a: lax.fori_loop(0, passes, lambda _, a: lax.optimization_barrier(a) + 1, a))
    seconds, _ = interleave({"copy": lambda: copy(numbers)}, rounds)
    found["copy"] = 2 * passes * numbers.nbytes / float(seconds["copy"].min())
    return found


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    modules = (jax, jaxlib, np, optax, jaxnet)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "devices": ", ".join(f"{device.platform}: {device.device_kind}" for device in jax.devices()),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    } | {module.__name__: module.__version__ for module in modules}
