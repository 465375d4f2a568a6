"""The progress bar of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(total: int, unit: str = "epoch") -> Iterator[Callable[[int, dict[str, Any]], None]]:
    """A bar, and the function that shows on it how much is done, and the costs."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError as error:
        raise ImportError("progress=True needs rich: pip install rich") from error
    columns = (
        TextColumn(unit),
        MofNCompleteColumn(),
        BarColumn(bar_width=12),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, auto_refresh=False) as bar:
        task = bar.add_task("", total=total)

        def show(done: int, values: dict[str, Any]) -> None:
            # The two that fit a narrow terminal; the history has the others.
            shown = [name for name in ("cost", "validation_cost") if name in values]
            description = "  ".join(f"{name} {values[name]:.4f}" for name in shown)
            bar.update(task, completed=done, description=description, refresh=True)

        yield show
