"""The progress bars of what runs long."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn


def progress_on(console: Console, *more: ProgressColumn) -> Progress:
    """Return a bar a task, which go when all is done: what it is, how far, how long, and more columns after these."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, *more, console=console, transient=True)
