"""What may be given to a call, over what the chat model was built with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aisp.errors import ConfigurationError
from aisp.forms import Form, make_form
from aisp.rewards.base import Reward
from aisp.rewards.preferences import Preferences
from aisp.settings import SearchSettings, override
from aisp_langchain.rewards import as_reward
from aisp_langchain.tools import read_tools

SEARCH_FIELDS = frozenset(SearchSettings.model_fields)
FORM_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "response_format", "strict", "explore_calls"})
# `stream` is core's own switch between `invoke` and `stream`; it reaches the model only to be ignored.
OTHER_FIELDS = frozenset({"model", "rewards", "preferences", "reference_outputs", "template_kwargs", "stream"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call's own options.

    Args:
        search: How to search.
        reward: What scores.
        model: A model in place of the chat model's own; None for that one.
        reference: What rewards are given as `reference_outputs`.
        template: Variables of the chat template, as `enable_thinking`.
        form: Tools and formats that the answer is held to.
    """

    search: SearchSettings
    reward: Reward | None
    model: Any
    reference: Any
    template: Mapping[str, Any]
    form: Form


def read_call(
    own: SearchSettings, reward: Reward | None, template: Mapping[str, Any], given: Mapping[str, Any]
) -> Call:
    """Return the options of a call: the chat model's own, with what the call was given put over them.

    Raises:
        ConfigurationError: An unknown name, or a value out of range.
    """
    unknown = sorted(given.keys() - SEARCH_FIELDS - FORM_FIELDS - OTHER_FIELDS)
    if unknown:
        known = ", ".join(sorted(SEARCH_FIELDS | FORM_FIELDS | OTHER_FIELDS))
        raise ConfigurationError(f"a call got {', '.join(unknown)}; expected any of {known}, stop")
    if "rewards" in given:
        reward = None if given["rewards"] is None else as_reward(given["rewards"])
    if given.get("preferences") is not None:
        reward = Preferences.of(given["preferences"]).apply(reward)
    return Call(
        search=override(own, given),
        reward=reward,
        model=given.get("model"),
        reference=given.get("reference_outputs"),
        template={**template, **(given.get("template_kwargs") or {})},
        form=read_form(given),
    )


def read_form(given: Mapping[str, Any]) -> Form:
    """Return the form that a call's options describe.

    Args:
        given: Any of `tools`, `tool_choice`, `parallel_tool_calls`, `response_format`, `strict` and
            `explore_calls`, among others.

    Raises:
        ConfigurationError: Tools, a choice or a format that can't be read.
    """
    return make_form(
        read_tools(given.get("tools") or (), given.get("strict")),
        tool_choice=given.get("tool_choice"),
        parallel_tool_calls=given.get("parallel_tool_calls"),
        response_format=given.get("response_format"),
        explore_calls=bool(given.get("explore_calls")),
    )
