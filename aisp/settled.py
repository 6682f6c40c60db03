"""What may be shown of an unfinished response: text that stays, whatever the model writes next."""

from __future__ import annotations

from collections.abc import Sequence

_UNDECODED = "\ufffd"  # what tokenizers put for the bytes of a character that isn't complete


def settled(text: str, stop: Sequence[str] = ()) -> str:
    """Return the part of an unfinished text that stays.

    Held back are a character whose bytes aren't all there, and what may be the beginning of a stop string.

    Example:
        >>> settled("All done. ST", ["STOP"])
        'All done. '
    """
    text = text.rstrip(_UNDECODED)
    return text[: len(text) - max((begun(text, string) for string in stop), default=0)]


def begun(text: str, string: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a string, all of it excluded.

    Example:
        >>> begun("or <tool", "<tool_call>"), begun("or", "<tool_call>")
        (5, 0)
    """
    return next((n for n in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:n])), 0)
