"""The guard: what is returned, and what is restarted from, reads like the model's own text.

A reward says what is better, not what is text. The further a search gets, the more it finds where the reward can be
fooled: a loop of praise, or a salad of it. The model's plain samples, which every search begins with, show what it
writes by itself to this prompt. A response that repeats itself more than they do, or that holds a passage which is less
or more surprising to the model than any of theirs, counts as vetoed.

Repetition is what tells most: of the responses of unguarded searches that were outside of the bounds, 85 % repeated
themselves (16 searches of 64 tokens). Surprisal alone misses loops whose tokens keep some of it.

Nothing has to be set. Where the prompt asks for a refrain or a table, plain samples repeat themselves, and it is
allowed. What no text shows is no matter of the guard: a reward that likes evasions gets evasions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aisp.records import Proposal, Rollout, Sampling
from aisp.search.scoring import vetoed
from aisp.search.trace import Response
from aisp.search.typicality import SPAN, WINDOW, greatest_typical, repetition, window_surprisals

PLAIN_SAMPLES = 16
"""Plain samples that bound the rest."""
FEWEST_SAMPLES = 4
"""With fewer, their range says next to nothing, and nothing is refused."""
# Of the bound on repetition. Below the first share a run says one short phrase twice, which is no loop. From the second
# on it is one, unless most plain samples go that far: a small model's own loops among them excuse no others.
_HARMLESS, _LOOP = 0.2, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What plain samples allow.

    Args:
        least: Surprisal of any run of 12 tokens, in nats a token.
        greatest: The same, at most.
        spread: Standard deviation of the samples' most surprising runs. A response that is drawn as they are may be
            rarer than sixteen others by as much: it is the model's language, if not its habit.
        repetition: Share of pairs of tokens, in any run of 32, that were said before.
    """

    least: float
    greatest: float
    spread: float
    repetition: float

    def refuse(self, rollout: Rollout, *, plainly: bool = False) -> str | None:
        """Return why a response is not typical of the model; None if it is, or is too short to tell.

        Args:
            rollout: The response.
            plainly: Whether its tokens were drawn as those of plain samples are.
        """
        tokens = rollout.tokens
        if len(tokens) <= WINDOW:
            return None
        said_again = repetition(tokens.ids)
        if said_again > self.repetition:
            return (
                f"repeats itself: in a run of {SPAN} tokens {said_again:.0%} of the pairs were said before, in those "
                f"of plain samples at most {self.repetition:.0%}"
            )
        surprisals = window_surprisals(tokens.log_prob)
        least, greatest = (0.0, self.greatest + self.spread) if plainly else (self.least, self.greatest)
        if least <= surprisals.min() and surprisals.max() <= greatest:
            return None
        odd, known, most = (
            (surprisals.max(), greatest, "most") if surprisals.max() > greatest else (surprisals.min(), least, "least")
        )
        return (
            f"not the model's language: {odd:.2f} nats a token in a run of {WINDOW}, in those of plain samples at "
            f"{most} {known:.2f}"
        )


def bounds_of(plain: Sequence[Rollout]) -> Bounds | None:
    """Return what plain samples of a prompt allow; None where they are too few or too short to tell.

    One outlier in sixteen is left out on each side, since a model's own samples go wrong as well.
    """
    long_enough = [rollout.tokens for rollout in plain if len(rollout.tokens) > WINDOW]
    if len(long_enough) < FEWEST_SAMPLES:
        return None
    windows = [window_surprisals(tokens.log_prob) for tokens in long_enough]
    least, greatest = (np.array([pick(own) for own in windows]) for pick in (np.min, np.max))
    repetitions = np.array([repetition(tokens.ids) for tokens in long_enough])
    most = max(_LOOP, float(np.median(repetitions)))
    return Bounds(
        least=-greatest_typical(-least),
        greatest=greatest_typical(greatest),
        spread=float(greatest.std(ddof=1)),
        repetition=float(np.clip(greatest_typical(repetitions), _HARMLESS, most)),
    )


class Guard:
    """Learns what plain samples allow, and judges every response by it. One serves one block of a search.

    Nothing is refused before the plain samples are there: `learn` and `close` return the bounds once they are, and
    what came before is to be judged then, the plain samples too.
    """

    def __init__(self) -> None:
        self._plain: list[Rollout] = []
        self._samplings: set[Sampling] = set()
        self._known = False
        self._bounds: Bounds | None = None

    def learn(self, responses: Sequence[Response]) -> Bounds | None:
        """Take in responses, and return the bounds if they are known now and were not before."""
        if self._known:
            return None
        plain = [response for response in responses if is_plain(response)]
        self._samplings |= {r.proposal.sampling for r in plain if r.proposal is not None}
        self._plain += [response.rollout for response in plain[: PLAIN_SAMPLES - len(self._plain)]]
        complete = len(self._plain) == PLAIN_SAMPLES or len(plain) < len(responses)
        return self.close() if complete else None

    def close(self) -> Bounds | None:
        """Make do with the plain samples that there are, and return the bounds if they were not known before."""
        if self._known:
            return None
        self._known = True
        self._bounds = bounds_of(self._plain)
        return self._bounds

    def judged(self, response: Response) -> Response:
        """Return a response as the guard sees it: what it refuses counts as vetoed."""
        if self._bounds is None or not response.score.usable:
            return response
        why = self._bounds.refuse(response.rollout, plainly=self._is_drawn_plainly(response))
        return response if why is None else replace(response, score=vetoed(response.score, why), refused=why)

    def _is_drawn_plainly(self, response: Response) -> bool:
        """Return whether a response was drawn as plain samples are, also if it may not begin as others did."""
        proposal = response.proposal
        return proposal is not None and not proposal.steered and proposal.sampling in self._samplings


def is_plain(response: Response) -> bool:
    """Return whether a response is a sample of the model, written to its end."""
    proposal = response.proposal
    return proposal is not None and begins_plainly(proposal) and not response.rollout.paused


def begins_plainly(proposal: Proposal) -> bool:
    """Return whether a sample of the model is asked for."""
    return not (proposal.sampling.greedy or proposal.kept.ids or proposal.excluded or proposal.steered)
