"""What lies in the folder of results, from which the page is made: ``NAME.json`` and figures of each experiment."""

from __future__ import annotations

import inspect
import json
import os
import platform
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib as mpl
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxnet
from experiments.claims import Claim


class Result(NamedTuple):
    """What an experiment found: numbers by name (with plain lists for arrays), figures by name, and claims."""

    numbers: dict[str, Any]
    figures: dict[str, Figure]
    claims: tuple[Claim, ...] = ()


class Outcome(StrEnum):
    """What became of an experiment."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


def save(name: str, run: Callable[..., Result], settings: Any, result: Result) -> list[Path]:
    """Write ``NAME.json`` and each figure as ``NAME_FIGURE.png`` and ``.svg``; returns the paths, JSON first."""
    written = draw(settings.output, name, result.figures)
    return [save_numbers(name, run, settings, result), *written]  # last, because it names the figures


def draw(folder: Path, name: str, figures: dict[str, Figure]) -> list[Path]:
    """Write each figure as ``NAME_FIGURE.png`` and ``.svg``; returns the paths."""
    written = []
    with mpl.rc_context({"svg.hashsalt": name}):  # the same file for the same figure
        for figure_name, figure in figures.items():
            for kind in ("png", "svg"):
                written.append(folder / f"{name}_{figure_name}.{kind}")
                figure.savefig(written[-1], metadata={"Date": None} if kind == "svg" else None)
                figure.set_layout_engine("none")  # found once is enough: finding it takes as long as drawing
    return written


def save_numbers(name: str, run: Callable[..., Result], settings: Any, result: Result) -> Path:
    """Write ``NAME.json``, of which the figures are drawn already; returns its path."""
    found = {
        "claims": [claim._asdict() for claim in result.claims],
        "numbers": result.numbers,
        "figures": [
            {
                "file": f"{name}_{figure_name}",
                "alt": described(figure) or figure_name.replace("_", " "),
                "inches": figure.get_size_inches(),
            }
            for figure_name, figure in result.figures.items()
        ],
    }
    return _write(name, run, settings, Outcome.DONE, found)


def save_reason(name: str, run: Callable[..., Result], settings: Any, outcome: Outcome, reason: str) -> None:
    """Write into ``NAME.json`` why there is no result."""
    _write(name, run, settings, outcome, {"reason": reason})


def load(folder: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """What was written of those experiments that there is something of."""
    return documents([folder / f"{name}.json" for name in names], "outcome")


def documents(paths: Iterable[Path], key: str) -> list[dict[str, Any]]:
    """What those files hold that exist; without ``key`` they are of earlier versions, and left out."""
    found = []
    for path in filter(Path.is_file, paths):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            document = None
        if isinstance(document, dict):
            found.append(document)
        else:
            warnings.warn(f"{path} is damaged, and left out of the page; run it again", stacklevel=2)
    return [document for document in found if key in document]


def make_folder(folder: Path) -> None:
    """Make the folder; OSError where nothing can be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def _write(name: str, run: Callable[..., Result], settings: Any, outcome: Outcome, found: dict[str, Any]) -> Path:
    document = {
        "experiment": name,
        "description": inspect.getdoc(sys.modules[run.__module__]) or name,
        "outcome": outcome,
        "settings": asdict(settings),
        "command": command(name, settings),
        **found,
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in (jax, np, optax, jaxnet)},
        "device": f"{jax.devices()[0].device_kind} ({platform.machine()}, {os.cpu_count()} cores)",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    path = settings.output / f"{name}.json"
    part = path.with_name(f"{path.name}.part")  # so that an interrupted run leaves no half of a file
    part.write_text(json.dumps(plain(document), indent=1) + "\n", encoding="utf-8")
    return part.replace(path)


def command(name: str, settings: Any) -> str:
    """The command line that runs an experiment with these settings: those that are not the default ones, as options."""
    words = ["python", "-m", f"experiments.{name}"]
    for field in fields(settings):
        value, option = getattr(settings, field.name), field.name.replace("_", "-")
        if field.name == "output" or value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", *(str(item) for item in (value if isinstance(value, tuple) else (value,)))]
    return shlex.join(words)


def described(figure: Figure) -> str:
    """A figure in words: its label, where the experiment set one; otherwise its titles and what its axes show."""
    if label := str(figure.get_label()):
        return label
    parts = [figure.get_suptitle(), *(part.get_suptitle() for part in figure.subfigs)]
    for axes in figure.axes:
        shown = f"{axes.get_ylabel()} against {axes.get_xlabel()}" if axes.get_xlabel() and axes.get_ylabel() else ""
        parts.append(": ".join(part for part in (axes.get_title(), shown) if part))
    return "; ".join(" ".join(part.split()) for part in dict.fromkeys(parts) if part)


def rows(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers that a table shows, by name: not the two gradients, nor what is only for the file."""
    shown = (
        (key.replace("_", " "), text(plain(value))) for key, value in numbers.items() if key != "gradient_agreement"
    )
    return [(key, value) for key, value in shown if value is not None]


def text(value: Any) -> str | None:
    """A value of the file as a table shows it; None for what is too much for it."""
    match value:
        case {"mean": mean, "standard_error": error, "values": _}:
            return text(mean) if error is None else f"{text(mean)} ± {error:.1g}"
        case {"share": portion, "low": low, "high": high, "trials": trials}:
            return f"{portion:.4g} ({low:.4g} to {high:.4g}, of {trials})"
        case list() if 0 < len(value) <= 12:
            parts = [text(item) for item in value]
            return None if None in parts else ("; " if isinstance(value[0], list) else ", ").join(map(str, parts))
        case dict() | list():
            return None
        case float():
            return f"{value:.4g}"
    return "–" if value is None else str(value)


def plain(value: Any) -> Any:
    """The value as JSON has it: arrays as lists, paths as text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
