"""Steer a frozen language model towards a reward, per request, by adaptive importance sampling.

    import aisp
    from aisp.rewards import Length, Sentiment

    aisp.align("Tell me about rain.", rewards=Sentiment() + Length(20, 40), budget=16).text

Importing this package loads neither torch nor a model; what needs them is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aisp._guard import check as _check

_check(__file__)

from aisp.version import __version__  # noqa: E402 - nothing else of the package may load before the check

if TYPE_CHECKING:
    from aisp.api import TextStream, aalign, align, stream
    from aisp.search.estimate import TiltedEstimate, tilted_estimate
    from aisp.search.trace import Alignment, Response, Round
    from aisp.service import AsyncRun, Run, Service
    from aisp.settings import SearchSettings

__all__ = [
    "Alignment",
    "AsyncRun",
    "Response",
    "Round",
    "Run",
    "SearchSettings",
    "Service",
    "TextStream",
    "TiltedEstimate",
    "__version__",
    "aalign",
    "align",
    "stream",
    "tilted_estimate",
]

_HOMES = {
    "Alignment": "aisp.search.trace",
    "AsyncRun": "aisp.service",
    "Response": "aisp.search.trace",
    "Round": "aisp.search.trace",
    "Run": "aisp.service",
    "SearchSettings": "aisp.settings",
    "Service": "aisp.service",
    "TextStream": "aisp.api",
    "TiltedEstimate": "aisp.search.estimate",
    "aalign": "aisp.api",
    "align": "aisp.api",
    "stream": "aisp.api",
    "tilted_estimate": "aisp.search.estimate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'aisp' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
