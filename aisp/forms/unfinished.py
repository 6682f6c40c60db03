"""What may be shown of an unfinished answer: text that is for the user, whatever the model writes next.

`aisp.forms.parsing` takes an answer apart when it is complete. Until then, what may turn out to be reasoning, a stop
string or a tool call is held back; calls may be tagged, fenced, or bare JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

from aisp.forms.parsing import split_reasoning

_UNDECODED = "\ufffd"  # what tokenizers put for the bytes of a character that isn't complete
_THINK, _CALL, _FENCE = "<think>", "<tool_call>", "```"
_MARKS = ("", "json", "tool_call", "tool_code")  # what may follow the fence of a call


def stable_prefix(text: str, stop: Sequence[str] = ()) -> str:
    """Return the beginning of an unfinished text that no later token changes.

    Held back are a character whose bytes aren't all there, and what may be the beginning of a stop string.

    Example:
        >>> stable_prefix("All done. ST", ("STOP",))
        'All done. '
    """
    text = text.rstrip(_UNDECODED)
    return text[: len(text) - max((partial_suffix_length(text, string) for string in stop), default=0)]


def partial_suffix_length(text: str, string: str) -> int:
    """Return how many characters at the end of a text may begin a string; a whole string doesn't count.

    Example:
        >>> partial_suffix_length("or <tool", "<tool_call>"), partial_suffix_length("or", "<tool_call>")
        (5, 0)
    """
    return next((n for n in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:n])), 0)


def visible_text(text: str, *, reasoning: bool, calls: bool, stop: Sequence[str] = (), held: bool = False) -> str:
    """Return the beginning of the text that the user will get.

    Args:
        text: Of the response so far.
        reasoning: Whether the response begins within the model's reasoning.
        calls: Whether tools may be called.
        stop: The strings that end the response.
        held: Whether a grammar writes the response from its first token, so that it holds no reasoning.
    """
    text = stable_prefix(text, stop)
    if held:
        return _before_calls(text) if calls else text
    opening = text.lstrip()
    thinks = reasoning or opening.startswith(_THINK)
    if (thinks and "</think>" not in text) or (opening and not thinks and _THINK.startswith(opening)):
        return ""
    _, answer = split_reasoning(text, opened=reasoning, calls=calls)
    return _before_calls(answer) if calls else answer


def _before_calls(text: str) -> str:
    """Return what comes before anything that may be a call. A call strips the space in front of it."""
    if text[:1].isspace() or text[:1] in ("{", "["):
        return ""
    text = text.partition(_CALL)[0]
    text = text[: len(text) - partial_suffix_length(text, _CALL)]
    at = text.find(_FENCE)
    while at >= 0:
        if _may_call(text[at + len(_FENCE) :]):
            return text[:at].rstrip()
        at = text.find(_FENCE, at + len(_FENCE))
    return text.rstrip("`").rstrip()


def _may_call(block: str) -> bool:
    """Whether what follows a fence is, or may become, a call in JSON."""
    mark, newline, content = block.partition("\n")
    if not newline:
        return any(known.startswith(mark.strip()) for known in _MARKS)
    return mark.strip() in _MARKS and content.lstrip()[:1] in ("", "{", "[")
