"""Align one prompt, without LangChain: ask, search, and read what the search found.

Run it with `python cookbook/01_align_one_prompt.py`; it takes under a minute on two cores.
"""

import aisp
from aisp.rewards import Avoids, Length, Sentiment, veto

# The measure: warm, of 15 to 35 words, and never with this phrase. Parts keep their names.
reward = Sentiment(measure="balance") + 0.5 * Length(15, 35) + veto(Avoids("as an AI"))

# 24 responses are written and scored; the best is returned. Equal seeds give equal answers.
alignment = aisp.align("Cheer me up, please.", rewards=reward, budget=24, max_tokens=40, seed=3)

print(alignment.text)
print()
print("reward", round(alignment.best.reward, 3), {k: round(v, 3) for k, v in alignment.best.score.parts.items()})
print("stopped by", alignment.stopped_by, "after", alignment.cost.responses, "responses")

# Every response is there, with its score and when it was scored: what else could have been said?
ranked = sorted(alignment.responses, key=lambda response: response.reward, reverse=True)
for response in ranked[:3]:
    print(f"{response.reward:6.3f}  after {response.seconds:4.1f} s  {response.text[:60]!r}")

# How the search went, in portions of what is in the making at once: plain samples first, then restarts from the best.
for round_ in alignment.rounds:
    ess = "  - " if round_.ess is None else f"{round_.ess:4.1f}"
    print(f"{len(round_.responses):2d} responses, effective sample size {ess}, mean reward {round_.mean_reward:.3f}")
