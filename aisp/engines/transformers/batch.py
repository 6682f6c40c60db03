"""The decode batch: sequences join, take one step together, and leave. Used by one thread at a time.

What goes wrong with one sequence is that sequence's: its flight fails and the others go on. What can't be told to be
one sequence's is raised, and then the batch is not to be used again; the scheduler builds another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aisp.engines.transformers.attention import KV, Group
from aisp.engines.transformers.calibration import ScaleMeter
from aisp.engines.transformers.decoder import Decoder
from aisp.engines.transformers.head import Head
from aisp.engines.transformers.memory import out_of_memory
from aisp.engines.transformers.perturbation import Perturber
from aisp.engines.transformers.prefix_cache import PrefixCache
from aisp.engines.transformers.sampler import Sampled, sample
from aisp.engines.transformers.sequence import CachedPrefix, Sequence, sequence_error
from aisp.engines.transformers.slot_cache import BLOCK, SlotCache, bucket, whole_blocks
from aisp.errors import EngineError
from aisp.records import TOKEN_FIGURES, FinishReason, Measure

# Below this, attending to a copy of the prompt in every row is quicker than merging two parts: measured on 2 cores
# with the heads of SmolLM2-135M, the two cross at 128 tokens for 32 rows and at 300 for 8.
SHARED_FROM = 128

# New tokens that a joining row is given room for at once: one block, so that short responses never move, and a batch
# of long ones doesn't take at its start what it may never fill.
_SOON = BLOCK

_FINITE = tuple(TOKEN_FIGURES.index(name) for name in ("log_prob", "kl_to_base", "entropy"))
"""Figures that have a finite value for every token that can be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an engine is made of."""

    decoder: Decoder
    head: Head
    perturber: Perturber
    prefix_cache: PrefixCache
    tokenizer: Any
    eos_token_ids: frozenset[int]

    def free(self) -> None:
        """Let go of everything that is only kept to be quicker."""
        self.prefix_cache.clear()
        self.decoder.forget_captured()


class Batch:
    """The sequences that are being decoded, in the order of their slots."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.sequences: list[Sequence] = []
        self.spoilt = False
        """Whether numbers that are not finite may have come into its buffers, where others' would meet them."""
        self._slots: SlotCache | None = None
        self._groups: list[Group] | None = None
        self._prompts: dict[CachedPrefix, KV] = {}

    @property
    def allocated(self) -> int:
        """Keys and values that the slots have room for, counted in tokens; free for others without sequences."""
        return 0 if self._slots is None or not self.sequences else self._slots.allocated

    @property
    def nbytes(self) -> int:
        """What its keys and values take, those of the prompts included."""
        prompts = {id(tensor): tensor.nbytes for kv in self._prompts.values() for pair in kv for tensor in pair}
        return (0 if self._slots is None else self._slots.nbytes) + sum(prompts.values())

    def shape(self, joining: int, longest: int) -> tuple[int, int]:
        """Return the slots that some more sequences will take at most, and tokens of each, with what is there."""
        if self.parts.decoder.captured is None:
            return len(self.sequences) + joining, whole_blocks(longest)
        # Steps in place need buckets, and slots that stay where they are unless they grow.
        slots, length = self._slots.shape if self._slots is not None and self.sequences else (0, 0)
        return max(slots, bucket(len(self.sequences) + joining)), max(length, bucket(longest, BLOCK))

    def shares(self, prefix: CachedPrefix) -> bool:
        """Whether rows of a prompt attend to one copy of its keys and values, rather than each to its own."""
        return self.parts.decoder.sharing and len(prefix.token_ids) >= SHARED_FROM

    def max_tokens_of(self, sequence: Sequence) -> int:
        """Return how many keys and values a sequence can come to hold."""
        return self._prompt_tokens(sequence) + sequence.call.limits.max_tokens

    def tokens_soon(self, sequence: Sequence) -> int:
        """Return how many keys and values a sequence will hold soon: its tokens', and the first new ones'."""
        return self._prompt_tokens(sequence) + len(sequence.ids) + min(_SOON, sequence.remaining)

    def join(self, sequences: list[Sequence]) -> None:
        """Take sequences in; those without a token take their first from the prompt's pre-logit at once."""
        if not sequences:
            return
        for sequence in sequences:
            if sequence.call.prefix not in self._prompts:
                self._prompts[sequence.call.prefix] = self._prompt_kv(sequence)
        if self._slots is None:
            self._slots = SlotCache(self._prompts[sequences[0].call.prefix])
        longest = max(self.max_tokens_of(sequence) for sequence in [*self.sequences, *sequences])
        captured = self.parts.decoder.captured
        if captured is None:
            self._slots.make_room(len(sequences), max(map(self.tokens_soon, sequences)), longest)
        elif (shape := self.shape(len(sequences), longest)) != self._slots.shape:
            captured.forget_steps()
            self._slots.resize(*shape)
        for sequence in sequences:
            self._take_in(sequence, self._slots)
        self._groups = None
        self._forget_prompts()
        fresh = [sequence for sequence in sequences if not sequence.ids]
        if fresh:
            self._take_tokens(fresh, torch.stack([sequence.call.prefix.pre_logit for sequence in fresh]))

    def step(self) -> None:
        """Run the model over every sequence's last token, and take the next."""
        sequences = list(self.sequences)
        if not sequences or self._slots is None:
            return
        positions = [len(sequence.call.prefix.token_ids) + len(sequence.ids) - 1 for sequence in sequences]
        tokens = [sequence.ids[-1] for sequence in sequences]
        pre_logits = self.parts.decoder.step(self._slots, tokens, positions, self._group_rows())
        for sequence in sequences:
            sequence.forward_tokens += 1
        self._take_tokens(sequences, pre_logits.to(self.parts.head.device))

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Hand a response over and free its slot."""
        rollout = None
        try:
            if sequence.proposal.retain and reason != "cancelled":
                self._remember(sequence)
            rollout = sequence.to_rollout(reason, self._measure(sequence))
        except Exception as error:
            if out_of_memory(error):
                raise
            sequence.call.fail(error)
        self.leave(sequence)
        if rollout is not None:
            sequence.call.deliver(sequence, rollout)

    def leave(self, sequence: Sequence) -> None:
        """Free a sequence's slot, whatever becomes of it."""
        if self._slots is None or sequence.slot < 0:  # it never joined
            return
        self._slots.remove(sequence.slot)  # which moves the last slot into the hole, as the next lines do
        self.sequences[sequence.slot] = self.sequences[-1]
        self.sequences[sequence.slot].slot = sequence.slot
        self.sequences.pop()
        sequence.slot = -1
        self._groups = None
        if not self.sequences:
            if self.parts.decoder.captured is None:  # else the next round finds its slots where they were
                self._slots = None
            self._prompts.clear()

    def _take_in(self, sequence: Sequence, slots: SlotCache) -> None:
        """Give a sequence a slot with the keys and values that it starts with."""
        try:
            kv = self._own_start(sequence, self._prompts[sequence.call.prefix])
            if "natural_scale" in sequence.proposal.measures and sequence.meter is None:
                sequence.meter = ScaleMeter(self.parts.head, sequence.proposal.seed)
        except Exception as error:
            raise sequence_error(sequence, error) from error
        sequence.slot = slots.add(kv, self.tokens_soon(sequence))
        self.sequences.append(sequence)

    def _take_tokens(self, sequences: list[Sequence], pre_logits: Tensor) -> None:
        """Draw the next token of each, and let those go that end with it."""
        eos_token_ids = self.parts.eos_token_ids
        ended: list[tuple[Sequence, FinishReason | None]] = []
        for sequence, sampled in zip(sequences, self._sample(sequences, pre_logits), strict=True):
            try:
                self._check_finite(sequence, sampled)
                sequence.append(*sampled)
                reason = sequence.end_reason(eos_token_ids)
            except Exception as error:  # noqa: BLE001 - told to its flight
                sequence.call.fail(error)
                ended.append((sequence, None))
            else:
                if reason is not None:
                    ended.append((sequence, reason))
        # From the last slot down, which saves moves: what comes into a freed slot then never ends as well.
        for sequence, reason in sorted(ended, key=lambda end: -end[0].slot):
            if reason is None:
                self.leave(sequence)
            else:
                self.finish(sequence, reason)

    def _sample(self, sequences: list[Sequence], pre_logits: Tensor) -> list[Sampled]:
        return sample(self.parts.head, self.parts.perturber, sequences, pre_logits)

    def _check_finite(self, sequence: Sequence, sampled: Sampled) -> None:
        token, figures = sampled
        total = sum(figures[place] for place in _FINITE)
        if total - total != 0:  # infinite, or not a number
            self.spoilt = True
            raise EngineError(
                f"the logits of response {sequence.place} are not finite at its token {sequence.position} (token id "
                f"{token}): the proposal's shift, scale or mean is too large for the model, or the model's own numbers "
                "overflow in its dtype; make them smaller, or load the model in float32 or bfloat16"
            )

    def _measure(self, sequence: Sequence) -> dict[Measure, Any]:
        measures = sequence.proposal.measures
        measured: dict[Measure, Any] = {}
        if "unused_mean_dot" in measures:
            measured["unused_mean_dot"] = self.parts.perturber.unused_mean_dot(sequence)
        if "bag" in measures:
            measured["bag"] = self.parts.head.bag(sequence.ids)
        return measured

    def _prompt_tokens(self, sequence: Sequence) -> int:
        """Return how many of its prompt's keys and values a sequence holds itself."""
        prefix = sequence.call.prefix
        return 0 if self.shares(prefix) else len(prefix.token_ids)

    def _prompt_kv(self, sequence: Sequence) -> KV:
        """Return a prompt's keys and values; what the cache has lost is computed again, at a sequence's cost."""
        tokens = sequence.call.prefix.token_ids
        try:
            known, kv = self.parts.prefix_cache.match(tokens)
            if kv is None or known < len(tokens):
                kv, _ = self.parts.decoder.prefill(tokens[known:], kv)
                self.parts.prefix_cache.insert(tokens, kv)
                sequence.forward_tokens += len(tokens) - known
        except Exception as error:
            raise sequence_error(sequence, error) from error
        return kv

    def _forget_prompts(self) -> None:
        """Let go of the prompts that no row attends to from here."""
        live = {one.call.prefix for one in self.sequences if self.shares(one.call.prefix)}
        self._prompts = {prefix: kv for prefix, kv in self._prompts.items() if prefix in live}

    def _own_start(self, sequence: Sequence, prompt: KV) -> KV | None:
        """Return the keys and values that a sequence starts with: all its tokens' but the last's."""
        decoder, prefix = self.parts.decoder, sequence.call.prefix
        shared = self.shares(prefix)
        if len(sequence.ids) < 2:
            return None if shared else prompt
        path = (*prefix.token_ids, *sequence.ids[:-1])
        known, kv = self.parts.prefix_cache.match(path, start=len(prefix.token_ids))
        have = max(known, len(prefix.token_ids))
        if shared and have == len(path):
            return kv
        past = prompt if kv is None else _concatenate(prompt, kv)
        if have < len(path):
            past, _ = decoder.prefill(path[have:], past)
            sequence.forward_tokens += len(path) - have
        return _without_first(past, len(prefix.token_ids)) if shared else past

    def _remember(self, sequence: Sequence) -> None:
        """Put a finished sequence's keys and values into the prefix cache, behind its prompt's."""
        if self._slots is None or sequence.slot < 0:
            return
        prefix = sequence.call.prefix
        prompt, length = len(prefix.token_ids), self._slots.lengths[sequence.slot]
        start = 0 if self.shares(prefix) else prompt
        if length > start:
            path = (*prefix.token_ids, *sequence.ids[: length - start])
            self.parts.prefix_cache.insert(path, self._slots.export(sequence.slot, start, length), start=prompt)

    def _group_rows(self) -> list[Group]:
        if self._groups is None:
            places: dict[CachedPrefix, list[int]] = {}
            for place, sequence in enumerate(self.sequences):
                places.setdefault(sequence.call.prefix, []).append(place)
            device = self.parts.decoder.device
            self._forget_prompts()
            self._groups = [
                Group(rows=torch.tensor(places[prefix], device=device), kv=kv) for prefix, kv in self._prompts.items()
            ]
        return self._groups


def _concatenate(first: KV, second: KV) -> KV:
    return [
        (torch.cat([keys, more_keys], 1), torch.cat([values, more_values], 1))
        for (keys, values), (more_keys, more_values) in zip(first, second, strict=True)
    ]


def _without_first(kv: KV, count: int) -> KV:
    return [(keys[:, count:], values[:, count:]) for keys, values in kv]
