"""How much memory a batch will come to need, if more rows join it."""

from __future__ import annotations

from aisp.engines.transformers.batch import Batch
from aisp.engines.transformers.sequence import Row


class Load:
    """Keys and values, in tokens: as many slots as rows, as long as the longest, and the prompts that they share.

    Args:
        batch: With the rows that are in it.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._joining = 0
        self._longest = max((batch.most(row) for row in batch.rows), default=0)
        self._prompts = {row.job.prefix for row in batch.rows if batch.shares(row.job.prefix)}

    def take(self, row: Row, max_tokens: int) -> bool:
        """Count a row in, unless it would go beyond a number of tokens; the first is always taken."""
        longest = max(self._longest, self._batch.most(row))
        prompts = self._prompts | ({row.job.prefix} if self._batch.shares(row.job.prefix) else set())
        slots, length = self._batch.shape(self._joining + 1, longest)
        need = max(self._batch.allocated, slots * length) + sum(len(prefix.token_ids) for prefix in prompts)
        if need > max_tokens and (self._batch.rows or self._joining):
            return False
        self._joining, self._longest, self._prompts = self._joining + 1, longest, prompts
        return True
