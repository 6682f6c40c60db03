"""`aisp bench streaming`: what committing block after block gains in time to the first text, and costs in reward.

Every prompt is answered in turn by each arm: choosing among whole responses, committing blocks of some sizes, and one
response without a choice. All arms find the prompt prefilled. Reported are means, and differences to the whole-response
search, paired by prompt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from aisp.api import stream
from aisp.bench.quality.statistics import Difference, paired
from aisp.cli.progress import progress_on
from aisp.engines import engine_for
from aisp.errors import ConfigurationError
from aisp.jsonl import ResultFile, read_prompts, result_key
from aisp.models import load
from aisp.rewards import Reward
from aisp.rewards.spec import parse_rewards
from aisp.service import Service
from aisp.settings import SearchSettings

WHOLE, ONE = "whole responses", "one response"
_MEASURES = ("first_text_seconds", "seconds", "reward", "forward_tokens")
Row = dict[str, Any]


def run_streaming(
    prompts: Path,
    rewards: Sequence[str],
    commit_tokens: Sequence[int],
    *,
    model: str,
    dtype: str | None,
    device: str | None,
    strategy: str | None,
    budget: int,
    commit_budget: int | None,
    num_samples: int,
    max_tokens: int,
    seeds: int,
    limit: int | None,
    out: Path,
) -> list[Row]:
    """Answer every prompt in every way, a JSON line each in `out`, and print the comparison.

    Args:
        prompts: A file, as `aisp.jsonl.read_prompts` reads it.
        rewards: As `aisp.rewards.spec` reads them.
        commit_tokens: Sizes of blocks, an arm each.
        model: What `aisp.models.load` takes.
        dtype: Of the weights.
        device: Where they are.
        strategy: Of every search.
        budget: Responses a search.
        commit_budget: Responses of those that commit blocks; None for as many.
        num_samples: Responses a round at most.
        max_tokens: Tokens of a response.
        seeds: Searches a prompt and arm.
        limit: Prompts at most.
        out: A killed run goes on there.
    """
    reward = parse_rewards(rewards)
    if reward is None or not commit_tokens:
        raise ConfigurationError("there is nothing to compare; give a reward, and commit_tokens of at least one block")
    common = {"strategy": strategy, "num_samples": num_samples, "max_tokens": max_tokens}
    arms: dict[str, dict[str, Any]] = {
        WHOLE: {**common, "budget": budget},
        ONE: {"max_tokens": max_tokens, "budget": 1},
    }
    for size in commit_tokens:
        arms[f"blocks of {size}"] = {**common, "budget": commit_budget or budget, "commit_tokens": size}
    for settings in arms.values():
        check_strategy(settings, reward)
    loaded = load(model, dtype=dtype, device=device)
    results = ResultFile(out)
    questions = read_prompts(prompts)[:limit]
    rows: list[Row] = []
    asked = [(q, seed, arm) for q in questions for seed in range(seeds) for arm in arms]
    with progress_on(Console(stderr=True)) as progress:
        for messages, seed, arm in progress.track(asked, description="answers"):
            settings = {**arms[arm], "seed": seed}
            key = result_key(messages, settings, model, dtype, reward.fingerprint)
            if key not in results.done:
                results.write(key, measured(loaded, messages, reward, arm, settings))
            rows.append(results.done[key])
    _report(rows, Console(width=120))
    return rows


def measured(
    loaded: Any, messages: Sequence[Mapping[str, Any]], reward: Reward, arm: str, settings: Mapping[str, Any]
) -> Row:
    """Answer a prompt, and take the time of the first text and of the last."""
    prefix = engine_for(loaded).prefill(loaded.encode(messages))
    started, first, texts = time.perf_counter(), None, 0
    answer = stream(messages, model=loaded, rewards=reward, **settings)
    for _ in answer:
        texts += 1
        first = first or time.perf_counter() - started
    seconds, alignment = time.perf_counter() - started, answer.alignment
    return {
        "arm": arm,
        "prompt": messages[-1]["content"],
        "prompt_tokens": len(prefix.token_ids),
        "settings": dict(settings),
        "first_text_seconds": first or seconds,
        "seconds": seconds,
        "pieces": texts,
        "reward": alignment.best.reward,
        "responses": alignment.cost.responses,
        "forward_tokens": alignment.cost.forward_tokens,
        "tokens": len(alignment.best.rollout.tokens),
        "text": alignment.text,
    }


def difference(rows: Sequence[Row], arm: str, measure: str) -> Difference:
    """Return by how much an arm is above the whole-response search, paired by prompt and seed."""
    found: dict[tuple[str, str, int], float] = {
        (row["arm"], row["prompt"], row["settings"]["seed"]): row[measure] for row in rows
    }
    asked: dict[str, list[int]] = {}
    for one, prompt, seed in found:
        if one == arm:
            asked.setdefault(prompt, []).append(seed)
    return paired([[found[arm, p, s] - found[WHOLE, p, s] for s in own] for p, own in asked.items()])


def check_strategy(search: Mapping[str, Any], reward: Reward) -> None:
    """Raise before the model is loaded where the settings don't fit.

    Raises:
        ConfigurationError: An unknown strategy, or one that commits nothing.
    """
    try:
        Service(rewards=reward, settings=SearchSettings(**search)).check()
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


def _report(rows: Sequence[Row], console: Console) -> None:
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    table = Table("", "first text, s", "all, s", "reward", "forward tokens", "reward - whole responses'", box=None)
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        means = {name: float(np.mean([row[name] for row in own])) for name in _MEASURES}
        apart = difference(rows, arm, "reward")
        table.add_row(
            arm,
            f"{means['first_text_seconds']:.2f}",
            f"{means['seconds']:.2f}",
            f"{means['reward']:.3f}",
            f"{means['forward_tokens']:.0f}",
            "" if arm == WHOLE else f"{apart.mean:+.3f} [{apart.low:+.3f}, {apart.high:+.3f}]",
        )
    console.print(table)
    prompts = len({row["prompt"] for row in rows})
    console.print(f"{prompts} prompts; the interval is of 95 %, by a bootstrap over prompts", highlight=False)
