"""The toy language, which is public now: see `aisp.testing.toy`."""

from __future__ import annotations

from aisp.testing.toy import (
    DIM,
    PLAIN,
    WEIGHT,
    Toy,
    ToyEngine,
    ToyReward,
    alike,
    ids_of,
    next_token,
    pre_logit,
    run_rounds,
    step,
    text_of,
)

__all__ = [
    "DIM",
    "PLAIN",
    "WEIGHT",
    "Toy",
    "ToyEngine",
    "ToyReward",
    "alike",
    "ids_of",
    "next_token",
    "pre_logit",
    "run_rounds",
    "step",
    "text_of",
]
