"""What proposals ask of an engine, and the refusal of what it doesn't offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from aisp.engines.base import Engine
from aisp.errors import ConfigurationError
from aisp.records import Capability, Proposal

ALL_CAPABILITIES: frozenset[Capability] = frozenset(get_args(Capability))


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
