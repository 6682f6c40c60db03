"""Whether a proposal can be drawn from: checked where it enters, so that no batch ever meets one that can't."""

from __future__ import annotations

import math

import numpy as np

from aisp.errors import ConfigurationError
from aisp.records import Proposal

# A pre-logit's entries are about 1 to 100, and float32 ends at 3.4e38: what is beyond this overflows in the head.
_GREATEST = 1e30


def check_proposal(proposal: Proposal, max_tokens: int, dim: int, vocab_size: int) -> None:
    """Raise if a proposal can't be drawn from.

    Args:
        proposal: The one.
        max_tokens: Tokens that the response may have, kept ones included.
        dim: Size of a pre-logit.
        vocab_size: Tokens that the model knows.

    Raises:
        ConfigurationError: It keeps too much, or a number is not finite or out of its range.
    """
    kept = proposal.kept.ids
    if len(kept) >= max_tokens:
        raise ConfigurationError(
            f"a proposal keeps {len(kept)} tokens, and a response may have {max_tokens} in all; keep fewer"
        )
    if kept and not (min(kept) >= 0 and max(kept) < vocab_size):
        raise ConfigurationError(
            f"a proposal keeps tokens {min(kept)} to {max(kept)}; expected 0 to {vocab_size - 1}: keep tokens of this "
            "model's responses"
        )
    if not (0 <= proposal.scale <= _GREATEST):
        raise ConfigurationError(f"a proposal's scale is {proposal.scale}; expected a number in [0, {_GREATEST:g}]")
    for term in proposal.mean:
        worst = max((abs(weight) for _, weight in term.spans), key=_size, default=0.0)
        if not _size(worst) <= _GREATEST:
            raise ConfigurationError(
                f"a term of a proposal's mean has the weight {worst}; expected at most {_GREATEST:g} either way"
            )
    if proposal.pause_after is not None and proposal.pause_after < 1:
        raise ConfigurationError(f"pause_after is {proposal.pause_after}; expected an integer >= 1, or None")
    if proposal.horizon is not None and proposal.horizon < 0:
        raise ConfigurationError(f"horizon is {proposal.horizon}; expected an integer >= 0, or None for all tokens")
    if proposal.shift is not None:
        _check_shift(proposal.shift, dim)


def _size(number: float) -> float:
    """Order numbers by their size, with NaN the worst."""
    return math.inf if math.isnan(number) else abs(number)


def _check_shift(shift: object, dim: int) -> None:
    if not isinstance(shift, np.ndarray) or shift.dtype != np.float32 or shift.ndim != 2 or not len(shift):
        got = f"{shift.dtype} of shape {shift.shape}" if isinstance(shift, np.ndarray) else f"a {type(shift).__name__}"
        raise ConfigurationError(f"a proposal's shift is {got}; expected float32 of shape (positions, {dim})")
    if shift.shape[1] != dim:
        raise ConfigurationError(
            f"a proposal's shift has {shift.shape[1]} numbers a position, and this model's pre-logits have {dim}"
        )
    greatest = float(np.abs(shift).max())
    if not greatest <= _GREATEST:
        raise ConfigurationError(
            f"the greatest number of a proposal's shift is {greatest}; expected finite ones up to {_GREATEST:g}: "
            "rewards of extreme size lead to such shifts"
        )
