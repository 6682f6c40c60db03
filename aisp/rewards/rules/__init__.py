"""Rules: rewards that need no model."""

from __future__ import annotations

from aisp.rewards.rules.basic import Avoids, Contains, Length, Regex, ValidJSON

__all__ = ["Avoids", "Contains", "Length", "Regex", "ValidJSON"]
