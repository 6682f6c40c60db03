"""The version of both packages, in one place: the build reads this file, and traces record it."""

from __future__ import annotations

__version__ = "0.1.0"
