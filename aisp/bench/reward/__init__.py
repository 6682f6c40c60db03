"""Does a reward mean anything? Measured on a model's own samples, and said in plain words."""

from __future__ import annotations

from aisp.bench.reward.check import check_reward
from aisp.bench.reward.findings import Thresholds
from aisp.bench.reward.plot import draw_check
from aisp.bench.reward.result import Complaint, RewardCheck
from aisp.bench.reward.samples import draw_samples

__all__ = ["Complaint", "RewardCheck", "Thresholds", "check_reward", "draw_check", "draw_samples"]
