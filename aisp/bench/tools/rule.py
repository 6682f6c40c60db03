"""A reward for tool calls that knows the tools' descriptions and the request, and not the answer.

    a call      how well the tool's description fits the request + how much of the arguments is in the request - 1
    text        0
    a call that went wrong                                                                                     -1

So a call is worth making where the tool shares words with the request, at least as many as any other, and its
arguments are not made up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aisp.forms import Tool
from aisp.rewards import FunctionReward

_WORD = re.compile(r"[a-z]+|\d+")
_COMMON = frozenset(
    "a about after all an and another any are as at be by can do does each for from get give have how i in into is "  # noqa: SIM905
    "it me my of on or our please put say says some tell that the there this to up was we what when where which who "
    "will with you your".split()
)
_STEM = 5  # letters: "raining" and "rains" are then one word, and few different words are


def fitting_call(tools: Sequence[Tool]) -> FunctionReward:
    """Return the reward for calls of these tools."""
    known = {str(tool["function"]["name"]): _stems(_described(tool["function"])) for tool in tools}

    def fitting(prompt: str, tool_calls: Sequence[Mapping[str, Any]], candidate: Any) -> float:
        if candidate.invalid_tool_calls:
            return -1.0
        if not tool_calls:
            return 0.0
        asked, best = _stems(prompt), max(fits(prompt, known).values())
        worth = [
            len(asked & known[call["name"]]) / max(1, best) + grounded(call["args"], prompt) - 1 for call in tool_calls
        ]
        return sum(worth) / len(worth)

    return FunctionReward(fitting, name="fitting_call", version="1")


def fits(prompt: str, known: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """Return how many words the request shares with the name and description of each tool."""
    asked = _stems(prompt)
    return {name: len(asked & words) for name, words in known.items()}


def named_by_rule(tools: Sequence[Tool]) -> Callable[[str], str | None]:
    """Return what the rule alone would choose: the one tool that fits best, None where none or several do."""
    known = {str(tool["function"]["name"]): _stems(_described(tool["function"])) for tool in tools}

    def choose(prompt: str) -> str | None:
        counts = fits(prompt, known)
        best = [name for name, count in counts.items() if count == max(counts.values()) > 0]
        return best[0] if len(best) == 1 else None

    return choose


def grounded(args: Mapping[str, Any], prompt: str) -> float:
    """Return the share of the arguments' words and numbers that occur in the request; 1 where there are none."""
    said = set(_WORD.findall(prompt.lower()))
    written = [word for value in args.values() for word in _WORD.findall(str(value).lower())]
    return sum(word in said for word in written) / len(written) if written else 1.0


def _described(function: Mapping[str, Any]) -> str:
    return f"{function['name'].replace('_', ' ')} {function.get('description', '')}"


def _stems(text: str) -> frozenset[str]:
    return frozenset(word[:_STEM] for word in _WORD.findall(text.lower()) if word not in _COMMON)
