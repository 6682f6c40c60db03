"""`aisp model`: the embedded models."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from aisp import models
from aisp.cli.progress import loading
from aisp.cli.terminal import add_row, new_table, show, show_all
from aisp.models import DEFAULT_MODEL, EMBEDDED

fetch_command = typer.Typer(add_completion=False)
list_command = typer.Typer(add_completion=False)


@fetch_command.command("fetch")
def fetch(name: Annotated[str, typer.Argument(help="As `aisp model list` shows it.")] = DEFAULT_MODEL) -> None:
    """Download an embedded model and convert it, once."""
    console = Console()
    with loading(console, name):
        models.fetch(name)
        models.load(name)
    show(console, f"{name} is ready")


@list_command.command("list")
def list_models() -> None:
    """List the embedded models."""
    table = new_table("name", "fetched", "what it is")
    for column in table.columns:
        column.justify = "left"
    for name, entry in EMBEDDED.items():
        add_row(table, [name, "yes" if models.is_fetched(name) else "no", entry.description])
    show_all(Console(), table)
