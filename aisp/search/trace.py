"""What a search found and what it cost: `Response` -> `Round` -> `Alignment`, each turned to JSON by `to_dict()`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aisp.plot import plot_alignments
from aisp.records import Candidate, Proposal, Rollout, Score
from aisp.search.html import alignment_html
from aisp.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

StoppedBy = Literal["budget", "deadline", "cancelled", "target_reward", "patience", "converged", "complete"]
"""Why a search ended. "converged": no further response was expected to gain what it costs. "complete": of one that
commits blocks, that its last one ended the response."""

_SHOWN = 60  # characters of a text in a repr


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Response:
    """One response with its score, what it was drawn from, and where in the search.

    Args:
        candidate: As the reward saw it.
        score: What the reward said.
        rollout: As the engine wrote it.
        proposal: As the strategy proposed it; None where that is not known.
        round_index: Of the round that drew it.
        row: Its place in the round.
        known: How many responses of its block the strategy had been told of when it proposed this one.
        seconds: From the search's start until it was scored.
        refused: Why the guard refused it (`aisp.search.guard`), so that it counts as vetoed; None if it did not.
    """

    candidate: Candidate
    score: Score
    rollout: Rollout
    proposal: Proposal | None = None
    round_index: int
    row: int
    known: int = 0
    seconds: float = 0.0
    refused: str | None = None

    @property
    def text(self) -> str:
        return self.candidate.text

    @property
    def reward(self) -> float:
        return self.score.value

    @property
    def kl_to_base(self) -> float:
        """Nats that the steering moved the policy along this response, selection not counted."""
        return float(self.rollout.tokens.kl_to_base.sum())

    @property
    def log_prob(self) -> float:
        """Log-probability of the response under the base model at temperature 1, in nats."""
        return float(self.rollout.tokens.log_prob.sum())

    def __repr__(self) -> str:
        unusable = ", vetoed=True" * self.score.vetoed + ", error=..." * (self.score.error is not None)
        return (
            f"Response(text={_shortened(self.text)!r}, reward={self.reward:.4g}{unusable}, "
            f"round_index={self.round_index}, row={self.row})"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "reward": _number(self.reward),
            "parts": {name: _number(part) for name, part in self.score.parts.items()},
            "comment": self.score.comment,
            "vetoed": self.score.vetoed,
            "error": self.score.error,
            "round": self.round_index,
            "row": self.row,
            "seconds": round(self.seconds, 4),
            "refused": self.refused,
            "finish_reason": self.rollout.finish_reason,
            "tokens": len(self.rollout.tokens),
            "log_prob": _number(self.log_prob),
            "kl_to_base": _number(self.kl_to_base),
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Round:
    """One round of the search; of one that goes without, as many responses as were in flight at once.

    Args:
        index: From 0.
        responses: In the order of the proposals; without rounds, in the order in which they ended.
        best: The best response of this and all earlier rounds (of its block, where blocks are committed); None while
            every one was vetoed or excluded.
        ess: Effective sample size of the round's weights; None where the strategy has none.
        reward_temperature: lambda, in the reward's unit; None where there is none.
        seconds: Wall-clock, generation and scoring.
        block: Which block of the response it searched for; 0 where there is one.
        start: The response position that the block begins at: tokens before it were committed, not drawn.
        committed: Text that is settled with this round: the final text begins with what all rounds so far committed.
    """

    index: int
    responses: tuple[Response, ...]
    best: Response | None
    ess: float | None
    reward_temperature: float | None
    seconds: float
    block: int = 0
    start: int = 0
    committed: str = ""

    @property
    def usable(self) -> tuple[Response, ...]:
        return tuple(response for response in self.responses if response.score.usable)

    @property
    def mean_reward(self) -> float | None:
        return float(np.mean([response.reward for response in self.usable])) if self.usable else None

    @property
    def best_reward(self) -> float | None:
        return max((response.reward for response in self.usable), default=None)

    @property
    def forward_tokens(self) -> int:
        return sum(response.rollout.forward_tokens for response in self.responses)

    def __repr__(self) -> str:
        best = "None" if self.best is None else f"{self.best.reward:.4g}"
        return f"Round(index={self.index}, responses={len(self.responses)}, best={best}, seconds={self.seconds:.3g})"

    def to_dict(self) -> dict[str, Any]:
        errors = [response.score.error for response in self.responses if response.score.error is not None]
        return {
            "responses": len(self.responses),
            "distinct": len({response.text for response in self.responses}),
            "vetoed": sum(response.score.vetoed for response in self.responses),
            "excluded": errors,
            "mean_reward": _number(self.mean_reward),
            "best_reward": _number(self.best_reward),
            "best_so_far": None if self.best is None else _number(self.best.reward),
            "ess": _number(self.ess),
            "reward_temperature": _number(self.reward_temperature),
            "kl_to_base": _number(float(np.mean([response.kl_to_base for response in self.responses]))),
            "forward_tokens": self.forward_tokens,
            "seconds": round(self.seconds, 4),
            "block": self.block,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a search cost.

    Args:
        responses: Responses generated and scored: what the budget counts. Where blocks are committed, the responses
            that a block was chosen from count each.
        forward_tokens: Response tokens that the model's body was run over.
        prompt_tokens: Tokens of the prompt.
        seconds: Wall-clock, from the prefill to the last score.
    """

    responses: int
    forward_tokens: int
    prompt_tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "responses": self.responses,
            "forward_tokens": self.forward_tokens,
            "prompt_tokens": self.prompt_tokens,
            "seconds": round(self.seconds, 4),
        }


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Alignment:
    """The best response (or the one that a selection rule drew), what it was chosen from, and what that cost.

    `expected_gain` is that of one more response, in standard deviations of the reward over plain samples (of the last
    block, where blocks are committed); None where too little is known to tell.
    """

    best: Response
    rounds: tuple[Round, ...]
    stopped_by: StoppedBy
    cost: Cost
    strategy: str
    seed: int
    budget: int
    reward: str | None
    guarded: bool = False
    expected_gain: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.best.text

    @property
    def responses(self) -> Iterator[Response]:
        """Every response of every round, in the order in which they were drawn."""
        return (response for round_ in self.rounds for response in round_.responses)

    @property
    def refused(self) -> tuple[Response, ...]:
        """What the guard refused, since it does not read like the model's plain samples."""
        return tuple(response for response in self.responses if response.refused is not None)

    @property
    def selection_kl_bound(self) -> float:
        """log n - (n-1)/n nats, a block: what choosing the best of n adds at most, apart from the steering."""
        drawn = Counter(round_.block for round_ in self.rounds for _ in round_.responses)
        return sum(math.log(n) - (n - 1) / n for n in drawn.values())

    def __repr__(self) -> str:
        reward = "None" if self.reward is None else f"{self.best.reward:.4g}"
        return (
            f"Alignment(text={_shortened(self.text)!r}, reward={reward}, strategy={self.strategy!r}, "
            f"rounds={len(self.rounds)}, responses={self.cost.responses}, stopped_by={self.stopped_by!r})"
        )

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the answer, its reward and the rounds."""
        return alignment_html(self)

    def summary(self) -> dict[str, Any]:
        """Return what a message carries in `response_metadata["aisp"]`: JSON, without the candidates' texts."""
        return {
            "version": __version__,
            "strategy": self.strategy,
            "seed": self.seed,
            "budget": self.budget,
            "stopped_by": self.stopped_by,
            "expected_gain": _number(self.expected_gain),
            "reward": None if self.reward is None else _number(self.best.reward),
            "parts": {name: _number(part) for name, part in self.best.score.parts.items()},
            "guard": self._guard_summary(),
            "warnings": list(self.warnings),
            "kl_to_base": _number(self.best.kl_to_base),
            "selection_kl_bound": self.selection_kl_bound,
            "rounds": [round_.to_dict() for round_ in self.rounds],
            "cost": self.cost.to_dict(),
        }

    def _guard_summary(self) -> dict[str, Any] | None:
        if not self.guarded:
            return None
        refused = self.refused
        return {
            "refused": len(refused),
            "best_refused_reward": _number(max((response.reward for response in refused), default=None)),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything, the candidates' texts too, as JSON."""
        return {
            **self.summary(),
            "reward_name": self.reward,
            "best": self.best.to_dict(),
            "candidates": [response.to_dict() for response in self.responses],
        }

    def best_so_far(self) -> list[tuple[int, float]]:
        """Return (responses drawn, best reward so far) after each response, from the first that has one."""
        points: list[tuple[int, float]] = []
        best: Response | None = None
        for drawn, response in enumerate(self.responses, start=1):
            best = best_of([response], best)
            if best is not None:
                points.append((drawn, best.reward))
        return points

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw reward against budget: every response as a dot, the best so far as a line. Needs matplotlib.

        Args:
            path: Where to save the picture, by its suffix; None saves nothing.
        """
        return plot_alignments({self.strategy: self}, path)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _number(value: float | None) -> float | None:
    """Return a number that JSON can hold: None for none and for NaN (a candidate that could not be scored)."""
    return None if value is None or not math.isfinite(value) else float(value)


def best_of(responses: Sequence[Response], so_far: Response | None = None, *, paused: bool = False) -> Response | None:
    """Return the usable response of the highest reward, complete unless `paused`; the one drawn first wins a tie."""
    best = so_far
    for response in responses:
        ready = response.score.usable and (paused or not response.rollout.paused)
        if ready and (best is None or response.reward > best.reward):
            best = response
    return best
