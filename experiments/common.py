"""What the experiments share: claims and their verdicts, the agreement of the two gradients, and writing it all."""

from __future__ import annotations

import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest

import jaxnet

RESULTS = Path(__file__).resolve().parents[1] / "results"

console = Console()


class Verdict(StrEnum):
    """What the numbers say of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "not enough evidence"


class Claim(NamedTuple):
    """A claim in a sentence, the verdict that was computed from the numbers, and the numbers in words."""

    text: str
    verdict: Verdict
    evidence: str


class Result(NamedTuple):
    """What an experiment found: numbers by name (with plain lists for arrays), figures by name, and claims."""

    numbers: dict[str, Any]
    figures: dict[str, Figure]
    claims: tuple[Claim, ...] = ()


def verdict(holds: bool | np.bool_ | None) -> Verdict:
    """The verdict of what is true, false, or (None) not settled by the numbers."""
    return Verdict.OPEN if holds is None else Verdict.HOLDS if holds else Verdict.FAILS


def above(bound: float, low: float, high: float) -> Verdict:
    """Whether a number that lies between ``low`` and ``high``, its confidence interval, is above ``bound``."""
    return verdict(True if low > bound else False if high <= bound else None)


def share(successes: int, trials: int) -> dict[str, Any]:
    """A share of trials with its 95 % interval, by Wilson's score."""
    interval = binomtest(int(successes), int(trials)).proportion_ci(method="wilson")
    return {"share": successes / trials, "low": float(interval.low), "high": float(interval.high), "trials": trials}


def gradient_agreement(
    by_hand: Callable[..., Any], automatic: Callable[..., Any], args: tuple[Any, ...]
) -> dict[str, Any]:
    """The gradient by hand against the automatic one, in both dtypes: relative errors, tolerances, and the verdict."""
    agreement = {}
    for dtype in (jnp.float64, jnp.float32):
        with jax.enable_x64(True):
            given = jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype), args)
            report = jaxnet.check.compare(jax.jit(by_hand)(*given), jax.jit(automatic)(*given))
        agreement[jnp.dtype(dtype).name] = {
            "relative_error": report.relative_error,
            "tolerance": report.leaves[0].tolerance,
            "holds": bool(report),
        }
    return agreement


def network_agreement(params: Any, data: jaxnet.data.Data, net: jaxnet.Network) -> dict[str, Any]:
    """`gradient_agreement` of ``jaxnet.backprop`` with ``jaxnet.autodiff``."""
    return gradient_agreement(
        lambda params, x, y: jaxnet.backprop(params, x, y, net)[1],
        lambda params, x, y: jaxnet.autodiff(params, x, y, net)[1],
        (params, *data),
    )


def estimate(values: Sequence[Any] | np.ndarray | jax.Array) -> dict[str, Any]:
    """The mean of repeats and its standard error (None for a single one), with the values."""
    values = np.asarray(values, float)
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "standard_error": error, "values": values}


def main(name: str, run: Callable[..., Result], settings: type, full: dict[str, Any], description: str | None) -> int:
    """The command line of an experiment: its settings as options, and ``--full``, which changes their defaults."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--full"]
    thorough = len(arguments) < len(sys.argv) - 1
    given = tyro.cli(
        settings,
        args=arguments,
        default=settings(**full) if thorough else None,
        description=f"{description}\n\n--full: the thorough version, with other defaults: --full --help shows them.",
    )
    return present(name, run, given)


def present(name: str, run: Callable[..., Result], settings: Any) -> int:
    """Run an experiment, print its numbers, and write ``NAME.json`` and ``NAME_*.png`` into ``settings.output``.

    Returns the exit status: 0, 1 where the two gradients differ or ``numbers["holds"]`` is false, 2 where the settings
    or the folder are no good.
    """
    console.rule(f"[bold]{name}")
    began = time.perf_counter()
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        numbers, figures, claims = run(settings, progress=True)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        console.print(f"[bold red]{name} cannot run so:[/] {escape(str(error))}", soft_wrap=True)
        return 2
    numbers["seconds"] = time.perf_counter() - began

    table = Table("number", "value", show_edge=False, header_style="bold")
    for key, value in numbers.items():
        if key != "gradient_agreement" and (text := _text(value)) is not None:
            table.add_row(key.replace("_", " "), text)
    for dtype, found in numbers["gradient_agreement"].items():
        verdict = "agrees" if found["holds"] else "[bold red]DIFFERS"
        table.add_row(
            f"by hand against jax.grad, {dtype}",
            f"relative error {found['relative_error']:.1e} (at most {found['tolerance']:.0e}): {verdict}",
        )
    console.print(table)
    for claim in claims:
        console.print(f"[bold]{claim.verdict}[/]: {escape(claim.text)} [dim]{escape(claim.evidence)}", soft_wrap=True)

    written = [settings.output / f"{name}.json"]
    written[0].write_text(json.dumps(_plain(_document(name, settings, numbers, claims)), indent=1) + "\n")
    for figure_name, figure in figures.items():
        written.append(settings.output / f"{name}_{figure_name}.png")
        figure.savefig(written[-1])
    console.print(f"wrote {', '.join(path.name for path in written)} into {settings.output}", soft_wrap=True)
    agreed = all(found["holds"] for found in numbers["gradient_agreement"].values())
    return 0 if agreed and numbers.get("holds", True) else 1


def _text(value: Any) -> str | None:
    """A number as the table shows it; None for what is only for the file."""
    if isinstance(value, dict) and value.keys() == {"mean", "standard_error", "values"}:
        mean, error = value["mean"], value["standard_error"]
        return f"{mean:.4g}" if error is None else f"{mean:.4g} ± {error:.1g}"
    if isinstance(value, (dict, list)):
        return None
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _document(name: str, settings: Any, numbers: dict[str, Any], claims: tuple[Claim, ...]) -> dict[str, Any]:
    return {
        "experiment": name,
        "settings": asdict(settings),
        "claims": [claim._asdict() for claim in claims],
        "numbers": numbers,
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "jaxnet": jaxnet.__version__},
        "device": jax.devices()[0].device_kind,
    }


def _plain(value: Any) -> Any:
    """The value as JSON has it: arrays as lists, paths as text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
