"""Keys and values of the rows of a decode batch: one slot a row, right-padded, written at each row's own position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from aisp.engines.transformers.attention import KV

BLOCK = 64
"""Buffers have room for a multiple of this many tokens."""


def whole_blocks(length: int) -> int:
    """Return the least capacity that holds a number of tokens."""
    return length + -length % BLOCK


def bucket(number: int, least: int = 1) -> int:
    """Return the smallest power of two that is no less.

    Example:
        >>> bucket(5), bucket(8), bucket(5, least=64)
        (8, 8, 64)
    """
    return max(least, 1 << (number - 1).bit_length())


class SlotCache(Cache):
    """A transformers cache whose rows have lengths of their own, and join and leave between steps.

    Slots 0..rows-1 are in use. Buffers have shape (slots, kv_heads, capacity, head_dim), one pair a layer, and grow
    as needed.
    """

    def __init__(self, like: KV) -> None:
        super().__init__(layers=[])
        # Their kind alone: a view would keep the prompt alive.
        self._like = [
            (keys.new_empty(len(keys), 0, keys.shape[2]), values.new_empty(len(values), 0, values.shape[2]))
            for keys, values in like
        ]
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self.lengths: list[int] = []
        self._write_rows = self._write_at = torch.zeros(0, dtype=torch.int64)
        self._view = 0
        self._most = 0
        self._moves = 0

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def allocated(self) -> int:
        """Tokens that the buffers have room for, all slots together."""
        slots, capacity = self.shape
        return slots * capacity

    @property
    def nbytes(self) -> int:
        """What the buffers take."""
        return sum(keys.nbytes + values.nbytes for keys, values in self._buffers)

    def add(self, kv: KV | None, need: int) -> int:
        """Add a row that starts with some keys and values; return its slot.

        Args:
            kv: What the row starts with; None for nothing.
            need: Tokens that the row will hold soon, to grow for all at once.
        """
        length = 0 if kv is None else kv[0][0].shape[1]
        self._reserve(self.rows + 1, max(length + 1, need))
        slot = self.rows
        self.lengths.append(length)
        if kv is not None and length:
            for (keys, values), (new_keys, new_values) in zip(self._buffers, kv, strict=True):
                keys[slot, :, :length] = new_keys
                values[slot, :, :length] = new_values
        return slot

    def make_room(self, rows: int, need: int, most: int) -> None:
        """Grow once for several rows that are about to be added.

        Args:
            rows: How many.
            need: Tokens that the longest of them will hold soon.
            most: Tokens that the longest row, of these and of those that are here, can ever come to hold.
        """
        self._most = whole_blocks(most)
        self._reserve(self.rows + rows, need)

    def remove(self, slot: int) -> None:
        """Free a slot; the last row moves into it."""
        last = self.rows - 1
        length = self.lengths[last]
        if slot != last and length:
            for keys, values in self._buffers:
                keys[slot, :, :length] = keys[last, :, :length]
                values[slot, :, :length] = values[last, :, :length]
        self.lengths[slot] = length
        self.lengths.pop()

    def export(self, slot: int, start: int, stop: int) -> KV:
        """Return a copy of a run of a row's keys and values."""
        return [
            (keys[slot, :, start:stop].clone(), values[slot, :, start:stop].clone()) for keys, values in self._buffers
        ]

    def begin(self, device: torch.device) -> Tensor:
        """Prepare a step that adds one token a row; return its additive mask, float32 (rows, 1, 1, length)."""
        self._reserve(self.rows, max(self.lengths) + 1)
        write_at = torch.tensor(self.lengths, device=device)
        view = max(self.lengths) + 1
        self.write_to(torch.arange(self.rows, device=device), write_at, view)
        self.lengths = [length + 1 for length in self.lengths]
        return additive_mask(write_at, view)[:, None, None]

    def write_to(self, rows: Tensor, at: Tensor, view: int) -> None:
        """Say where `update` writes, int64 of shape (n,) each, and how many tokens it shows of the first n slots."""
        self._write_rows, self._write_at, self._view = rows, at, view

    @property
    def shape(self) -> tuple[int, int]:
        """Slots, and tokens that each has room for."""
        return (self._buffers[0][0].shape[0], self._buffers[0][0].shape[2]) if self._buffers else (0, 0)

    @property
    def place(self) -> int:
        """Where the buffers are: a number that changes when they move."""
        return self._moves

    @property
    def buffers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """The keys and values of each layer, as they are held now."""
        return tuple(self._buffers)

    def resize(self, slots: int, capacity: int) -> None:
        """Move to buffers for this many slots with room for this many tokens each, no less than what is held."""
        self._moves += 1
        used, longest = self.rows, max(self.lengths, default=0)
        old = self._buffers
        self._buffers = []
        for layer, pair in enumerate(self._like):
            # Zeros, since what is masked is still multiplied: 0 times an uninitialised NaN would be a NaN.
            grown = [like.new_zeros(slots, like.shape[0], capacity, like.shape[2]) for like in pair]
            for new, before in zip(grown, old[layer] if old else (), strict=False):
                new[:used, :, :longest] = before[:used, :, :longest]
            if old:
                old[layer] = (grown[0][:0], grown[1][:0])  # free each layer as soon as it is copied
            self._buffers.append((grown[0], grown[1]))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token a row, shape (rows, kv_heads, 1, head_dim); return views of all that the rows hold."""
        keys, values = self._buffers[layer_idx]
        keys[self._write_rows, :, self._write_at] = key_states[:, :, 0]
        values[self._write_rows, :, self._write_at] = value_states[:, :, 0]
        rows = len(self._write_rows)
        return keys[:rows, :, : self._view], values[:rows, :, : self._view]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._view

    def _reserve(self, rows: int, length: int) -> None:
        slots, capacity = self.shape
        if rows <= slots and length <= capacity:
            return
        # No more slots than rows where they grow longer, and none longer than a row can become where there are more:
        # else memory would go beyond rows times the longest, which is what admission counts.
        if length > capacity:
            slots, capacity = rows, min(capacity + capacity // 2, self._most)
        else:
            slots, capacity = rows, min(capacity, self._most)
        self.resize(slots, whole_blocks(max(capacity, length, *self.lengths, 1)))


def additive_mask(last: Tensor, view: int) -> Tensor:
    """Return 0 for the tokens up to `last` of each row, shape (n,), and the least float32 behind; shape (n, view)."""
    visible = torch.arange(view, device=last.device) <= last[:, None]
    return torch.zeros(visible.shape, device=last.device).masked_fill_(~visible, torch.finfo(torch.float32).min)
