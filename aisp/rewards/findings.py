"""What the scores of one search say about its reward, in words. The thresholds are those of `aisp reward check`."""

from __future__ import annotations

from collections.abc import Sequence

from aisp.records import Score

LEAST_RESPONSES = 8
"""Different responses that it takes to say something of a reward.

If a reward told one response in three from the others, eight responses would look alike in 4 % of searches,
(2/3)^8 + (1/3)^8; four would in 21 %.
"""
VETOED_FRACTION = 0.8
"""Of responses: from this share of vetoes on, a search finds little to return."""


def findings(scores: Sequence[Score], texts: Sequence[str] | None = None) -> list[str]:
    """Return what is wrong with a reward that scored these responses of one prompt.

    Args:
        scores: All scores of a search.
        texts: The responses' texts, as many. Equal responses count once, since no reward can tell them apart. None
            takes all as different.

    Returns:
        Sentences: that it calls all or nearly all responses bad, that it failed on as many, or that it never told two
        of them apart. None where there are fewer than `LEAST_RESPONSES` different responses, or nothing is wrong.
    """
    if texts is not None:
        scores = list(dict(zip(texts, scores, strict=True)).values())
    count = len(scores)
    if count < LEAST_RESPONSES:
        return []
    failed = sum(score.error is not None for score in scores)
    vetoed = sum(score.vetoed and score.error is None for score in scores)
    found = [
        f"the reward {what} {_of(number, count)}; {so}"
        for number, what, so in (
            (vetoed, "vetoes", "a search finds little to return: look at the rule, or at what the prompt asks for"),
            (failed, "can't score", "a search finds little to return: look at the errors in the trace"),
        )
        if number >= VETOED_FRACTION * count
    ]
    values = {score.value for score in scores if score.usable}
    if len(values) == 1 and count - failed - vetoed >= LEAST_RESPONSES:
        found.append(
            f"the reward gives all {count - failed - vetoed} different responses exactly {values.pop():g}, so there is "
            "nothing to search for; try it with `aisp reward check`"
        )
    return found


def _of(number: int, count: int) -> str:
    return f"all {count} different responses" if number == count else f"{number} of {count} different responses"
