"""How everything is timed: contenders take turns, round after round, each waited for, after a warm-up apart."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"


def interleave(
    contenders: Mapping[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Seconds of each contender in each round, and of its first call, which compiles and is not among the rounds.

    A contender returns what must be ready before the clock stops.
    """
    first = {name: _seconds(run) for name, run in contenders.items()}
    seconds = {name: np.empty(rounds) for name in contenders}
    for i in range(rounds):
        for name, run in contenders.items():
            seconds[name][i] = _seconds(run)
    return seconds, first


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


TURN = 0.05
"""Seconds that a turn of a short program should last at the least: it is called many times in it, on warm caches."""


def turns(programs: Mapping[str, Callable[..., Any]], arguments: tuple[Any, ...], rounds: int) -> dict[str, np.ndarray]:
    """Seconds a call of each program; a turn is as many calls as fill its time, one after the other."""
    single, _ = interleave({name: lambda p=p: p(*arguments) for name, p in programs.items()}, 3)
    calls = {name: max(1, round(TURN / float(seconds.min()))) for name, seconds in single.items()}

    def repeat(program: Any, times: int) -> Any:
        for _ in range(times - 1):
            jax.block_until_ready(program(*arguments))
        return program(*arguments)

    contenders = {name: lambda p=p, name=name: repeat(p, calls[name]) for name, p in programs.items()}
    seconds, _ = interleave(contenders, rounds)
    return {name: values / calls[name] for name, values in seconds.items()}


def memory(compiled: Any) -> dict[str, float]:
    """Megabytes that a compiled program asks for, besides its arguments."""
    found = compiled.memory_analysis()
    # Results that reuse the memory of donated arguments ask for nothing.
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return {"temporary": found.temp_size_in_bytes / 1e6, "results": results / 1e6}


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float, float]:
    """The ratio of the medians, with a 95 % bootstrap interval over the rounds."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(numerator), size=(2000, len(numerator)))
    drawn = np.median(numerator[rows], axis=1) / np.median(denominator[rows], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.median(numerator) / np.median(denominator)), float(low), float(high)


def matmul_peak(n: int = 2048, rounds: int = 7) -> float:
    """The most floating-point operations a second that a float32 matrix product reaches here."""
    a = jax.random.normal(jax.random.key(0), (n, n))
    product = jax.jit(lambda a: a @ a)
    seconds, _ = interleave({"product": lambda: product(a)}, rounds)
    return 2 * n**3 / float(seconds["product"].min())


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    device = jax.devices()[0]
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "device": f"{device.platform}: {device.device_kind}",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
    }


def save(name: str, document: Any) -> Path:
    """Write a benchmark's figures as JSON; where they are."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path
