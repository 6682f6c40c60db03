"""Stream an answer while it is searched for: block by block, or with progress until it is chosen.

Run it with `python cookbook/11_stream_while_searching.py`; it takes under a minute on two cores.
"""

import asyncio

from aisp.rewards import Sentiment
from aisp_langchain import AISPChatModel
from aisp_langchain.tracing import ROUND_EVENT

# VADER reads any text, finished or not, so it may choose blocks: it declares partial=True. Rewards of your own take it
# as an option; a sum may choose blocks if all its parts may.
kind = Sentiment(measure="balance")
common = {"model": "smollm2-135m", "dtype": "float32", "rewards": kind, "max_tokens": 32, "seed": 1}

# Each block of 8 tokens is the best of 4, and on the screen as soon as it is chosen. Four blocks make 16 responses.
llm = AISPChatModel(**common, commit_tokens=8, budget=16, num_samples=4)
for chunk in llm.stream("Say something nice about rain."):
    print(chunk.content, end="|", flush=True)
    if chunk.response_metadata:
        trace = chunk.response_metadata["aisp"]
print(f"\nreward {trace['reward']:.3f}, {trace['cost']['forward_tokens']} forward tokens")


# Whole answers are chosen among by default. Then there is no text before the end, but there is progress.
async def watch() -> None:
    llm = AISPChatModel(**common, budget=16, num_samples=8)
    async for event in llm.astream_events("Say something nice about rain.", version="v2"):
        if event["name"] == ROUND_EVENT:
            told = event["data"]
            print(f"round {told['round']}: {told['responses']} responses, best so far {told['best_so_far']:.3f}")
        elif event["event"] == "on_chat_model_stream":
            print(event["data"]["chunk"].content, end="")
    print()


asyncio.run(watch())
