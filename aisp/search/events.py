"""What happens in a search, in the order in which it happens."""

from __future__ import annotations

from dataclasses import dataclass

from aisp.search.trace import Alignment, Response, Round


@dataclass(frozen=True, slots=True)
class ResponseScored:
    """A response was generated and scored."""

    response: Response


@dataclass(frozen=True, slots=True)
class SearchStep:
    """The strategy was told of some responses: a round has ended."""

    round: Round


@dataclass(frozen=True, slots=True)
class TextCommitted:
    """More of the answer's text is settled.

    Args:
        text: What comes next. The texts of all events together are the answer's.
        last: Whether nothing comes after it.
    """

    text: str
    last: bool = False


@dataclass(frozen=True, slots=True)
class SearchEnded:
    """The search is over. A `Run` keeps the alignment and does not show this event."""

    alignment: Alignment


Event = ResponseScored | SearchStep | TextCommitted
