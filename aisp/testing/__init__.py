"""What tests need: tiny models made from a seed, fakes, a toy language, and the contracts that your own must keep."""

from __future__ import annotations

from aisp.testing.contract import RewardContract
from aisp.testing.engine_contract import EngineContract
from aisp.testing.fakes import FakeClock, FakeEngine
from aisp.testing.strategy_contract import StrategyContract
from aisp.testing.tiny import CHATML_TEMPLATE, tiny_loaded_model, tiny_model, tiny_tokenizer
from aisp.testing.toy import Toy, ToyEngine, ToyReward

__all__ = [
    "CHATML_TEMPLATE",
    "EngineContract",
    "FakeClock",
    "FakeEngine",
    "RewardContract",
    "StrategyContract",
    "Toy",
    "ToyEngine",
    "ToyReward",
    "tiny_loaded_model",
    "tiny_model",
    "tiny_tokenizer",
]
