"""What reaches the terminal, and how: text that can't steer it, tables that aren't cut, errors in a line.

Text that a model or a file wrote may hold escape sequences, which a terminal obeys. Whatever is shown of it goes
through `printable` first, or as JSON through `printable_json`.
"""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from aisp.errors import AISPError, ConfigurationError

_SURROGATES = "\ud800-\udfff"  # halves of characters, which no encoding can write
# Control characters but for the tabulator and the end of a line; marks that turn the direction of text around.
_COMMANDS = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069{_SURROGATES}]")
_WIDEST = 10_000  # columns; wide enough for any table of ours


def printable(text: object) -> str:
    r"""Return text whose control characters are spelled out, so that a terminal shows them and obeys none.

    Example:
        >>> printable("red: \x1b[31m")
        'red: \\x1b[31m'
    """
    return _COMMANDS.sub(_spelled, str(text).replace("\r\n", "\n"))


def printable_json(value: Any) -> str:
    """Return JSON, indented, whose strings hold no control characters but as `\\u` escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def show(console: Console, text: object, *, style: str | None = None, end: str = "\n") -> None:
    """Print text as it is, whatever it holds; long lines are left to the terminal to wrap."""
    console.print(Text(printable(text), style=style or ""), end=end, soft_wrap=True, highlight=False)


def show_all(console: Console, content: RenderableType) -> None:
    """Print something as wide as it is, at least as wide as the console: a table that is cut has lost its figures."""
    wide = console.options.update(width=_WIDEST)
    width = max(console.width, Measurement.get(console, wide, content).maximum)
    # A console prints nothing wider than itself, so a wider one prints this.
    Console(file=console.file, width=width, quiet=console.quiet).print(content, crop=False)


def new_table(*headers: str) -> Table:
    """Return a table whose columns after the first are numbers."""
    table = Table(*headers, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def add_row(table: Table, cells: Sequence[object]) -> None:
    """Add a row of text, which is never read as markup."""
    table.add_row(*(Text(printable(cell)) for cell in cells))


@contextmanager
def plain_terminal() -> Iterator[None]:
    """Show warnings in a line each, and what the terminal's encoding can't say as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    shown: set[str] = set()

    def show_once(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            show(Console(stderr=True), f"warning: {message}", style="yellow")

    with warnings.catch_warnings():
        warnings.showwarning = show_once
        yield


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn our own errors into one line and an exit code; everything else keeps its traceback."""
    try:
        yield
    except AISPError as error:
        show(Console(stderr=True), f"error: {error}", style="bold red")
        raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from error


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
