"""The progress bars of commands that take long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from aisp.cli.terminal import printable


def progress_on(console: Console, *more: ProgressColumn) -> Progress:
    """Return a display with one bar a task: what it is, how far it is, the time, then more columns.

    It disappears when it ends. A task's description is shown as it is, never read as markup.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, *more, console=console, transient=True)


@contextmanager
def loading(console: Console, model: str) -> Iterator[None]:
    """Show that a model is being loaded."""
    with console.status(f"loading {escape(printable(model))}"):
        yield
