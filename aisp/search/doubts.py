"""What a search finds doubtful, in words: of the reward, and of the answer that it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from aisp.rewards.findings import findings
from aisp.search.guard import PLAIN_SAMPLES, is_plain
from aisp.search.trace import Response

# Plain samples whose range says something: one more lies outside of it in 2 of 9 searches, whatever the measure.
_FEWEST = 8


def doubts(best: Response, responses: Sequence[Response]) -> tuple[list[str], list[str]]:
    """Return what is doubtful of the reward, and of the answer.

    Args:
        best: The answer.
        responses: All responses of the search.
    """
    # What the guard refused is no verdict of the reward's.
    scores = [replace(r.score, vetoed=False) if r.refused is not None else r.score for r in responses]
    of_reward = findings(scores, [response.text for response in responses])
    of_answer = _outside(best, [response for response in responses if is_plain(response)][:PLAIN_SAMPLES])
    if best.refused is not None:
        of_answer.append(f"the guard refused every response that the reward allows; this one {best.refused}")
    return of_reward, of_answer


def _outside(best: Response, plain: Sequence[Response]) -> list[str]:
    """Return where an answer lies outside the range of plain samples, on measures that cost nothing."""
    if len(plain) < _FEWEST:
        return []
    measures: tuple[tuple[str, str, Callable[[Response], float]], ...] = (
        ("is {:.0f} tokens long", "{:.0f} to {:.0f}", lambda response: float(len(response.rollout.tokens))),
        ("has {:.2f} nats of surprisal a token", "{:.2f} to {:.2f}", _mean_surprisal),
    )
    found = []
    for said, ranged, measure in measures:
        value, known = measure(best), [measure(response) for response in plain]
        if not min(known) <= value <= max(known):
            found.append(
                f"the answer {said.format(value)}, {len(known)} plain samples {ranged.format(min(known), max(known))}: "
                "if that is not what you reward, the reward can be fooled there"
            )
    return found


def _mean_surprisal(response: Response) -> float:
    return -response.log_prob / max(len(response.rollout.tokens), 1)
