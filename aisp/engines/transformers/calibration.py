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

# Pairs of a position and a direction are what is counted: 16 directions along 30 tokens make 480 of them, whose share
# has a standard error of 0.02 or less. More cost as many passes through the head a response.
_DIRECTIONS = 16
# Directions are drawn far behind any position that a response can have.
_FIRST_POSITION = 1 << 31
# A response whose every argmax is certain would have the quantile of share 0, which is no scale at all. One leaving in
# ten thousand is less than a response of any length shows; and a scale of 0 would mean greedy decoding.
_LEAST_SHARE, _LEAST_SCALE = 1e-4, 1e-6


class ScaleMeter:
    """Measures the natural scale along one greedy response.

    Args:
        head: The LM head.
        seed: Seed of the directions.
    """

    def __init__(self, head: Head, seed: int) -> None:
        positions = torch.arange(_DIRECTIONS, device=head.device)[None] + _FIRST_POSITION
        self._shifts = head.linear(gaussians([seed], positions, head.dim)[0])  # (directions, vocab)
        self._observed: list[tuple[Tensor, Tensor]] = []  # of each position: sigma* by direction, and 1 - p_max

    def observe(self, raw: Tensor, logits: Tensor) -> None:
        """Take in one position: raw logits and logits, each of shape (vocab,)."""
        best = int(raw.argmax())
        gains = self._shifts - self._shifts[:, best : best + 1]
        gaps = (raw[best] - raw)[None] / gains
        gaps[gains <= 0] = torch.inf
        self._observed.append((gaps.min(-1).values, 1.0 - torch.softmax(logits, -1).max()))

    def rewind(self, positions: int) -> None:
        """Forget what was seen behind the first few positions."""
        del self._observed[positions:]

    def scale(self) -> float:
        """Return the natural scale, in units of pre-logits."""
        thresholds = torch.cat([sigmas for sigmas, _ in self._observed])
        finite = thresholds[torch.isfinite(thresholds)].double()
        leaving = torch.stack([share for _, share in self._observed]).double().mean().clamp(_LEAST_SHARE, 1.0)
        share = float(leaving) * thresholds.numel() / finite.numel()
        return max(float(torch.quantile(finite, min(share, 1.0))), _LEAST_SCALE)
