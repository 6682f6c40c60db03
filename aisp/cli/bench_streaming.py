"""`aisp bench streaming`: what committing block after block gains in time to the first text, and costs in reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from aisp import models
from aisp.bench.streaming import WHOLE, Row, difference, make_arms, measure
from aisp.cli.checks import check_rewards
from aisp.cli.options import (
    DeviceOption,
    DtypeOption,
    LimitOption,
    ModelOption,
    PromptsOption,
    RewardOption,
    read_settings,
)
from aisp.cli.progress import loading, progress_on
from aisp.cli.prompts import PromptFile
from aisp.cli.terminal import add_row, new_table, show, show_all
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile, result_key
from aisp.models import DEFAULT_MODEL, LoadedModel
from aisp.records import Message
from aisp.rewards import Reward
from aisp.rewards.spec import parse_rewards
from aisp.service import Service

_MEASURES = ("first_text_seconds", "seconds", "reward", "forward_tokens")
_EPILOG = """\
Examples:

  aisp bench streaming --prompts questions.jsonl --out rows.jsonl

  aisp bench streaming --prompts questions.jsonl --out rows.jsonl --commit-tokens 8 --commit-tokens 16"""

command = typer.Typer(add_completion=False)


@command.command("streaming", epilog=_EPILOG)
def streaming(
    prompts: PromptsOption,
    out: Annotated[Path, typer.Option(help="A JSON line for each answer; a killed run goes on there.")],
    reward: RewardOption = ["sentiment"],  # noqa: B006 - Typer copies it
    commit_tokens: Annotated[
        list[int], typer.Option(metavar="INTEGER", help="Tokens of a block; give several to compare them.")
    ] = [16],  # noqa: B006
    model: ModelOption = DEFAULT_MODEL,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    strategy: Annotated[str | None, typer.Option(help="As tilted_restart, aisp or best_of_n.")] = None,
    budget: Annotated[int, typer.Option(help="Responses of a search.")] = 32,
    commit_budget: Annotated[
        int | None, typer.Option(help="Responses of a search that commits blocks; by default as many.")
    ] = None,
    num_samples: Annotated[int, typer.Option(help="Responses a round at most.")] = 16,
    max_tokens: Annotated[int, typer.Option(help="Response tokens at most.")] = 48,
    seeds: Annotated[int, typer.Option(help="Searches for each prompt and way of answering.")] = 1,
    limit: LimitOption = None,
) -> None:
    """Compare searches that commit block after block with whole-response ones.

    Compared are the time to the first text, and the reward. The rewards must be able to score unfinished text.
    """
    scorer = parse_rewards(reward)
    if scorer is None or not commit_tokens or seeds < 1:
        raise ConfigurationError(
            "there is nothing to compare; give a reward, --commit-tokens, and --seeds of at least 1"
        )
    numbers = {"strategy": strategy, "num_samples": num_samples, "max_tokens": max_tokens}
    arms = make_arms(numbers, budget=budget, commit_budget=commit_budget, commit_tokens=commit_tokens)
    for own in arms.values():
        Service(model, scorer, read_settings(own)).check()
    check_rewards(scorer)
    file, console = PromptFile(prompts, limit=limit), Console(stderr=True)
    made_by: dict[str, Any] = {"model": model, "dtype": dtype, "device": device, "rewards": reward}
    made_by |= {"reward_fingerprint": scorer.fingerprint, "budget": budget, "commit_budget": commit_budget, **numbers}
    with ResultFile(out, "bench streaming", made_by) as results:
        with loading(console, model):
            loaded = models.load(model, dtype=dtype, device=device)
        file.drop_unfit(Service(loaded))
        asked = [(prompt.messages, seed, arm) for prompt in file.prompts for seed in range(seeds) for arm in arms]
        with progress_on(console) as progress:
            rows = [
                _answered(results, loaded, scorer, messages, arm, {**arms[arm], "seed": seed})
                for messages, seed, arm in progress.track(asked, description="answers")
            ]
    _report(rows, Console())
    file.end()


def _answered(
    results: ResultFile, model: LoadedModel, reward: Reward, messages: Sequence[Message], arm: str, own: dict[str, Any]
) -> Row:
    """Return a row that is there already, or a new one."""
    key = result_key(messages, own)
    if key not in results.done:
        results.write(key, measure(model, messages, reward, arm, own))
    return results.done[key]


def _report(rows: Sequence[Row], console: Console) -> None:
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    table = new_table("", "first text, s", "all, s", "reward", "forward tokens", "reward - whole responses'")
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        means = {name: float(np.mean([row[name] for row in own])) for name in _MEASURES}
        apart = difference(rows, arm, "reward")
        add_row(
            table,
            [
                arm,
                f"{means['first_text_seconds']:.2f}",
                f"{means['seconds']:.2f}",
                f"{means['reward']:.3f}",
                f"{means['forward_tokens']:.0f}",
                "" if arm == WHOLE else f"{apart.mean:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]",
            ],
        )
    show_all(console, table)
    prompts = len({row["prompt"] for row in rows})
    show(console, f"{prompts} prompts; the intervals are 95 %, by a bootstrap over prompts")
