"""The perturbations of a batch: v_t = u_t + sigma eps_t, drawn a block of positions at a time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aisp.engines.transformers.sequence import Sequence
from aisp.noise import gaussians
from aisp.records import NoiseTerm, Proposal

BLOCK = 16
"""Positions that are drawn at once: the generator's cost is in its calls, not in its numbers."""

# A round shares one mean, and the sequences of a batch are within a few blocks of each other: this is eight requests'
# at four blocks each. What falls out is drawn again.
_MEANS_KEPT = 32
# Gaussians of a mean's terms that are drawn at once: 8 MiB of float32, which a processor's cache about holds, and which
# is nothing beside the weights on a device.
_NUMBERS_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True)
class Perturbation:
    """What is added to the pre-logits of some rows.

    Args:
        rows: Places in the batch of the rows that are perturbed, ascending.
        vectors: Distinct v_t and u_t, float32 of shape (k, dim): what rows without noise share is here once.
        vector_of: For each of `rows`, the index of its v_t in `vectors`.
        mean_of: For each of `rows`, the index of its u_t, which is that of its v_t where it has no noise; -1 for none.
    """

    rows: list[int]
    vectors: Tensor
    vector_of: list[int]
    mean_of: list[int]


class Perturber:
    """Draws perturbations, and remembers the blocks of means that the sequences of a round share."""

    def __init__(self, dim: int, device: torch.device) -> None:
        self.dim = dim
        self.device = device
        self._means: OrderedDict[tuple[int, int], tuple[tuple[NoiseTerm, ...], Tensor]] = OrderedDict()

    def draw(self, sequences: list[Sequence]) -> Perturbation | None:
        """Return the perturbation of each sequence's next token; None if none has any."""
        perturbed = [place for place, sequence in enumerate(sequences) if sequence.perturbed]
        if not perturbed:
            return None
        self._refresh([sequences[place] for place in perturbed])
        vectors: list[Tensor] = []
        vector_of: list[int] = []
        mean_of: list[int] = []
        known: dict[tuple[int, int, int], int] = {}
        for place in perturbed:
            sequence = sequences[place]
            mean = self._mean_of(sequence, vectors, known)
            mean_of.append(mean)
            if sequence.proposal.scale and sequence.noise is not None:
                noise = sequence.noise[sequence.position % BLOCK]
                vectors.append(vectors[mean] + noise if mean >= 0 else noise)
                vector_of.append(len(vectors) - 1)
            else:
                vector_of.append(mean)
        return Perturbation(rows=perturbed, vectors=torch.stack(vectors), vector_of=vector_of, mean_of=mean_of)

    def _mean_of(self, sequence: Sequence, vectors: list[Tensor], known: dict[tuple[int, int, int], int]) -> int:
        """Return the place of a u_t among the vectors, where it is put if it is new; -1 where there is none."""
        mean, shift = sequence.proposal.mean, sequence.proposal.shift
        if not mean and shift is None:
            return -1
        position = sequence.position if mean or shift is None else min(sequence.position, len(shift) - 1)
        key = (id(mean), id(shift), position)
        if key not in known:
            known[key] = len(vectors)
            vectors.append(self._means_at(sequence.proposal, sequence.position, 1)[0])
        return known[key]

    def unused_mean_dot(self, sequence: Sequence) -> float:
        """Return the sum of u_t . v_t from the sequence's end to its horizon."""
        proposal, total = sequence.proposal, 0.0
        start = sequence.position
        while (proposal.mean or proposal.shift is not None) and start < sequence.horizon:
            stop = min((start // BLOCK + 1) * BLOCK, sequence.horizon)
            mean = self._means_at(proposal, start, stop - start)
            positions = torch.arange(start, stop, device=self.device)[None]
            noise = proposal.scale * gaussians([proposal.seed], positions, self.dim)[0]
            total += float((mean * (mean + noise)).sum())
            start = stop
        return total

    def _refresh(self, sequences: list[Sequence]) -> None:
        """Draw the blocks of noise that sequences have come to."""
        stale = [one for one in sequences if one.proposal.scale and one.noise_block != one.position // BLOCK]
        if not stale:
            return
        blocks = torch.tensor([one.position // BLOCK for one in stale], device=self.device)
        positions = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=self.device)
        noise = gaussians([one.proposal.seed for one in stale], positions, self.dim)
        for sequence, own in zip(stale, noise, strict=True):
            sequence.noise = sequence.proposal.scale * own
            sequence.noise_block = sequence.position // BLOCK

    def _means_at(self, proposal: Proposal, start: int, count: int) -> Tensor:
        """Return u_t for `count` positions of one block, shape (count, dim)."""
        block, offset = divmod(start, BLOCK)
        means = torch.zeros(count, self.dim, device=self.device)
        if proposal.mean:
            means = means + self._mean_block(proposal.mean, block)[offset : offset + count]
        if proposal.shift is not None:
            at = np.minimum(np.arange(start, start + count), len(proposal.shift) - 1)
            means = means + torch.from_numpy(proposal.shift[at]).to(self.device)
        return means

    def _mean_block(self, mean: tuple[NoiseTerm, ...], block: int) -> Tensor:
        """Return u_t for the positions of a block, shape (BLOCK, dim)."""
        key = (id(mean), block)
        known = self._means.get(key)
        if known is None or known[0] is not mean:
            known = (mean, self._mean(mean, block))
            self._means[key] = known
            if len(self._means) > _MEANS_KEPT:
                self._means.popitem(last=False)
        return known[1]

    def _mean(self, mean: tuple[NoiseTerm, ...], block: int) -> Tensor:
        steps = range(block * BLOCK, (block + 1) * BLOCK)
        weights = [[_weight(term, t) for t in steps] for term in mean]
        live = [i for i, row in enumerate(weights) if any(row)]
        positions = torch.tensor([list(steps)], device=self.device)
        total = torch.zeros(BLOCK, self.dim, device=self.device)
        at_once = max(1, _NUMBERS_AT_ONCE // (BLOCK * self.dim))
        for start in range(0, len(live), at_once):
            some = live[start : start + at_once]
            noise = gaussians([mean[i].seed for i in some], positions, self.dim)
            weight = torch.tensor([weights[i] for i in some], dtype=noise.dtype, device=self.device)
            total += torch.einsum("nt,ntd->td", weight, noise)
        return total


def _weight(term: NoiseTerm, position: int) -> float:
    return next((weight for stop, weight in term.spans if position < stop), 0.0)
