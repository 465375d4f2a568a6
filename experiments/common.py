"""What the experiments share: claims and verdicts, the agreement of the two gradients, and the command line."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

import jaxnet
from experiments import gallery, records
from experiments.claims import Claim, Verdict, above, estimate, every, interval, share, verdict
from experiments.records import Result
from jaxnet._one_function import QUICKLY

__all__ = [
    "RESULTS", "SKIPPED", "Claim", "Missing", "Result", "Verdict", "above", "agreed", "check_at_least", "console",
    "estimate", "every", "gradient_agreement", "initial", "interval", "main", "mnist", "network_agreement", "present",
    "quickly_compiled", "share", "show_claims", "timed", "two_at_a_time", "verdict",
]  # fmt: skip

RESULTS = Path(__file__).resolve().parents[1] / "results"

SKIPPED = 3
"""The exit status of an experiment that misses its data."""

console = Console()

_Name = TypeVar("_Name")
_Found = TypeVar("_Found")


class Missing(Exception):  # noqa: N818  it is no error of the experiment
    """Raised by ``run`` where what it needs, such as a data set, is not here: the experiment is skipped."""


def check_at_least(settings: Any, **least: int) -> None:
    """Raise ValueError for a setting below the least that makes sense."""
    for name, bound in least.items():
        if getattr(settings, name) < bound:
            raise ValueError(f"{name} is {getattr(settings, name)}, expected at least {bound}")


def check_settings(settings: Any) -> None:
    """Raise ValueError for a setting that is not finite, or an empty list of them, which no experiment can run with."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, tuple) and not value:
            raise ValueError(f"{field.name} is empty, expected at least one value")
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, float) and not math.isfinite(one):
                raise ValueError(f"{field.name} is {one}, expected a finite number")


def quickly_compiled(function: Callable[..., Any], *, level: int = 0, **options: Any) -> Callable[..., Any]:
    """``jax.jit``, for what runs for a moment: compiling with all optimizations takes longer than they save.

    With level 0, compiling takes an eighth of the time, and loops over many numbers some times longer; with 1, half.
    """
    flags = {"xla_backend_optimization_level": level}
    if jax.default_backend() == "cpu":
        flags |= QUICKLY | {"xla_cpu_parallel_codegen_split_count": 1}
    return jax.jit(function, compiler_options=flags, **options)


def initial(key: jax.Array, members: int, sizes: tuple[int, ...], **how: Any) -> tuple[jaxnet.Layer, ...]:
    """`jaxnet.ensemble.init`, compiled quickly, all of it: it draws once."""
    return quickly_compiled(lambda key: jaxnet.ensemble.init(key, members, sizes, **how))(key)


def two_at_a_time(jobs: Mapping[_Name, Callable[[], _Found]], what: str, *, progress: bool) -> dict[_Name, _Found]:
    """What each job finds; one is traced and compiled while another runs."""
    x64 = bool(jax.config.read("jax_enable_x64"))

    def one(job: Callable[[], _Found]) -> _Found:
        with jax.enable_x64(x64):  # JAX's settings belong to threads
            return job()

    with ThreadPoolExecutor(2) as pool:
        found = pool.map(one, jobs.values())
        shown = track(found, what, len(jobs), console=console, disable=not progress, transient=True)
        return dict(zip(jobs, shown, strict=True))


def gradient_agreement(
    by_hand: Callable[..., Any], automatic: Callable[..., Any], args: tuple[Any, ...]
) -> dict[str, Any]:
    """The gradient by hand against the automatic one, in both dtypes: relative errors, tolerances, and the verdict."""
    agreement = {}
    for dtype in (jnp.float64, jnp.float32):
        with jax.enable_x64(True):
            given = jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype), args)
            report = jaxnet.check.compare(quickly_compiled(by_hand)(*given), quickly_compiled(automatic)(*given))
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


def mnist() -> jaxnet.data.Splits:
    """`jaxnet.data.mnist`; `Missing` where its files are neither here nor to be had."""
    try:
        return jaxnet.data.mnist()
    except OSError as error:
        raise Missing(f"MNIST is not here: {error}") from error


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
    """Run an experiment, print its numbers and claims, write them with its figures, and renew the page of results.

    Returns the exit status: 0, 1 where the two gradients differ or ``numbers["holds"]`` is false, 2 where the settings
    or the folder are no good, 3 where its data is missing.
    """
    console.rule(f"[bold]{name}")
    try:
        records.make_folder(settings.output)
        result = timed(run, settings, progress=True)
    except Missing as missing:
        console.print(f"[bold]{name} is skipped:[/] {escape(str(missing))}", soft_wrap=True)
        return SKIPPED
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        reason = str(error)
        if isinstance(error, ArithmeticError):  # Python's messages name no setting
            reason = f"with these settings a number leaves the range of floats ({error.args[-1] if error.args else ''})"
        console.print(f"[bold red]{name} cannot run so:[/] {escape(reason)}", soft_wrap=True)
        return 2
    table = Table("number", "value", show_edge=False, header_style="bold")
    for key, text in records.rows(result.numbers):
        table.add_row(key, escape(text))
    console.print(table)
    show_claims(result)
    records.save(name, run, settings, result)
    gallery.write(settings.output)
    console.print(f"wrote {name}.json, its figures and {gallery.PAGE} into {settings.output}", soft_wrap=True)
    return 0 if agreed(result) else 1


def timed(run: Callable[..., Result], settings: Any, *, progress: bool) -> Result:
    """The result of an experiment, with the seconds that it took among its numbers."""
    check_settings(settings)
    began = time.perf_counter()
    result = run(settings, progress=progress)
    result.numbers["seconds"] = time.perf_counter() - began
    return result


def show_claims(result: Result) -> None:
    """Print each claim with its verdict and the evidence, and how far the two gradients are apart."""
    for claim in result.claims:
        colour = {Verdict.HOLDS: "green", Verdict.FAILS: "red", Verdict.OPEN: "yellow"}[claim.verdict]
        console.print(
            f"[bold {colour}]{claim.verdict}[/]: {escape(claim.text)} [dim]{escape(claim.evidence)}", soft_wrap=True
        )
    for dtype, found in result.numbers["gradient_agreement"].items():
        says = "agrees" if found["holds"] else "[bold red]DIFFERS[/]"
        console.print(
            f"gradient by hand against jax.grad, {dtype}: relative error {found['relative_error']:.1e} "
            f"(at most {found['tolerance']:.0e}): {says}",
            soft_wrap=True,
        )


def agreed(result: Result) -> bool:
    """Whether the two gradients agree, and what the experiment checks of itself holds."""
    agreement = result.numbers["gradient_agreement"].values()
    return all(found["holds"] for found in agreement) and bool(result.numbers.get("holds", True))
