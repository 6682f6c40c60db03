"""`aisp reward list`: the words that --reward takes."""

from __future__ import annotations

import re

import typer
from rich.console import Console
from rich.markup import escape

from aisp.cli.terminal import add_row, new_table, show, show_all
from aisp.rewards import spec

_ENTRY = re.compile(r"^(\S.*?) {2,}(\S.*)$", re.MULTILINE)
ENTRIES: list[tuple[str, str]] = _ENTRY.findall(spec.__doc__ or "")
"""How each reward is written, and what it is, as the documentation of `aisp.rewards.spec` has it."""

SYNTAX = "\n\n".join(f"  {escape(words)} - {escape(what)}" for words, what in ENTRIES)
"""The same for the help of a command."""

command = typer.Typer(add_completion=False)


@command.command("list")
def list_rewards() -> None:
    """List the rewards that --reward takes."""
    table = new_table("written as", "what it is")
    table.columns[1].justify = "left"
    for entry in ENTRIES:
        add_row(table, entry)
    console = Console()
    show_all(console, table)
    show(console, "Several --reward add up. A weight stands before one, as in 0.5*length:20..40.")
