"""Taking tokens from logits: greedy, or softmax with temperature, top-p and top-k by one uniform number a token."""

from __future__ import annotations

import torch
from torch import Tensor

from aisp.records import Sampling

_BLOCK = 256
_NUCLEUS_GUESS = 512


def log_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the log-probabilities that softmax draws have.

    Args:
        logits: Float32 of shape (n, vocab); -inf forbids a token.
        sampling: Temperature and truncation. Greedy settings have the probabilities of temperature 1.

    Returns:
        Shape (n, vocab), in nats, -inf for the tokens that truncation drops.
    """
    if sampling.greedy:
        return torch.log_softmax(logits, dim=-1)
    scaled = logits if sampling.temperature == 1 else logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kept = torch.topk(scaled, sampling.top_k, dim=-1)
        scaled = torch.full_like(scaled, -torch.inf).scatter_(-1, kept.indices, kept.values)
    log_p = torch.log_softmax(scaled, dim=-1)
    return log_p if sampling.top_p >= 1 else _nucleus(log_p, sampling.top_p)


def _nucleus(log_p: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most probable tokens that reaches `top_p`, normalised anew."""
    size = min(_NUCLEUS_GUESS, log_p.shape[-1])
    values, indices = torch.topk(log_p, size, dim=-1)
    if size < log_p.shape[-1] and bool((values.exp().sum(-1) < top_p).any()):
        values, indices = torch.sort(log_p, dim=-1, descending=True)  # a flat distribution: look at every token
    probabilities = values.exp()
    before = probabilities.cumsum(-1) - probabilities
    values = values.masked_fill(before >= top_p, -torch.inf)
    values = values - values.logsumexp(-1, keepdim=True)
    return torch.full_like(log_p, -torch.inf).scatter_(-1, indices, values)


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
    padded = torch.nn.functional.pad(probabilities, (0, -vocab % _BLOCK)).view(n, -1, _BLOCK)
    sums = padded.sum(-1).to(uniform.dtype)
    block, rest = _locate(sums, uniform * sums.sum(-1))
    inside = padded[torch.arange(n, device=padded.device), block].to(uniform.dtype)
    offset, _ = _locate(inside, rest)
    return block * _BLOCK + offset


def _locate(masses: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first index whose cumulative mass exceeds the target, and what of the target is left within it."""
    cumulative = masses.cumsum(-1)
    almost_all = cumulative[:, -1:] * (1 - 4 * torch.finfo(masses.dtype).eps)
    target = torch.minimum(target[:, None], almost_all)
    index = torch.searchsorted(cumulative, target, right=True)
    before = cumulative.gather(-1, index) - masses.gather(-1, index)
    return index[:, 0], (target - before)[:, 0].clamp_(min=0.0)
