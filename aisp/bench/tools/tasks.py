"""Requests to an assistant with eight tools, the call that each asks for, and what counts as that call.

An argument is right if it is the expected one but for case, spaces and punctuation at its ends; where words are
expected, if they occur in it. A request that no tool fits is answered right by any text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aisp.forms import Tool
from aisp.records import Candidate

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A request and the call that it asks for.

    Args:
        prompt: What the user says.
        tool: Name of the tool; None where none fits.
        args: Expected values by the argument's name; a list holds words that have to occur.
    """

    prompt: str
    tool: str | None
    args: Mapping[str, Any] = field(default_factory=dict)

    def right_tool(self, candidate: Candidate) -> bool:
        """Return whether a response calls the expected tool and no other, or none where none is expected."""
        called = [call["name"] for call in candidate.tool_calls]
        return not candidate.invalid_tool_calls and called == ([] if self.tool is None else [self.tool])

    def right_call(self, candidate: Candidate) -> bool:
        """Return whether the arguments are the expected ones as well."""
        if not self.right_tool(candidate):
            return False
        given = candidate.tool_calls[0]["args"] if self.tool is not None else {}
        return all(_matches(given.get(name), expected) for name, expected in self.args.items())


def load_tools() -> tuple[Tool, ...]:
    """Return the tools."""
    functions = json.loads((_HERE / "tools.json").read_text(encoding="utf-8"))
    return tuple({"type": "function", "function": function} for function in functions)


def load_tasks() -> list[Task]:
    """Return the requests."""
    lines = (_HERE / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [Task(**json.loads(line)) for line in lines]


def _matches(given: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return all(word in str(given).casefold() for word in expected)
    return _plain(given) == _plain(expected)


def _plain(value: Any) -> str:
    return "".join(str(value).casefold().split()).strip(".,!?'\"")
