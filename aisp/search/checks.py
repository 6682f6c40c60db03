"""What is refused before anything is drawn: searches that their reward, strategy or engine can't serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aisp.engines.base import Engine
from aisp.errors import ConfigurationError
from aisp.search.plan import Plan
from aisp.strategies.base import Strategy

if TYPE_CHECKING:
    from aisp.rewards.base import Reward


def check_budget(plan: Plan, reward: Reward | None) -> None:
    """Refuse to draw several responses where nothing chooses among them.

    Raises:
        ConfigurationError: A budget above 1 without a reward.
    """
    if reward is None and plan.budget > 1:
        raise ConfigurationError(
            f"budget is {plan.budget} but there are no rewards to choose by; "
            "give rewards, or budget=1 for a plain answer"
        )


def check_commits(commit_tokens: int | None, reward: Reward | None) -> None:
    """Raise unless a response may be committed block by block.

    Raises:
        ConfigurationError: Blocks of no tokens, or a reward that does not say that it can score what isn't complete.
    """
    if commit_tokens is None:
        return
    if commit_tokens < 1:
        raise ConfigurationError(f"commit_tokens is {commit_tokens}; expected an integer >= 1")
    if reward is not None and not reward.partial:
        raise ConfigurationError(
            f"commit_tokens chooses blocks by the reward of unfinished text, and the reward {reward.name!r} does not "
            "say that it can score that; give it partial=True if it can (every part of a sum must), or leave "
            "commit_tokens out"
        )


def check_needs(strategy: Strategy[Any], engine: Engine) -> None:
    """Refuse a strategy that needs what an engine does not offer.

    Raises:
        ConfigurationError: It does.
    """
    missing = sorted(strategy.needs - engine.offers)
    if missing:
        raise ConfigurationError(
            f"the strategy {strategy.name} needs {', '.join(missing)}, which {type(engine).__name__} does not offer; "
            'use strategy="best_of_n", or an engine that runs the model in this process'
        )
