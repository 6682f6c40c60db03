"""The natural scale of a prompt: how large a perturbation makes greedy draws as free as softmax draws.

For a direction eps the argmax a of the logits l is left as soon as sigma exceeds

    sigma* = min over j with (W eps)_j > (W eps)_a of (l_a - l_j) / ((W eps)_j - (W eps)_a)

so the share of (position, direction) pairs with sigma* < sigma is the probability of leaving the argmax, and the
sigma at which it equals the mean of 1 - p_max is a quantile of sigma*: nothing has to be searched for. Monotone parts
of the head (scale, soft-cap) leave the argmax where it is, so the raw logits W z + b serve.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aisp.engines.transformers.head import Head
from aisp.noise import gaussians

_DIRECTIONS = 16
# Directions are drawn far behind any position that a response can have.
_FIRST_POSITION = 1 << 31


class ScaleMeter:
    """Measures the natural scale along one greedy response.

    Args:
        head: The LM head.
        seed: Seed of the directions.
    """

    def __init__(self, head: Head, seed: int) -> None:
        positions = torch.arange(_DIRECTIONS, device=head.device)[None] + _FIRST_POSITION
        self._shifts = head.linear(gaussians([seed], positions, head.dim)[0])  # (directions, vocab)
        self._thresholds: list[Tensor] = []
        self._leaving: list[Tensor] = []

    def observe(self, raw: Tensor, logits: Tensor) -> None:
        """Take in one position: raw logits and logits, each of shape (vocab,)."""
        best = int(raw.argmax())
        gains = self._shifts - self._shifts[:, best : best + 1]
        gaps = (raw[best] - raw)[None] / gains
        gaps[gains <= 0] = torch.inf
        self._thresholds.append(gaps.min(-1).values)
        self._leaving.append(1.0 - torch.softmax(logits, -1).max())

    def scale(self) -> float:
        """Return the natural scale, in units of pre-logits."""
        thresholds = torch.cat(self._thresholds)
        finite = thresholds[torch.isfinite(thresholds)].double()
        share = float(torch.stack(self._leaving).double().mean().clamp(1e-4, 1.0)) * thresholds.numel() / finite.numel()
        return max(float(torch.quantile(finite, min(share, 1.0))), 1e-6)
