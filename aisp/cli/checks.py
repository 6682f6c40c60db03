"""What is asked of rewards before the first model is loaded, so that nobody waits for what could be seen at once."""

from __future__ import annotations

from typing import Any

from aisp.rewards import Reward


def check_rewards(*rewards: Reward | None) -> None:
    """Refuse rewards that lack what they score with, as a package or a model.

    Raises:
        AISPError: What is missing, and what to do about it.
    """
    if not hasattr(Reward, "check"):
        return
    for reward in rewards:
        if reward is not None:
            checked: Any = reward
            checked.check()
