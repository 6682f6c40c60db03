"""Rewards as LangChain's users have them: Runnables, functions of messages, evaluators, judges."""

from __future__ import annotations

from aisp.rewards.preferences import Preferences
from aisp_langchain.rewards.coerce import as_reward
from aisp_langchain.rewards.decision import DecisionReward
from aisp_langchain.rewards.judge import RubricJudge
from aisp_langchain.rewards.runnable import Reward, minimum, normalize, product, veto, when

__all__ = [
    "DecisionReward",
    "Preferences",
    "Reward",
    "RubricJudge",
    "as_reward",
    "minimum",
    "normalize",
    "product",
    "veto",
    "when",
]
