"""What committing block after block gains in time to the first text, and costs in reward.

Every prompt is answered in turn by each arm: choosing among whole responses, committing blocks of some sizes, and one
response without a choice. All arms find the prompt prefilled.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from aisp.bench.quality.statistics import Difference, paired
from aisp.models import LoadedModel
from aisp.records import Message
from aisp.rewards import Reward
from aisp.service import Service
from aisp.settings import SearchSettings

WHOLE, ONE = "whole responses", "one response"
Row = dict[str, Any]


def make_arms(
    common: Mapping[str, Any], *, budget: int, commit_budget: int | None, commit_tokens: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Return the settings of each arm.

    Args:
        common: Settings of every search.
        budget: Responses of a search.
        commit_budget: Responses of one that commits blocks; None for as many.
        commit_tokens: Sizes of blocks, an arm each.
    """
    blocks = {**common, "budget": budget if commit_budget is None else commit_budget}
    return {
        WHOLE: {**common, "budget": budget},
        ONE: {"max_tokens": common["max_tokens"], "budget": 1},
        **{f"blocks of {size}": {**blocks, "commit_tokens": size} for size in commit_tokens},
    }


def measure(
    model: LoadedModel, messages: Sequence[Message], reward: Reward, arm: str, settings: Mapping[str, Any]
) -> Row:
    """Answer a prompt, and take the time of the first text and of the last."""
    service = Service(model, reward, SearchSettings(**settings))
    prefix = service.engine.prefill(service.encode(messages))
    started, first, pieces = time.perf_counter(), None, 0
    run = service.run(messages)
    for _ in run.texts():
        pieces += 1
        first = first or time.perf_counter() - started
    seconds, alignment = time.perf_counter() - started, run.alignment
    return {
        "arm": arm,
        "prompt": messages[-1]["content"],
        "prompt_tokens": len(prefix.token_ids),
        "settings": dict(settings),
        "first_text_seconds": first or seconds,
        "seconds": seconds,
        "pieces": pieces,
        "reward": alignment.best.reward,
        "responses": alignment.cost.responses,
        "forward_tokens": alignment.cost.forward_tokens,
        "tokens": len(alignment.best.rollout.tokens),
        "text": alignment.text,
    }


def difference(rows: Sequence[Row], arm: str, measured: str) -> Difference:
    """Return by how much an arm is above the whole-response search, paired by prompt and seed."""
    found: dict[tuple[str, str, int], float] = {
        (row["arm"], row["prompt"], row["settings"]["seed"]): row[measured] for row in rows
    }
    asked: dict[str, list[int]] = {}
    for one, prompt, seed in found:
        if one == arm:
            asked.setdefault(prompt, []).append(seed)
    return paired([[found[arm, p, s] - found[WHOLE, p, s] for s in own] for p, own in asked.items()])
