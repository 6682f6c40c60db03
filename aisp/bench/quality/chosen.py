"""The very texts that are returned: by a search after so many responses, and by best-of-n from a pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aisp.bench.quality.runs import Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A returned answer.

    Args:
        text: Its text.
        reward: What was optimised says of it.
        held_out: What other rewards say of it, by name; NaN where they can't.
    """

    text: str
    reward: float
    held_out: Mapping[str, float]


def from_search(quality: Quality, name: str, prompt: int, seed: int, responses: int) -> Chosen | None:
    """Return the best of the first responses of a search; None where all were vetoed."""
    steps = [step for step in quality.search(name, prompt, seed)["best"] if step["drawn"] <= responses]
    if not steps:
        return None
    held_out = {
        key: quality.found_scores(name, prompt, seed, reward)[len(steps) - 1]
        for key, reward in quality.held_out.items()
    }
    return Chosen(text=steps[-1]["text"], reward=steps[-1]["reward"], held_out=held_out)


def from_pool(quality: Quality, plain: str, prompt: int, seed: int, responses: int) -> Chosen | None:
    """Return the best of the first samples of a pool, in an order of the seed's own; None where all were vetoed."""
    mine = pool_order(quality, prompt, seed)[:responses]
    rewards = np.array(quality.scores(plain, prompt, quality.reward))[mine]
    if np.isnan(rewards).all():
        return None
    best = int(mine[np.nanargmax(rewards)])
    held_out = {key: quality.scores(plain, prompt, reward)[best] for key, reward in quality.held_out.items()}
    return Chosen(text=quality.pool(plain, prompt)["texts"][best], reward=float(np.nanmax(rewards)), held_out=held_out)


def pool_order(quality: Quality, prompt: int, seed: int) -> NDArray[np.int64]:
    """Return an order of a pool's samples: each seed has one of its own, so that pairs are as luck has it."""
    return np.random.default_rng([prompt, seed]).permutation(quality.pool_size)


def affordable(quality: Quality, plain: str, name: str, prompt: int, seed: int) -> float:
    """Return how many plain samples take as many seconds as a whole search, generation and scoring; at least 1.

    A sample takes its share of its pool's seconds, which is generous to best-of-n: fewer rows in a batch take longer a
    row. There may not be as many in the pool.
    """
    pool_seconds = quality.pool(plain, prompt)["seconds"] + quality.scoring_seconds(plain, prompt, quality.reward)
    seconds = sum(round_["seconds"] for round_ in quality.search(name, prompt, seed)["rounds"])
    return max(float(seconds / (pool_seconds / quality.pool_size)), 1.0)
