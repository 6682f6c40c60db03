"""An agent whose choice of tools is steered: the reward looks at the call, before any tool runs.

Run it with `python cookbook/08_agent_with_steered_tools.py`; it needs `pip install langchain` and the extra `grammar`,
and takes under a minute on two cores. Calls are held to the tools' schemas, so that every candidate is a call that can
be made; which tool, and with what, is what the search chooses.
"""

import re
from typing import Annotated

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import tool
from pydantic import Field

from aisp_langchain import AISPChatModel

Name = Annotated[str, Field(min_length=3)]  # the model would leave it empty otherwise


@tool(return_direct=True)
def get_weather(city: Name) -> str:
    """Tell the weather of a city: rain, snow, wind."""
    return f"It rains in {city}, 12 degrees."


@tool(return_direct=True)
def set_timer(minutes: int) -> str:
    """Set a timer that rings after some minutes."""
    return f"The timer rings in {minutes} minutes."


@tool(return_direct=True)
def play_music(artist: Name) -> str:
    """Play songs of an artist."""
    return f"Now playing: {artist}."


TOOLS = [get_weather, set_timer, play_music]
DESCRIPTIONS = {each.name: each.description for each in TOOLS}


def words(text: object) -> set[str]:
    return set(re.findall(r"[a-z]{4,}|\d+", str(text).lower()))


# The rule knows no right answers: the tool's description should share a word with the request, and what the call
# says should have been said by the user.
def fitting(inputs: list[BaseMessage], outputs: AIMessage) -> float:
    asked = words(inputs[-1].text)
    if not outputs.tool_calls:
        return 0.0
    call = outputs.tool_calls[0]
    given = words(call["args"].values())
    return bool(asked & words(DESCRIPTIONS[call["name"]])) + (len(given & asked) / len(given) if given else 0.0)


# A model of 135M parameters rarely thinks of calling a tool; here it must.
@wrap_model_call
def must_call(request, handler):
    return handler(request.override(tool_choice="any"))


plain = AISPChatModel(model="smollm2-135m", dtype="float32", max_tokens=40, temperature=0)
steered = AISPChatModel(
    model="smollm2-135m",
    dtype="float32",
    max_tokens=40,
    seed=1,
    rewards=fitting,
    budget=16,
    num_samples=8,
    target_reward=2.0,
)
for request in ("Wake me in 9 minutes.", "I want to hear songs by Nina Simone."):
    print(request)
    for name, llm in (("plain", plain), ("steered", steered)):
        agent = create_agent(llm, TOOLS, middleware=[must_call])
        messages = agent.invoke({"messages": [("user", request)]})["messages"]
        call = messages[1].tool_calls[0]
        print(f"  {name:8s}{call['name']}({call['args']}) -> {messages[-1].text}")
