"""Which sequences may join the batch, by the memory that it will come to need."""

from __future__ import annotations

from aisp.engines.transformers.batch import Batch
from aisp.engines.transformers.sequence import CachedPrefix, Sequence


class Admission:
    """Counts keys and values, in tokens: as many slots as sequences, as long as the longest, and the shared prompts.

    Args:
        batch: With the sequences that are in it.
        max_sequences: That may be in it.
        max_tokens: That slots and prompts may come to hold. A sequence that alone needs more still runs, alone.
    """

    def __init__(self, batch: Batch, max_sequences: int, max_tokens: int) -> None:
        self._batch = batch
        self._max_sequences = max_sequences
        self._max_tokens = max_tokens
        self._longest = max((batch.max_tokens_of(sequence) for sequence in batch.sequences), default=0)
        self._prompts = {one.call.prefix for one in batch.sequences if batch.shares(one.call.prefix)}
        self.admitted: list[Sequence] = []

    def fits(self, sequence: Sequence) -> bool:
        """Return whether one more sequence may join."""
        count = len(self._batch.sequences) + len(self.admitted)
        if not count:
            return True
        if count >= self._max_sequences:
            return False
        prompts = self._prompts_with(sequence)
        slots, length = self._batch.shape(len(self.admitted) + 1, self._longest_with(sequence))
        need = max(self._batch.allocated, slots * length) + sum(len(prefix.token_ids) for prefix in prompts)
        return need <= self._max_tokens

    def add(self, sequence: Sequence) -> None:
        """Count one in."""
        self._longest, self._prompts = self._longest_with(sequence), self._prompts_with(sequence)
        self.admitted.append(sequence)

    def _longest_with(self, sequence: Sequence) -> int:
        return max(self._longest, self._batch.max_tokens_of(sequence))

    def _prompts_with(self, sequence: Sequence) -> set[CachedPrefix]:
        prefix = sequence.call.prefix
        return self._prompts | ({prefix} if self._batch.shares(prefix) else set())
