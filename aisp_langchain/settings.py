"""What may be given to a call of the chat model, as the service takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aisp.call import hold_model
from aisp.errors import ConfigurationError
from aisp.invalid import explain_unknown
from aisp.service import FORM_OPTIONS, SETTINGS
from aisp_langchain.rewards import as_reward
from aisp_langchain.tools import read_tools

# Names that LangChain has for what the service calls otherwise. `stream` is core's own switch between `invoke` and
# `stream`; it reaches the model only to be ignored.
_OWN = frozenset(
    {"model", "engine", "rewards", "preferences", "reference_outputs", "template_kwargs", "strict", "stream"}
)
CALL_FIELDS = SETTINGS | FORM_OPTIONS | _OWN


def read_call(given: Mapping[str, Any], stop: list[str] | None = None) -> dict[str, Any]:
    """Return a call's options as `aisp.service.Service.run` takes them.

    Args:
        given: What the call was given.
        stop: Strings that end a response, in place of the model's own; None for those.

    Raises:
        ConfigurationError: An unknown name, tools that can't be read, or rewards that can't be made one.
    """
    unknown = {name: value for name, value in given.items() if name not in CALL_FIELDS}
    if unknown:
        raise ConfigurationError(f"a call got {', '.join(unknown)}: {explain_unknown(unknown, CALL_FIELDS)}")
    if given.get("model") is not None and given.get("engine") is not None:
        raise ConfigurationError("a call got both model and engine; give the one that is to answer")
    call = {name: value for name, value in given.items() if name in SETTINGS | FORM_OPTIONS}
    call |= {name: given[name] for name in ("preferences", "template_kwargs") if name in given}
    if "rewards" in given:
        call["rewards"] = None if given["rewards"] is None else as_reward(given["rewards"])
    if given.get("tools"):
        call["tools"] = read_tools(given["tools"], given.get("strict"))
    if stop is not None:
        call["stop"] = stop
    call["reference"] = given.get("reference_outputs")
    call["engine"] = hold_model(given.get("model") or given.get("engine"))
    return call
