"""Which proposals can be drawn from: checked where they enter, so that no batch ever meets one that can't be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import numpy as np

from aisp.engines.base import Engine
from aisp.errors import ConfigurationError
from aisp.records import Capability, Proposal

ALL_CAPABILITIES: frozenset[Capability] = frozenset(get_args(Capability))

# A pre-logit's entries are about 1 to 100, and float32 ends at 3.4e38: what is beyond this overflows in the head.
_GREATEST = 1e30


def needs_of(proposal: Proposal) -> frozenset[Capability]:
    """Return what a proposal asks of the engine that draws from it."""
    asked: dict[Capability, bool] = {
        "kept": bool(proposal.kept.ids) or proposal.pause_after is not None,
        "excluded": bool(proposal.excluded),
        "shift": proposal.shift is not None,
        "noise": bool(proposal.scale or proposal.mean),
        "grammar": proposal.grammar is not None,
    }
    return frozenset(capability for capability, needed in asked.items() if needed) | proposal.measures


def check_offered(engine: Engine, proposals: Sequence[Proposal]) -> None:
    """Raise if a proposal asks for what an engine doesn't offer.

    Raises:
        ConfigurationError: It does; the message says what is missing and what there is.
    """
    offers = engine.offers
    for proposal in proposals:
        missing = needs_of(proposal) - offers
        if missing:
            raise ConfigurationError(
                f"{type(engine).__name__} does not offer {', '.join(sorted(missing))}, which a proposal asks for; it "
                f"offers {', '.join(sorted(offers))}. Choose another strategy or another engine"
            )


def check_proposal(proposal: Proposal, max_tokens: int, vocab_size: int, dim: int | None = None) -> None:
    """Raise if a proposal can't be drawn from.

    Args:
        proposal: The one.
        max_tokens: Tokens that the response may have, kept ones included.
        vocab_size: Tokens that the model knows.
        dim: Size of a pre-logit; None where a shift of any size is taken.

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


def _check_shift(shift: object, dim: int | None) -> None:
    if not isinstance(shift, np.ndarray) or shift.dtype != np.float32 or shift.ndim != 2 or not len(shift):
        got = f"{shift.dtype} of shape {shift.shape}" if isinstance(shift, np.ndarray) else f"a {type(shift).__name__}"
        raise ConfigurationError(f"a proposal's shift is {got}; expected float32 of shape (positions, {dim or 'dim'})")
    if dim is not None and shift.shape[1] != dim:
        raise ConfigurationError(
            f"a proposal's shift has {shift.shape[1]} numbers a position, and this model's pre-logits have {dim}"
        )
    greatest = float(np.abs(shift).max())
    if not greatest <= _GREATEST:
        raise ConfigurationError(
            f"the greatest number of a proposal's shift is {greatest}; expected finite ones up to {_GREATEST:g}: "
            "rewards of extreme size lead to such shifts"
        )
