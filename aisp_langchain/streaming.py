"""How a search becomes a stream: pieces of text as they are settled, rounds to who listens, and the message at last.

    Run --answer_pieces--> str, str, ..., AIMessage --to_chunks--> chunks

A search that commits blocks hands out each at once. One that chooses among whole answers has no text before its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables.config import set_config_context

from aisp.search.events import SearchStep, TextCommitted
from aisp.service import Run
from aisp_langchain.messages import to_ai_message, to_chunks
from aisp_langchain.tracing import EventSink

Piece = str | AIMessage
"""Text that comes next, or at the end the whole message."""


def answer_pieces(run: Run, sink: EventSink, *, traced: bool, model_name: str) -> Iterator[Piece]:
    """Run a search, telling who listens of its rounds.

    Args:
        run: The search.
        sink: Who listens.
        traced: Whether they see the runs of rewards.
        model_name: What the message calls the model.
    """
    # A model that judges must not write into the stream of the one that is judged, which it would inherit.
    with run, set_config_context(sink.config_of_rewards(traced=traced)) as context:
        tell = sink.round_teller()
        while (event := context.run(next, run, None)) is not None:
            if isinstance(event, SearchStep) and tell is not None:
                context.run(tell, event.round)
            if isinstance(event, TextCommitted) and not event.last:  # the message holds the rest
                yield event.text
    yield to_ai_message(run.alignment, model_name=model_name)


def whole(pieces: Iterable[Piece]) -> AIMessage:
    """Return the message that pieces end with."""
    return next(piece for piece in pieces if isinstance(piece, AIMessage))


class Chunker:
    """Makes chunks of pieces: committed text as it is, and what the message has beyond it."""

    def __init__(self) -> None:
        self._shown = 0

    def chunks(self, piece: Piece) -> Iterator[ChatGenerationChunk]:
        if isinstance(piece, str):
            self._shown += len(piece)
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        else:
            yield from to_chunks(piece, shown=self._shown)
