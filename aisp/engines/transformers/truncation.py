"""Top-k and top-p: which tokens are left, found without sorting the vocabulary where a few tokens settle it.

Both keep the first m of a row's tokens in one order, the most probable first and of equals the one with the lower id;
top-k says m, top-p takes the least m whose probability, among what top-k has left, reaches its share.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FIRST_GUESS, _GROWTH = 64, 8  # tokens that are looked at first, and how much more where they don't suffice


def truncated(scores: Tensor, top_p: float, top_k: int | None) -> tuple[Tensor, Tensor | None]:
    """Return what is left of each row.

    Args:
        scores: Logits over temperature, float32 of shape (n, vocab); -inf forbids a token.
        top_p: In (0, 1]; 1 keeps all that `top_k` has left.
        top_k: At least 1; None keeps all.

    Returns:
        Scores of shape (n, k), and the token ids behind them, of the same shape and ascending; a row that keeps fewer
        than k ends with columns of -inf. Without ids (None) k is the vocabulary.
    """
    most = scores.shape[-1] if top_k is None else min(top_k, scores.shape[-1])
    if scores.device.type != "cpu":  # a device sorts quickly, and asking it what a row needs would make it wait
        return by_sorting(scores, top_p, most), None
    return _by_guessing(scores, top_p, most)


def by_sorting(scores: Tensor, top_p: float, most: int) -> Tensor:
    """Return scores with -inf for what is dropped, shape (n, vocab): the definition, word for word."""
    values, ids = torch.sort(scores, dim=-1, descending=True, stable=True)
    values[:, most:] = -torch.inf
    dropped = torch.arange(values.shape[-1], device=values.device) >= _count(values, _total(values), top_p)[:, None]
    return torch.empty_like(scores).scatter_(-1, ids, values.masked_fill_(dropped, -torch.inf))


def _total(scores: Tensor) -> Tensor:
    """Return the sum of exp(score - top score), float64, so that it doesn't depend on the order; shape (n, 1)."""
    return (scores - scores.amax(-1, keepdim=True)).exp_().sum(-1, keepdim=True, dtype=torch.float64)


def _count(values: Tensor, total: Tensor, top_p: float) -> Tensor:
    """Return how many of the descending values, shape (n, k), reach the share top_p of a total; k where none do."""
    if top_p >= 1:
        return torch.full(values.shape[:1], values.shape[1], device=values.device)
    masses = (values - values[:, :1]).exp_().double()
    return (masses.cumsum(-1).sub_(masses) < top_p * total).sum(-1)


def _by_guessing(scores: Tensor, top_p: float, most: int) -> tuple[Tensor, Tensor]:
    """Look at a few tokens of each row, then at more of those rows that need it."""
    n, vocab = scores.shape
    rows, pieces = torch.arange(n), []
    guess = _FIRST_GUESS if most == vocab else most
    while len(rows):
        theirs = scores if len(rows) == n else scores[rows]
        guess = guess if guess <= vocab // 4 or most < vocab else vocab
        # One more than the guess, to see whether the last that is kept is tied with the first that isn't.
        wide = guess + 1
        values, ids = torch.topk(theirs, wide, dim=-1) if wide < vocab else torch.sort(theirs, dim=-1, descending=True)
        kept = _count(values[:, :guess], _total(theirs if most == vocab else values[:, :guess]), top_p)
        settled = (kept < guess) | (guess == most)
        every = bool(settled.all())
        kept, values, ids = (kept, values, ids) if every else (kept[settled], values[settled], ids[settled])
        _take_lower_ids(theirs if every else theirs[settled], values, ids, kept)
        pieces.append((rows[settled], values, ids, kept))
        rows = rows[~settled]
        guess *= _GROWTH
    return _by_id(pieces, n, vocab)


def _take_lower_ids(scores: Tensor, values: Tensor, ids: Tensor, kept: Tensor) -> None:
    """Where tokens on both sides of a row's cut are equal, put those with the lowest ids before it, in place."""
    for row, stop in enumerate(kept.tolist()):
        last = values[row, stop - 1]
        if stop < values.shape[1] and last == values[row, stop] and last > -torch.inf:
            start = int((values[row] == last).nonzero()[0])
            ids[row, start:stop] = (scores[row] == last).nonzero()[: stop - start, 0]


def _by_id(pieces: list[tuple[Tensor, Tensor, Tensor, Tensor]], n: int, vocab: int) -> tuple[Tensor, Tensor]:
    """Put what rows keep in the order of its ids."""
    width = max(int(kept.max()) for rows, _, _, kept in pieces if len(rows))
    scores, order = torch.full((n, width), -torch.inf), torch.full((n, width), vocab)
    for rows, values, ids, kept in pieces:
        k = min(width, values.shape[1])
        dropped = torch.arange(k) >= kept[:, None]
        scores[rows, :k] = values[:, :k].masked_fill(dropped, -torch.inf)
        order[rows, :k] = ids[:, :k].masked_fill(dropped, vocab)
    order, places = order.sort(dim=-1)
    return scores.gather(-1, places), order.clamp_(max=vocab - 1)
