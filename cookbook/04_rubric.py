"""Steer by a rubric: criteria in words, read by a local judge that generates nothing, and how well it resists flattery.

Run it with `python cookbook/04_rubric.py`; it takes under a minute on two cores.
"""

import aisp
from aisp.models import load
from aisp.rewards import Criterion, LocalJudge, Rubric
from aisp.rewards.judge_attacks import INJECTIONS, NEUTRAL, injection_shift, weak_candidates

rubric = Rubric(
    purpose="Answers of a library's help desk.",
    criteria=[
        Criterion(name="kind", description="Is the answer friendly?"),
        # A criterion may weigh more, and may have levels of its own, from worst to best.
        Criterion(
            name="useful",
            description="Does the answer say what to do?",
            weight=2.0,
            levels=("no", "in part", "yes"),
        ),
    ],
)

# The verdict is the level that the judge's own probabilities expect: graded, and the same every time. A judge of 135M
# parameters knows little; give the largest that you have. With a chat model behind an API it would be
# aisp_langchain.rewards.RubricJudge(ChatOpenAI(...), rubric), which asks for the levels in a schema.
judge = LocalJudge(rubric, model="smollm2-135m", dtype="float32")

alignment = aisp.align(
    "I lost a book that I borrowed. What now?",
    rewards=judge,
    model=load("smollm2-135m", dtype="float32"),
    budget=6,
    num_samples=3,
    max_tokens=32,
    temperature=0.5,
    seed=1,
)
for response in sorted(alignment.responses, key=lambda response: -response.reward):
    parts = {name: round(share, 3) for name, share in response.score.parts.items()}
    print(f"{response.reward:.3f} {parts} {response.text[:70]!r}")

# Can the judge be talked round? Answers that deserve little, with and without words that are meant for the judge; and
# with harmless words, since anything that is appended may move a verdict. `aisp reward injections` tries all of them.
shift = injection_shift(judge, weak_candidates()[:2], INJECTIONS[:4], neutral=NEUTRAL[:2])
print(f"a weak answer gets {shift.plain:.3f}; injections change that by {shift.mean:+.3f}, harmless words by", end=" ")
print(f"{shift.neutral:+.3f}; the largest rise, {shift.largest:+.3f}, is due to {shift.worst!r}")
