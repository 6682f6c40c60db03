"""What `aisp align` does, with progress on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import Progress, TextColumn
from rich.table import Table

from aisp.api import align, stream
from aisp.cli.progress import progress_on
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile, read_prompts, result_key
from aisp.rewards import Reward
from aisp.search.trace import Alignment, Round
from aisp.settings import SearchSettings


def align_one(
    prompt: str, rewards: Reward | None, model: str, settings: Mapping[str, Any], *, quiet: bool
) -> Alignment:
    """Answer one prompt; unless quiet, show the search and a table of its rounds."""
    console = Console(quiet=quiet)
    if settings.get("commit_tokens") is not None:
        alignment = _written(console, prompt, rewards, model, settings)
    else:
        with search_progress(console) as progress:
            alignment = watched(progress, "searching", prompt, rewards, model, settings)
        console.print(Panel(escape(alignment.text), title=_title(alignment), title_align="left"))
    if rewards is not None:
        console.print(rounds_table(alignment))
    return alignment


def align_many(
    prompts: Path, out: Path | None, rewards: Reward | None, model: str, settings: Mapping[str, Any]
) -> None:
    """Answer a file of prompts, one JSON line each; prompts that the file of results has already are passed over."""
    if out is None:
        raise ConfigurationError("--prompts needs --out FILE.jsonl to write to")
    conversations, results = read_prompts(prompts), ResultFile(out)
    asked = {**settings, "model": model, "rewards": None if rewards is None else rewards.fingerprint}
    keys = [result_key(messages, asked, index) for index, messages in enumerate(conversations)]
    console = Console(stderr=True)
    with search_progress(console) as progress:
        total = progress.add_task(
            "prompts", total=len(keys), completed=sum(key in results.done for key in keys), note=""
        )
        for index, (key, messages) in enumerate(zip(keys, conversations, strict=True)):
            if key not in results.done:
                alignment = watched(progress, f"prompt {index + 1}", messages, rewards, model, settings)
                results.write(
                    key, {"index": index, "messages": messages, "text": alignment.text, **alignment.summary()}
                )
                progress.advance(total)
    console.print(f"{len(keys)} answers in {out}", highlight=False)


def search_progress(console: Console) -> Progress:
    """Return a progress display that has room for the best reward so far."""
    return progress_on(console, TextColumn("{task.fields[note]}"))


def watched(
    progress: Progress, label: str, prompt: Any, rewards: Reward | None, model: str, settings: Mapping[str, Any]
) -> Alignment:
    """Run a search with a bar of its own: responses drawn, and the best reward so far."""
    load_quietly(model)
    plan = SearchSettings(**_valid(settings)).make_plan(rewarded=rewards is not None)
    task = progress.add_task(label, total=plan.budget, note="loading")
    tokens = 0
    best = ""

    def on_tokens(new: int) -> None:
        nonlocal tokens
        tokens += new
        progress.update(task, note=f"{best}{tokens} tokens")

    def on_round(round_: Round) -> None:
        nonlocal best
        best = "" if round_.best is None else f"best {round_.best.reward:.3f}, "
        progress.update(task, advance=len(round_.responses), note=f"{best}{tokens} tokens")

    alignment = align(prompt, rewards=rewards, model=model, on_round=on_round, progress=on_tokens, **settings)
    progress.remove_task(task)
    return alignment


def _written(
    console: Console, prompt: str, rewards: Reward | None, model: str, settings: Mapping[str, Any]
) -> Alignment:
    """Run a search that commits blocks, each shown as soon as it is."""
    load_quietly(model)
    answer = stream(prompt, rewards=rewards, model=model, **settings)
    for piece in answer:
        console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n\n{_title(answer.alignment)}", markup=False, highlight=False)
    return answer.alignment


def rounds_table(alignment: Alignment) -> Table:
    """Return a table of a search's rounds."""
    table = Table(
        "round", "responses", "distinct", "mean", "best", "best so far", "ESS", "KL (nats)", "tokens", "seconds"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for index, round_ in enumerate(alignment.rounds):
        row = round_.to_dict()
        numbers = (row["mean_reward"], row["best_reward"], row["best_so_far"])
        table.add_row(
            str(index),
            str(row["responses"]),
            str(row["distinct"]),
            *("-" if number is None else f"{number:.3f}" for number in numbers),
            "-" if row["ess"] is None else f"{row['ess']:.1f}",
            f"{row['kl_to_base']:.1f}",
            str(row["forward_tokens"]),
            f"{row['seconds']:.1f}",
        )
    return table


def load_quietly(model: str) -> None:
    """Keep transformers' own bars out of ours, except where a model is downloaded, which takes its time."""
    from transformers.utils import logging

    from aisp.models import EMBEDDED

    if model in EMBEDDED or Path(model).exists():
        disable: Callable[[], None] = logging.disable_progress_bar
        disable()


def _title(alignment: Alignment) -> str:
    if alignment.reward is None:
        return "one plain sample"
    parts = ", ".join(f"{name} {value:.2f}" for name, value in alignment.best.score.parts.items())
    return f"reward {alignment.best.reward:.3f} ({parts})"


def _valid(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    from pydantic import ValidationError

    try:
        SearchSettings(**settings)
    except ValidationError as error:
        raise ConfigurationError(str(error)) from error
    return settings
