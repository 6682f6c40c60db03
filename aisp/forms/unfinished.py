"""What may be shown of an unfinished answer: text that is for the user, whatever the model writes next.

`aisp.forms.parsing` takes an answer apart when it is complete. Until then, what may turn out to be reasoning or a tool
call is held back: tagged, fenced, or bare JSON.
"""

from __future__ import annotations

from aisp.forms.parsing import split_reasoning
from aisp.settled import begun

_THINK, _CALL, _FENCE = "<think>", "<tool_call>", "```"
_MARKS = ("", "json", "tool_call", "tool_code")  # what may follow the fence of a call


def settled_answer(text: str, *, reasoning: bool, calls: bool) -> str:
    """Return the beginning of the text that the user will get.

    Args:
        text: Of the response so far, as far as it stays.
        reasoning: Whether the response begins within the model's reasoning.
        calls: Whether tools may be called.
    """
    if "</think>" not in text:
        opening = text.lstrip()
        if reasoning or opening.startswith(_THINK) or (opening and _THINK.startswith(opening)):
            return ""
    _, answer = split_reasoning(text)
    return _before_calls(answer) if calls else answer


def _before_calls(text: str) -> str:
    """Return what comes before anything that may be a call. Space at the end is none of it: it is stripped there."""
    if text[:1].isspace() or text[:1] in ("{", "["):
        return ""
    text = text.partition(_CALL)[0]
    text = text[: len(text) - begun(text, _CALL)]
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
