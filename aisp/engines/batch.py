"""The decode batch: rows join, take one step together, and leave. Used by one thread at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aisp.engines.attention import KV, Group
from aisp.engines.calibration import ScaleMeter
from aisp.engines.decoder import Decoder
from aisp.engines.head import Head
from aisp.engines.perturb import Perturber
from aisp.engines.rows import CachedPrefix, Row
from aisp.engines.slots import SlotCache
from aisp.engines.take import take
from aisp.engines.tree import PrefixTree
from aisp.records import FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an engine is made of."""

    decoder: Decoder
    head: Head
    perturber: Perturber
    tree: PrefixTree
    tokenizer: Any
    eos_token_ids: frozenset[int]


# Below this, attending to a copy of the prompt in every row is quicker than merging two parts: measured on 2 cores
# with the heads of SmolLM2-135M, the two cross at 128 tokens for 32 rows and at 300 for 8.
_SHARED_FROM = 128


class Batch:
    """The rows that are being decoded, in the order of their slots."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.rows: list[Row] = []
        self._slots: SlotCache | None = None
        self._groups: list[Group] | None = None

    def shares(self, prefix: CachedPrefix) -> bool:
        """Whether rows of a prompt attend to one copy of its keys and values, rather than each to its own."""
        return self.parts.decoder.sharing and len(prefix.token_ids) >= _SHARED_FROM

    def join(self, rows: Sequence[Row]) -> None:
        """Take rows in; those that keep nothing take their first token from the prompt's pre-logit at once."""
        if not rows:
            return
        fresh = []
        if self._slots is None:
            self._slots = SlotCache(rows[0].job.prefix.kv)
        self._slots.make_room(len(rows), max(self._need(row) for row in rows))
        for row in rows:
            kv = self._own_start(row)
            row.slot = self._slots.add(kv, self._need(row))
            self.rows.append(row)
            if row.proposal.measure_scale and row.meter is None:
                row.meter = ScaleMeter(self.parts.head, row.proposal.seed)
            if not row.ids:
                fresh.append(row)
        self._groups = None
        if fresh:
            self._take(fresh, torch.stack([row.job.prefix.pre_logit for row in fresh]))

    def step(self) -> None:
        """Run the model over every row's last token, and take the next."""
        rows = list(self.rows)
        if not rows or self._slots is None:
            return
        prompts = [len(row.job.prefix.token_ids) for row in rows]
        positions = [prompt + len(row.ids) - 1 for prompt, row in zip(prompts, rows, strict=True)]
        tokens = [row.ids[-1] for row in rows]
        pre_logits = self.parts.decoder.step(self._slots, tokens, positions, self._grouped())
        for row in rows:
            row.forward_tokens += 1
        self._take(rows, pre_logits.to(self.parts.head.device))

    def finish(self, row: Row, reason: FinishReason) -> None:
        """Hand a row's response over and free its slot."""
        proposal, parts = row.proposal, self.parts
        if proposal.retain and reason != "cancelled":
            self._remember(row)
        unused = parts.perturber.unused_mean_dot(row) if proposal.measure_unused else 0.0
        bag = parts.head.bag(row.ids) if proposal.measure_bag else None
        self.leave(row)
        row.finish(reason, parts.tokenizer, unused, bag)

    def leave(self, row: Row) -> None:
        """Free a row's slot, whatever becomes of the row."""
        if self._slots is None or row.slot < 0:  # it never joined
            return
        self._slots.remove(row.slot)
        self.rows[row.slot] = self.rows[-1]
        self.rows[row.slot].slot = row.slot
        self.rows.pop()
        row.slot = -1
        self._groups = None
        if not self.rows:
            self._slots = None

    def _take(self, rows: Sequence[Row], pre_logits: Tensor) -> None:
        parts = self.parts
        taken = take(parts.head, parts.perturber, rows, pre_logits)
        ended: list[tuple[Row, FinishReason]] = []
        for row, (token, figures) in zip(rows, taken, strict=True):
            row.ids.append(token)
            row.figures.append(figures)
            job = row.job
            job.generated += 1
            if row.matcher is not None:
                row.matcher.advance(token)
            complete = row.matcher is not None and row.matcher.done
            if complete or token in parts.eos_token_ids or job.stop_strings.hit(row.ids):
                ended.append((row, "stop"))
            elif len(row.ids) >= job.limits.max_tokens:
                ended.append((row, "length"))
            elif row.paused:
                ended.append((row, "paused"))
        # From the last slot down: what moves into a freed slot is then never a row that ends as well.
        for row, reason in sorted(ended, key=lambda end: -end[0].slot):
            self.finish(row, reason)

    def _need(self, row: Row) -> int:
        """Return how many keys and values a row will hold soon: its kept tokens', and the first new ones'."""
        prompt = 0 if self.shares(row.job.prefix) else len(row.job.prefix.token_ids)
        return prompt + len(row.ids) + min(64, row.job.limits.max_tokens - len(row.ids))

    def _own_start(self, row: Row) -> KV | None:
        """Return the keys and values that a row starts with: all its tokens' but the last's."""
        decoder, prefix = self.parts.decoder, row.job.prefix
        shared = self.shares(prefix)
        if len(row.ids) < 2:
            return None if shared else prefix.kv
        path = (*prefix.token_ids, *row.ids[:-1])
        known, kv = self.parts.tree.match(path, start=len(prefix.token_ids))
        have = max(known, len(prefix.token_ids))
        if shared and have == len(path):
            return kv
        past = prefix.kv if kv is None else _joined(prefix.kv, kv)
        if have < len(path):
            past, _ = decoder.prefill(path[have:], past)
            row.forward_tokens += len(path) - have
        return _cut(past, len(prefix.token_ids)) if shared else past

    def _remember(self, row: Row) -> None:
        """Put a finished row's keys and values into the tree, behind its prompt's."""
        if self._slots is None:
            return
        prompt = len(row.job.prefix.token_ids)
        length = self._slots.lengths[row.slot]
        start = 0 if self.shares(row.job.prefix) else prompt
        if length > start:
            path = (*row.job.prefix.token_ids, *row.ids[: length - start])
            self.parts.tree.insert(path, self._slots.export(row.slot, start, length), start=prompt)

    def _grouped(self) -> list[Group]:
        if self._groups is None:
            places: dict[CachedPrefix, list[int]] = {}
            for place, row in enumerate(self.rows):
                places.setdefault(row.job.prefix, []).append(place)
            device = self.parts.decoder.device
            self._groups = [
                Group(rows=torch.tensor(rows, device=device), kv=prefix.kv)
                for prefix, rows in places.items()
                if self.shares(prefix)
            ]
        return self._groups


def _joined(first: KV, second: KV) -> KV:
    return [
        (torch.cat([keys, more_keys], 1), torch.cat([values, more_values], 1))
        for (keys, values), (more_keys, more_values) in zip(first, second, strict=True)
    ]


def _cut(kv: KV, start: int) -> KV:
    return [(keys[:, start:], values[:, start:]) for keys, values in kv]
