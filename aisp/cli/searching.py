"""A search on the terminal: its bar while it runs, and the table of its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, TextColumn
from rich.table import Table

from aisp.cli.progress import progress_on
from aisp.cli.terminal import add_row, new_table
from aisp.records import Message
from aisp.search.events import SearchStep
from aisp.search.trace import Alignment

if TYPE_CHECKING:
    from aisp.service import Service


def search_progress(console: Console) -> Progress:
    """Return a progress display that has room for the best reward so far."""
    return progress_on(console, TextColumn("{task.fields[note]}", markup=False))


def watched(progress: Progress, label: str, service: Service, messages: Sequence[Message], budget: int) -> Alignment:
    """Run a search with a bar of its own: the responses drawn, and the best reward so far."""
    task = progress.add_task(label, total=budget, note="")
    tokens, best = 0, ""

    def count(new: int) -> None:
        nonlocal tokens
        tokens += new
        progress.update(task, note=f"{best}{tokens} tokens")

    try:
        run = service.run(messages, progress=count)
        for event in run:
            if isinstance(event, SearchStep):
                found = event.round.best
                best = "" if found is None else f"best {found.reward:.3f}, "
                progress.update(task, advance=len(event.round.responses), note=f"{best}{tokens} tokens")
        return run.alignment
    finally:
        progress.remove_task(task)


def rounds_table(alignment: Alignment) -> Table:
    """Return a table of a search's rounds."""
    table = new_table(
        "round", "responses", "distinct", "mean", "best", "best so far", "ESS", "KL (nats)", "tokens", "seconds"
    )
    for index, round_ in enumerate(alignment.rounds):
        row = round_.to_dict()
        rewards = (row["mean_reward"], row["best_reward"], row["best_so_far"])
        add_row(
            table,
            [
                index,
                row["responses"],
                row["distinct"],
                *("-" if reward is None else f"{reward:.3f}" for reward in rewards),
                "-" if row["ess"] is None else f"{row['ess']:.1f}",
                f"{row['kl_to_base']:.1f}",
                row["forward_tokens"],
                f"{row['seconds']:.1f}",
            ],
        )
    return table
