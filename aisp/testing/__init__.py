"""What tests need: a tiny language model made from a seed, and the contracts of rewards and strategies of your own."""

from __future__ import annotations

from aisp.testing.contract import RewardContract
from aisp.testing.strategy_contract import StrategyContract
from aisp.testing.tiny import CHATML_TEMPLATE, tiny_loaded_model, tiny_model, tiny_tokenizer

__all__ = ["CHATML_TEMPLATE", "RewardContract", "StrategyContract", "tiny_loaded_model", "tiny_model", "tiny_tokenizer"]
