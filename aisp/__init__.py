"""Steer a frozen language model towards a reward, per request, by adaptive importance sampling.

Importing this package loads neither torch nor a model; what needs them is imported where it is used.
"""

from __future__ import annotations

from aisp._guard import check as _check

_check(__file__)

from aisp.version import __version__  # noqa: E402 - nothing else of the package may load before the check

__all__ = ["__version__"]
