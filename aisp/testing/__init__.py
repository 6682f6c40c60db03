"""What tests need: a tiny language model made from a seed, and the contract that a reward of your own must keep."""

from __future__ import annotations

from aisp.testing.contract import RewardContract
from aisp.testing.tiny import CHATML_TEMPLATE, tiny_loaded_model, tiny_model, tiny_tokenizer

__all__ = ["CHATML_TEMPLATE", "RewardContract", "tiny_loaded_model", "tiny_model", "tiny_tokenizer"]
