"""The default strategy: restart from prefixes of good responses, with the tokens tilted towards the reward."""

from __future__ import annotations

from aisp.strategies.tilted_restart.strategy import TiltedRestart

__all__ = ["TiltedRestart"]
