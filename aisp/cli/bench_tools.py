"""`aisp bench tools`: how often the right tool is called, by the model alone and by searches of equal budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from aisp import models
from aisp.bench.tools.rule import named_by_rule
from aisp.bench.tools.runs import ALONE, Bench, Question, Row, ask, choose_tasks, difference
from aisp.bench.tools.tasks import Task, load_tools
from aisp.cli.options import OUTPUT_PANEL, DeviceOption, DtypeOption, ModelOption, read_strategy
from aisp.cli.progress import loading, progress_on
from aisp.cli.terminal import add_row, new_table, show, show_all
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile, result_key
from aisp.settings import SearchSettings

_COLUMNS = {"right_tool": ".2f", "right_call": ".2f", "forward_tokens": ".0f", "seconds": ".1f"}
_EPILOG = """\
Examples:

  aisp model fetch qwen2.5-coder-0.5b

  aisp bench tools --limit 10 --out rows.jsonl"""

command = typer.Typer(add_completion=False)


@command.command("tools", epilog=_EPILOG)
def tools(
    model: ModelOption = "qwen2.5-coder-0.5b",
    strategy: Annotated[
        list[str],
        typer.Option(metavar="NAME[:KEY=VALUE,...]", help="A strategy to compare; give several, if you like."),
    ] = ["best_of_n", "tilted_restart"],  # noqa: B006 - Typer copies it
    budget: Annotated[int, typer.Option(help="Responses generated and scored for each request.")] = 16,
    num_samples: Annotated[int, typer.Option(help="Responses a round.")] = 4,
    max_tokens: Annotated[int, typer.Option(help="Response tokens at most.")] = 48,
    seeds: Annotated[int, typer.Option(help="Searches for each request and strategy.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Answer this many requests at most.")] = None,
    concurrency: Annotated[int, typer.Option(help="Searches in flight at once.")] = 4,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="A JSON line for each answer; a killed run goes on there.", rich_help_panel=OUTPUT_PANEL),
    ] = None,
) -> None:
    """Count how often the right tool is called.

    The model answers alone, and by searches for which a rule chooses that does not know the right answers. Searches
    in flight at once share a batch, and each one's seconds are counted in full.
    """
    run_tools(
        model,
        strategy,
        budget=budget,
        num_samples=num_samples,
        max_tokens=max_tokens,
        seeds=seeds,
        limit=limit,
        concurrency=concurrency,
        dtype=dtype,
        device=device,
        out=out,
    )


def run_tools(
    model: str,
    strategies: Sequence[str],
    *,
    budget: int,
    num_samples: int,
    max_tokens: int,
    seeds: int,
    limit: int | None,
    concurrency: int = 4,
    dtype: str | None = None,
    device: str | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Answer every request in every way and print the shares of right calls.

    Raises:
        ConfigurationError: Numbers that make no sense, an unknown strategy, or a file that is not of this benchmark.
        ModelNotFoundError: There is no such model.
    """
    if min(seeds, concurrency, 1 if limit is None else limit) < 1:
        raise ConfigurationError(f"seeds is {seeds}, concurrency {concurrency}, limit {limit}; expected numbers >= 1")
    numbers = {"budget": budget, "num_samples": num_samples, "max_tokens": max_tokens}
    arms = {ALONE: SearchSettings(temperature=0, budget=1, max_tokens=max_tokens)}
    for spec in strategies:
        arms[spec] = read_strategy(spec, numbers)
        arms[spec].make_strategy(rewarded=True)
    tasks, console = choose_tasks(limit), Console()
    with _results(out, {"model": model, "dtype": dtype, "device": device, **numbers}) as results:
        with loading(console, model):
            bench = Bench(models.load(model, dtype=dtype, device=device))
        questions = ask(tasks, arms, seeds)
        with ThreadPoolExecutor(concurrency) as threads, progress_on(console) as progress:
            answers = threads.map(lambda question: _answered(bench, question, results), questions)
            rows = list(progress.track(answers, total=len(questions), description="requests"))
    _report(rows, tasks, console)
    return rows


@contextmanager
def _results(out: Path | None, settings: dict[str, Any]) -> Iterator[ResultFile | None]:
    if out is None:
        yield None
        return
    with ResultFile(out, "bench tools", settings) as results:
        yield results


def _answered(bench: Bench, question: Question, results: ResultFile | None) -> Row:
    key = result_key(question.arm, question.task.prompt, question.settings)
    if results is not None and key in results.done:
        there = results.done[key]
        return Row(**{field.name: there[field.name] for field in fields(Row)})
    row = bench.answer(question)
    if results is not None:
        results.write(key, asdict(row))
    return row


def _report(rows: Sequence[Row], tasks: Sequence[Task], console: Console) -> None:
    arms = list(dict.fromkeys(row.arm for row in rows))
    table = new_table("", "right tool", "right call", "forward tokens", "seconds")
    for arm in arms:
        own = [row for row in rows if row.arm == arm]
        means = (np.mean([getattr(row, name) for row in own]) for name in _COLUMNS)
        add_row(table, [arm, *(f"{mean:{form}}" for mean, form in zip(means, _COLUMNS.values(), strict=True))])
    show_all(console, table)
    for other, arm in combinations(arms, 2):
        found = difference(rows, arm, other)
        show(console, f"right calls, {arm} - {other}: {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]")
    choose = named_by_rule(load_tools())
    share = np.mean([choose(task.prompt) == task.tool for task in tasks])
    show(console, f"{len(tasks)} requests; the rule alone names the right tool in {share:.2f} of them")
