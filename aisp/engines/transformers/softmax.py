"""Taking tokens from logits: greedy, or softmax with temperature, top-p and top-k by one uniform number a token.

A softmax is kept as differences to its largest score and their exponentials, over the whole vocabulary or over the few
tokens that truncation leaves. Nothing of the vocabulary's size is sorted unless a row needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aisp.engines.transformers.truncation import truncated
from aisp.records import Sampling

_BLOCK = 256
_LEFT = 1e-5  # share of a mass below which float32 can't tell what is left from roundings
_LEAST = -1e4  # exp of it is 0; times 0 it is no NaN, as -inf would be


@dataclass(frozen=True, slots=True)
class Softmax:
    """The distributions that n tokens are drawn from. See `softmax`.

    Args:
        scores: Logits over temperature, less the largest of their row, float32 of shape (n, k); -inf is impossible.
        masses: Their exponentials.
        log_total: Logarithm of the sum of the masses, shape (n,).
        ids: The tokens behind the columns, ascending where they are possible, shape (n, k); None for the whole
            vocabulary.
    """

    scores: Tensor
    masses: Tensor
    log_total: Tensor
    ids: Tensor | None

    def draw(self, uniform: Tensor) -> Tensor:
        """Return the tokens, int64 of shape (n,), that uniform numbers of shape (n,) choose."""
        places = inverse_cdf(self.masses, uniform)
        return places if self.ids is None else self.ids.gather(-1, places[:, None])[:, 0]

    def without(self, excluded: Mapping[int, Sequence[int]]) -> Softmax:
        """Return the distributions with some tokens made impossible, given by row; a row that has no others stays."""
        gone = torch.zeros_like(self.masses, dtype=torch.bool)
        columns = torch.arange(gone.shape[1], device=gone.device)
        for row, tokens in excluded.items():
            ids = columns if self.ids is None else self.ids[row]
            gone[row] = torch.isin(ids, torch.tensor(tokens, device=gone.device))
        total = self.masses.masked_fill(gone, 0.0).sum(-1)
        gone &= (total > _LEFT * self.masses.sum(-1))[:, None]
        masses = self.masses.masked_fill(gone, 0.0)
        return Softmax(self.scores.masked_fill(gone, -torch.inf), masses, masses.sum(-1).log_(), self.ids)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Return the log-probability of one token a row, in nats, shape (n,); -inf for one that is impossible."""
        if self.ids is None:
            chosen = self.scores.gather(-1, tokens[:, None])[:, 0]
        else:
            chosen = self.scores.masked_fill(self.ids != tokens[:, None], -torch.inf).amax(-1)
        return chosen - self.log_total

    def entropy(self) -> Tensor:
        """Return the entropies in nats, shape (n,)."""
        return (self.log_total - self.mean(self.scores.clamp(min=_LEAST))).clamp_(min=0.0)

    def mean(self, values: Tensor) -> Tensor:
        """Return the expectations of finite values of the columns, shape (n, k), as shape (n,)."""
        return (values * self.masses).sum(-1) / self.log_total.exp()

    def log_probabilities(self, vocab: int) -> Tensor:
        """Return all log-probabilities, shape (n, vocab)."""
        log_p = self.scores - self.log_total[:, None]
        if self.ids is None:
            return log_p
        return log_p.new_full((log_p.shape[0], vocab), -torch.inf).scatter_reduce_(-1, self.ids, log_p, "amax")


def softmax(logits: Tensor, sampling: Sampling) -> Softmax:
    """Return the distributions of softmax draws.

    Args:
        logits: Float32 of shape (n, vocab); -inf forbids a token. They stay as they are.
        sampling: Temperature and truncation. Greedy settings have the probabilities of temperature 1.
    """
    ids = None
    scores = logits if sampling.greedy or sampling.temperature == 1 else logits / sampling.temperature
    if not sampling.greedy and sampling.truncated:
        scores, ids = truncated(scores, sampling.top_p, sampling.top_k)
    top = scores.amax(-1, keepdim=True)
    scores = scores - top if scores is logits else scores.sub_(top)
    masses = scores.exp()
    return Softmax(scores, masses, masses.sum(-1).log_(), ids)


def log_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the log-probabilities that softmax draws have.

    Args:
        logits: Float32 of shape (n, vocab); -inf forbids a token.
        sampling: Temperature and truncation. Greedy settings have the probabilities of temperature 1.

    Returns:
        Shape (n, vocab), in nats, -inf for the tokens that truncation drops.
    """
    return softmax(logits, sampling).log_probabilities(logits.shape[-1])


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the token at which the cumulative distribution, in the vocabulary's order, passes a uniform number.

    Sums of blocks come first, so that the vocabulary is read once and no long cumulative sum loses digits.

    Args:
        probabilities: Shape (n, vocab); they need not sum to 1. A token of probability 0 is never returned.
        uniform: Shape (n,), in (0, 1).

    Returns:
        int64 of shape (n,).
    """
    n, vocab = probabilities.shape
    padded = torch.nn.functional.pad(probabilities, (0, -vocab % _BLOCK)) if vocab % _BLOCK else probabilities
    padded = padded.view(n, -1, _BLOCK)
    sums = padded.sum(-1).to(uniform.dtype)
    block, rest = _locate(sums, uniform * sums.sum(-1))
    inside = padded[torch.arange(n, device=padded.device), block].to(uniform.dtype)
    offset, _ = _locate(inside, rest)
    return (block * _BLOCK + offset).clamp_(max=vocab - 1)


def _locate(masses: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first index whose cumulative mass exceeds the target, and what of the target is left within it."""
    cumulative = masses.cumsum(-1)
    almost_all = cumulative[:, -1:] * (1 - 4 * torch.finfo(masses.dtype).eps)
    target = torch.minimum(target[:, None], almost_all)
    # Where masses are not numbers no place is found: that row's token is wrong whatever it is, which its figures show,
    # but a place outside the tensor would be an error for all rows, and on CUDA the end of the process.
    index = torch.searchsorted(cumulative, target, right=True).clamp_(max=masses.shape[-1] - 1)
    before = cumulative.gather(-1, index) - masses.gather(-1, index)
    return index[:, 0], (target - before)[:, 0].clamp_(min=0.0)
