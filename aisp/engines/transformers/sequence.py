"""What the decode thread holds of a rollout call: a `Job` with one `Row` a proposal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aisp.engines.grammar import Grammar, Matcher
from aisp.engines.stopping import StopStrings, decode
from aisp.engines.transformers.calibration import ScaleMeter
from aisp.records import TOKEN_FIGURES, FinishReason, Limits, Measure, Prefix, Proposal, Rollout, Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class CachedPrefix(Prefix):
    """A prompt with z_0, shape (dim,). Its keys and values are the tree's, or computed again if that has lost them."""

    pre_logit: Tensor


class Job:
    """One rollout call: its rows, and where its caller waits for them."""

    def __init__(
        self,
        prefix: CachedPrefix,
        proposals: Sequence[Proposal],
        limits: Limits,
        tokenizer: Any,
        grammars: Mapping[str, Grammar] | None = None,
    ) -> None:
        self.prefix = prefix
        self.limits = limits
        self.stop_strings = StopStrings(tokenizer, limits.stop)
        self.grammars = grammars or {}
        self.rows = [Row(job=self, proposal=proposal) for proposal in proposals]
        self.results: list[Rollout | None] = [None] * len(self.rows)
        self.generated = 0
        self.error: BaseException | None = None
        self.abandoned = False

    @property
    def done(self) -> bool:
        return self.error is not None or all(result is not None for result in self.results)

    @property
    def over(self) -> bool:
        """Whether its rows need not go on: failed, abandoned, cancelled, or past the deadline."""
        cancel, deadline = self.limits.cancel, self.limits.deadline
        if self.error is not None or self.abandoned or (cancel is not None and cancel.is_set()):
            return True
        return deadline is not None and time.monotonic() >= deadline


@dataclass(slots=True, eq=False)
class Row:
    """A response in the making. `ids` and `figures` begin with the kept tokens."""

    job: Job
    proposal: Proposal
    ids: list[int] = field(default_factory=list)
    figures: list[tuple[float, ...]] = field(default_factory=list)
    slot: int = -1
    forward_tokens: int = 0
    noise: Tensor | None = None
    noise_block: int = -1
    meter: ScaleMeter | None = None
    matcher: Matcher | None = None
    score_vectors: list[Tensor] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        kept = self.proposal.kept
        self.ids = list(kept.ids)
        self.figures = list(zip(*(getattr(kept, name).tolist() for name in TOKEN_FIGURES), strict=True))
        if self.proposal.grammar is not None:
            self.matcher = self.job.grammars[self.proposal.grammar].matcher()
            for token in self.ids:
                self.matcher.advance(token)

    @property
    def position(self) -> int:
        """The response position of the next token."""
        return len(self.ids)

    @property
    def remaining(self) -> int:
        """Tokens that may still come."""
        return self.job.limits.max_tokens - len(self.ids)

    @property
    def paused(self) -> bool:
        """Whether the proposal wants the response back as far as it is."""
        proposal = self.proposal
        return proposal.pause_after is not None and len(self.ids) - len(proposal.kept) >= proposal.pause_after

    @property
    def horizon(self) -> int:
        limit = self.job.limits.max_tokens
        return limit if self.proposal.horizon is None else min(self.proposal.horizon, limit)

    @property
    def excluded(self) -> tuple[int, ...]:
        """Tokens that the next one is not to be."""
        proposal = self.proposal
        return proposal.excluded if len(self.ids) == len(proposal.kept) else ()

    @property
    def perturbed(self) -> bool:
        proposal = self.proposal
        return proposal.steered and self.position < self.horizon

    def finish(self, reason: FinishReason, tokenizer: Any, measured: dict[Measure, Any]) -> None:
        """Hand the response over to the job's caller.

        Args:
            reason: Why it ended.
            tokenizer: Makes its text.
            measured: What was measured of it outside the row.
        """
        if self.meter is not None and self.ids:
            measured["natural_scale"] = self.meter.scale()
        if self.score_vectors:
            measured["score_vectors"] = self._stacked_scores()
        columns = np.array(self.figures, dtype=np.float64).reshape(len(self.ids), len(TOKEN_FIGURES)).T
        tokens = Tokens(ids=tuple(self.ids), **dict(zip(TOKEN_FIGURES, columns, strict=True)))
        rollout = Rollout(
            tokens=tokens,
            text=self.job.stop_strings.cut(decode(tokenizer, self.ids)),
            finish_reason=reason,
            forward_tokens=self.forward_tokens,
            kept_tokens=len(self.proposal.kept),
            measured=measured,
        )
        self.done = True
        self.job.results[self.job.rows.index(self)] = rollout

    def _stacked_scores(self) -> NDArray[np.float32]:
        """Return W[y_t] - E_q[W] of every position, 0 for kept tokens."""
        new = torch.stack(self.score_vectors).float().cpu().numpy()
        return np.concatenate([np.zeros((len(self.ids) - len(new), new.shape[1]), dtype=np.float32), new])
