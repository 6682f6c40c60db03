"""What cuts a response off before it is complete, in words."""

from __future__ import annotations

_REASONS = {
    "length": "it reached max_tokens (finish_reason 'length'); raise max_tokens",
    "cancelled": "the time ran out or the search was cancelled (finish_reason 'cancelled'); give it more timeout",
    "paused": "it is unfinished (finish_reason 'paused')",
}
_STOPPED = "a stop string ended it (finish_reason 'stop'); choose one that the answer doesn't hold"


def cut_by(finish_reason: str) -> str | None:
    """Return which limit ended a response, and what to do; None where none did, or a stop string may have."""
    return _REASONS.get(finish_reason)


def why_incomplete(finish_reason: str | None) -> str:
    """Return which limit ended a response that is known to be incomplete."""
    return _REASONS.get(finish_reason or "") or _STOPPED
