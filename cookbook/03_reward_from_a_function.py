"""Make a reward of a function, find out whether it is one worth optimising, and mend it.

Run it with `python cookbook/03_reward_from_a_function.py`; it takes under a minute on two cores.
"""

import re

import aisp
from aisp.bench.reward import check_reward, draw_samples
from aisp.models import load
from aisp.records import Score
from aisp.rewards import FunctionReward

MODEL = load("smollm2-135m", dtype="float32")
PROMPTS = [
    [{"role": "user", "content": text}] for text in ("Why should I plant a tree?", "How can I sleep better at night?")
]


# Parameters are bound by name: text, prompt, messages, tool_calls, structure, reference ... and higher is better.
def asks_back(text: str) -> bool:
    return text.rstrip().endswith("?")


# A better idea of the same: how far from a question is it? A score may have a comment, which stays in the trace.
def to_the_point(text: str, prompt: str) -> Score:
    asked = set(re.findall(r"[a-z]{4,}", prompt.lower()))
    said = re.findall(r"[a-z]{4,}", text.lower())
    found = sorted(asked & set(said))
    return Score(value=len(found) / max(len(asked), 1) - 0.02 * len(said), comment=f"speaks of {', '.join(found)}")


# What do they say of answers that the model gives by itself? `aisp reward check` does this on the command line.
samples = draw_samples(MODEL, PROMPTS, samples=8, max_tokens=24, seed=1)
for function in (asks_back, to_the_point):
    check = check_reward(FunctionReward(function), samples)
    print(f"{check.reward}: {check.ties.values} different values on {check.responses} answers")
    for complaint in check.complaints:
        print("  -", complaint.text)

# The one that is worth it. A function that fails would be an error here that names it and the text; on_error="exclude"
# drops such answers instead.
reward = FunctionReward(to_the_point, on_error="exclude")
for messages in PROMPTS:
    alignment = aisp.align(messages, rewards=reward, model=MODEL, budget=16, num_samples=8, max_tokens=24, seed=1)
    first = next(iter(alignment.responses))
    print(messages[0]["content"])
    print(f"  first {first.reward:5.2f}  {first.text!r}")
    print(f"  best  {alignment.best.reward:5.2f}  {alignment.text!r}  ({alignment.best.score.comment})")
