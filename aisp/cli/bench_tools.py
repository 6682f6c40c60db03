"""`aisp bench tools`: how often the right tool is called, by the model alone and by searches of equal budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from aisp.bench.quality.statistics import Difference, paired
from aisp.bench.tools.rule import fitting_call, named_by_rule
from aisp.bench.tools.tasks import Task, load_tasks, load_tools
from aisp.errors import ConfigurationError
from aisp.service import Service
from aisp.settings import SearchSettings

if TYPE_CHECKING:
    from aisp.models import LoadedModel

ALONE = "model alone"
_COLUMNS = {"right_tool": ".2f", "right_call": ".2f", "forward_tokens": ".0f", "seconds": ".1f"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one way of answering made of one request.

    Args:
        arm: The strategy's name, or `ALONE`.
        prompt: The request.
        settings: The model and the numbers of the search, its seed among them.
        calls: Name and arguments each.
        text: Beside the calls.
        right_tool: The expected tool was called, or none where none fits.
        right_call: With the expected arguments.
        reward: None where nothing was scored.
        forward_tokens: What the search cost.
        seconds: Likewise.
    """

    arm: str
    prompt: str
    settings: dict[str, Any]
    calls: list[dict[str, Any]]
    text: str
    right_tool: bool
    right_call: bool
    reward: float | None
    forward_tokens: int
    seconds: float


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

    Args:
        concurrency: Searches in flight at once; they share the engine's batch, and `seconds` counts each in full.
        out: JSONL with a row each; those that are there, of the same model and numbers, are not run again.

    Raises:
        ConfigurationError: Numbers that make no sense, or an unknown strategy.
        ModelNotFoundError: There is no such model.
    """
    from aisp.models import load

    if min(seeds, concurrency, 1 if limit is None else limit) < 1:
        raise ConfigurationError(f"seeds is {seeds}, concurrency {concurrency}, limit {limit}; expected numbers >= 1")
    arms = _arms(strategies, budget=budget, num_samples=num_samples, max_tokens=max_tokens)
    tasks = load_tasks()
    # Spread over the file, which is sorted by tool.
    chosen = tasks if limit is None else tasks[:: max(1, len(tasks) // limit)][:limit]
    asked = [
        (task, name, search.model_copy(update={"seed": seed}))
        for task in chosen
        for name, search in arms.items()
        for seed in range(1 if name == ALONE else seeds)
    ]
    there, writing = _there(out), Lock()
    bench = Bench(model, load(model, dtype=dtype, device=device))

    def answered(asked: tuple[Task, str, SearchSettings]) -> Row:
        task, arm, search = asked
        row = there.get(_key(arm, task.prompt, bench.settings(search)))
        if row is None:
            row = bench.answer(task, arm, search)
            if out is not None:
                with writing, out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        return row

    with ThreadPoolExecutor(concurrency) as threads, Progress(transient=True) as progress:
        rows = list(progress.track(threads.map(answered, asked), total=len(asked), description="requests"))
    _report(rows, chosen, Console())
    return rows


class Bench:
    """A model with the tools, and the rule that scores its calls.

    Args:
        name: Of the model, for the rows.
        loaded: The model.
    """

    def __init__(self, name: str, loaded: LoadedModel) -> None:
        self._name, self._loaded, self._tools = name, loaded, load_tools()
        self._reward = fitting_call(self._tools)

    def settings(self, search: SearchSettings) -> dict[str, Any]:
        """Return what a row says of how it was made."""
        return {"model": self._name, **search.model_dump(exclude_defaults=True)}

    def answer(self, task: Task, arm: str, search: SearchSettings) -> Row:
        """Answer a request."""
        reward = None if arm == ALONE else self._reward
        service = Service(self._loaded, reward, search)
        alignment = service.run(task.prompt, tools=self._tools, parallel_tool_calls=False).alignment
        candidate = alignment.best.candidate
        return Row(
            arm=arm,
            prompt=task.prompt,
            settings=self.settings(search),
            calls=[{"name": call["name"], "args": call["args"]} for call in candidate.tool_calls],
            text=candidate.text,
            right_tool=task.right_tool(candidate),
            right_call=task.right_call(candidate),
            reward=None if reward is None else alignment.best.reward,
            forward_tokens=alignment.cost.forward_tokens,
            seconds=alignment.cost.seconds,
        )


def difference(rows: Sequence[Row], arm: str, other: str) -> Difference:
    """Return by how much one arm's share of right calls is above another's, paired by request."""
    prompts = dict.fromkeys(row.prompt for row in rows)
    return paired([[_share(rows, arm, prompt) - _share(rows, other, prompt)] for prompt in prompts])


def _share(rows: Sequence[Row], arm: str, prompt: str) -> float:
    own = [row.right_call for row in rows if row.arm == arm and row.prompt == prompt]
    return sum(own) / len(own)


def _arms(strategies: Sequence[str], *, budget: int, num_samples: int, max_tokens: int) -> dict[str, SearchSettings]:
    known: dict[str, Any] = {"max_tokens": max_tokens, "budget": budget, "num_samples": num_samples}
    arms = {ALONE: SearchSettings(temperature=0, budget=1, max_tokens=max_tokens)}
    for name in strategies:
        try:
            arms[name] = SearchSettings(strategy=name, **known)  # type: ignore[arg-type] # pydantic checks the name
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
    return arms


def _there(out: Path | None) -> dict[str, Row]:
    if out is None or not out.exists():
        return {}
    rows = [Row(**json.loads(line)) for line in out.read_text(encoding="utf-8").splitlines()]
    return {_key(row.arm, row.prompt, row.settings): row for row in rows}


def _key(arm: str, prompt: str, settings: dict[str, Any]) -> str:
    return json.dumps([arm, prompt, settings], sort_keys=True)


def _report(rows: Sequence[Row], tasks: Sequence[Task], console: Console) -> None:
    arms = list(dict.fromkeys(row.arm for row in rows))
    table = Table("", "right tool", "right call", "forward tokens", "seconds", box=None)
    for arm in arms:
        own = [row for row in rows if row.arm == arm]
        columns = (np.mean([getattr(row, name) for row in own]) for name in _COLUMNS)
        table.add_row(arm, *(f"{mean:{form}}" for mean, form in zip(columns, _COLUMNS.values(), strict=True)))
    console.print(table)
    for other, arm in combinations(arms, 2):
        found = difference(rows, arm, other)
        interval = f"[{found.low:+.2f}, {found.high:+.2f}]"
        console.print(f"right calls, {arm} - {other}: {found.mean:+.2f} {interval}", highlight=False, markup=False)
    choose = named_by_rule(load_tools())
    share = np.mean([choose(task.prompt) == task.tool for task in tasks])
    console.print(f"{len(tasks)} requests; the rule by itself names the right tool in {share:.2f}", highlight=False)
