"""Rewards from what LangChain's users have: functions of messages, and Runnables."""

from __future__ import annotations

from aisp_langchain.rewards.coerce import as_reward

__all__ = ["as_reward"]
