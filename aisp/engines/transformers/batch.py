"""The decode batch: rows join, take one step together, and leave. Used by one thread at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aisp.engines.transformers.attention import KV, Group
from aisp.engines.transformers.calibration import ScaleMeter
from aisp.engines.transformers.decoder import Decoder
from aisp.engines.transformers.head import Head
from aisp.engines.transformers.perturbation import Perturber
from aisp.engines.transformers.prefix_cache import PrefixTree
from aisp.engines.transformers.sampler import take
from aisp.engines.transformers.sequence import CachedPrefix, Row
from aisp.engines.transformers.slot_cache import BLOCK, SlotCache, bucket, whole_blocks
from aisp.records import FinishReason, Measure


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
        self._prompts: dict[CachedPrefix, KV] = {}

    @property
    def allocated(self) -> int:
        """Keys and values that the rows' slots have room for, counted in tokens; free for others without rows."""
        return 0 if self._slots is None or not self.rows else self._slots.allocated

    def shape(self, rows: int, most: int) -> tuple[int, int]:
        """Return the slots that some more rows will take at most, and tokens of each, with what there is already."""
        if self.parts.decoder.captured is None:
            return len(self.rows) + rows, whole_blocks(most)
        # Steps in place need buckets, and slots that stay where they are unless they grow.
        slots, length = self._slots.shape if self._slots is not None and self.rows else (0, 0)
        return max(slots, bucket(len(self.rows) + rows)), max(length, bucket(most, BLOCK))

    def shares(self, prefix: CachedPrefix) -> bool:
        """Whether rows of a prompt attend to one copy of its keys and values, rather than each to its own."""
        return self.parts.decoder.sharing and len(prefix.token_ids) >= _SHARED_FROM

    def join(self, rows: Sequence[Row]) -> None:
        """Take rows in; those that keep nothing take their first token from the prompt's pre-logit at once."""
        if not rows:
            return
        fresh = []
        for row in rows:
            if row.job.prefix not in self._prompts:
                self._prompts[row.job.prefix] = self._prompt_kv(row)
        if self._slots is None:
            self._slots = SlotCache(self._prompts[rows[0].job.prefix])
        most = max(self.most(row) for row in [*self.rows, *rows])
        if self.parts.decoder.captured is None:
            self._slots.make_room(len(rows), max(self._need(row) for row in rows), most)
        else:
            self._slots.hold(self.shape(len(rows), most))
        for row in rows:
            kv = self._own_start(row, self._prompts[row.job.prefix])
            row.slot = self._slots.add(kv, self._need(row))
            self.rows.append(row)
            if "natural_scale" in row.proposal.measures and row.meter is None:
                row.meter = ScaleMeter(self.parts.head, row.proposal.seed)
            if not row.ids:
                fresh.append(row)
        self._groups = None
        self._forget_prompts()
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
        measured: dict[Measure, Any] = {}
        if "unused_mean_dot" in proposal.measures:
            measured["unused_mean_dot"] = parts.perturber.unused_mean_dot(row)
        if "bag" in proposal.measures:
            measured["bag"] = parts.head.bag(row.ids)
        self.leave(row)
        row.finish(reason, parts.tokenizer, measured)

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
            if self.parts.decoder.captured is None:  # else the next round finds its slots where they were
                self._slots = None
            self._prompts.clear()

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

    def most(self, row: Row) -> int:
        """Return how many keys and values a row can come to hold."""
        return (0 if self.shares(row.job.prefix) else len(row.job.prefix.token_ids)) + row.job.limits.max_tokens

    def _prompt_kv(self, row: Row) -> KV:
        """Return a prompt's keys and values from the tree; what that has lost is computed again, at a row's cost."""
        tokens = row.job.prefix.token_ids
        known, kv = self.parts.tree.match(tokens)
        if kv is None or known < len(tokens):
            kv, _ = self.parts.decoder.prefill(tokens[known:], kv)
            self.parts.tree.insert(tokens, kv)
            row.forward_tokens += len(tokens) - known
        return kv

    def _forget_prompts(self) -> None:
        """Let go of the prompts that no row attends to from here."""
        live = {row.job.prefix for row in self.rows if self.shares(row.job.prefix)}
        self._prompts = {prefix: kv for prefix, kv in self._prompts.items() if prefix in live}

    def _own_start(self, row: Row, prompt: KV) -> KV | None:
        """Return the keys and values that a row starts with: all its tokens' but the last's."""
        decoder, prefix = self.parts.decoder, row.job.prefix
        shared = self.shares(prefix)
        if len(row.ids) < 2:
            return None if shared else prompt
        path = (*prefix.token_ids, *row.ids[:-1])
        known, kv = self.parts.tree.match(path, start=len(prefix.token_ids))
        have = max(known, len(prefix.token_ids))
        if shared and have == len(path):
            return kv
        past = prompt if kv is None else _joined(prompt, kv)
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
            self._forget_prompts()
            self._groups = [
                Group(rows=torch.tensor(places[prefix], device=device), kv=kv) for prefix, kv in self._prompts.items()
            ]
        return self._groups


def _joined(first: KV, second: KV) -> KV:
    return [
        (torch.cat([keys, more_keys], 1), torch.cat([values, more_values], 1))
        for (keys, values), (more_keys, more_values) in zip(first, second, strict=True)
    ]


def _cut(kv: KV, start: int) -> KV:
    return [(keys[:, start:], values[:, start:]) for keys, values in kv]
