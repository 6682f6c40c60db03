"""Decode steps on buffers that stay where they are, which CUDA captures once and replays.

A step of a small batch spends its time on launching kernels. Captured, it is one launch; but what was captured reads
and writes the same addresses for ever, in the same shapes. So a step runs over a bucket of rows, the smallest that
holds them, and over a bucket of tokens a row; what is too much is masked. Its inputs are copied into place before it,
and the prompt that the rows share is copied once, when the rows turn to it.

    slots (in place) + inputs (copied in) --captured body--> pre-logits of the bucket's rows

Steps that this form doesn't cover (rows of several prompts) are taken as they are elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aisp.engines.transformers.attention import KV, Group
from aisp.engines.transformers.memory import out_of_memory
from aisp.engines.transformers.slot_cache import BLOCK, SlotCache, additive_mask, bucket

_log = logging.getLogger(__name__)
_WARM_UP = 2
_KEPT = 32  # captured steps, each a size of batch, response and prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What a step reads besides the slots: buffers of a bucket's size."""

    tokens: Tensor
    positions: Tensor
    write_at: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A prompt's keys and values, in buffers of a bucket's size, and the mask of what it doesn't fill."""

    kv: KV
    mask: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A step of one shape: fill the inputs, run it, read the pre-logits."""

    inputs: _Inputs
    run: Callable[[], Tensor]


class CapturedSteps:
    """Takes decode steps of a body whose attention is `aisp.engines.transformers.attention.attend`.

    Args:
        body: The shared body.
        device: Where it is. On anything but CUDA the same steps run uncaptured.
    """

    def __init__(self, body: Any, device: torch.device) -> None:
        self._body = body
        self._device = device
        self._steps: dict[tuple[int, int, int], _Step] = {}
        self._prompts: dict[int, _Prompt] = {}
        self._shown: dict[int, KV] = {}  # which prompt's keys and values each buffer holds
        self._slots: tuple[SlotCache, int] | None = None
        self._pool: Any = None
        self._works = True

    @torch.inference_mode()
    def step(
        self, slots: SlotCache, tokens: Sequence[int], positions: Sequence[int], groups: Sequence[Group]
    ) -> Tensor | None:
        """Run one token a row, as `Decoder.step`; return None for a step that isn't of this form."""
        rows, (_, capacity) = len(tokens), slots.shape
        size, view = bucket(rows), min(bucket(max(slots.lengths) + 1, BLOCK), capacity)
        whole = len(groups) == 1 and len(groups[0].rows) == rows
        fits = size <= slots.shape[0] and max(slots.lengths) < view
        if not self._works or not fits or (groups and not whole):
            return None
        self._settle(slots)
        prompt = self._prompt(groups[0].kv) if groups else None
        key = (size, view, 0 if prompt is None else len(prompt.mask))
        try:
            if key not in self._steps:
                self._steps[key] = self._made(slots, size, view, prompt)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            self._works = False
            self._steps.clear()
            _log.warning("decode steps can't be captured, so that each kernel is launched by itself: %s", error)
            return None
        step = self._steps[key]
        self._fill(step.inputs, slots, tokens, positions)
        slots.lengths = [length + 1 for length in slots.lengths]
        return step.run()[:rows]

    def _settle(self, slots: SlotCache) -> None:
        """Forget steps that were captured over other buffers."""
        if self._slots is None or self._slots[0] is not slots or self._slots[1] != slots.place:
            self._steps.clear()
            self._slots = (slots, slots.place)
        while len(self._steps) >= _KEPT:
            self._steps.pop(next(iter(self._steps)))

    def _prompt(self, kv: KV) -> _Prompt:
        """Return the buffers that hold a prompt, filled with it."""
        length = kv[0][0].shape[1]
        size = bucket(length, BLOCK)
        prompt = self._prompts.get(size)
        if prompt is None:
            empty = [tuple(part.new_zeros(part.shape[0], size, part.shape[2]) for part in pair) for pair in kv]
            prompt = _Prompt(kv=[(k, v) for k, v in empty], mask=torch.zeros(size, device=self._device))
            self._prompts[size] = prompt
        if self._shown.get(size) is not kv:
            for (keys, values), (new_keys, new_values) in zip(prompt.kv, kv, strict=True):
                keys[:, :length], values[:, :length] = new_keys, new_values
            prompt.mask.copy_(additive_mask(torch.tensor([length - 1], device=self._device), size)[0])
            self._shown[size] = kv
        return prompt

    def _fill(self, inputs: _Inputs, slots: SlotCache, tokens: Sequence[int], positions: Sequence[int]) -> None:
        """Copy a step's inputs into place; rows that only fill the bucket write to slots that nobody reads."""
        spare = [0] * (len(inputs.write_at) - len(tokens))
        lists = [[*tokens, *spare], [*positions, *spare], [*slots.lengths, *spare]]
        together = torch.tensor(lists)
        if self._device.type == "cuda":
            together = together.pin_memory().to(self._device, non_blocking=True)
        inputs.tokens.copy_(together[0][:, None])
        inputs.positions.copy_(together[1][:, None])
        inputs.write_at.copy_(together[2])
        inputs.mask.copy_(additive_mask(inputs.write_at, inputs.mask.shape[-1])[:, None, None])

    def _made(self, slots: SlotCache, size: int, view: int, prompt: _Prompt | None) -> _Step:
        """Make the step of a shape, captured where that can be."""
        device = self._device
        inputs = _Inputs(
            tokens=torch.zeros(size, 1, dtype=torch.int64, device=device),
            positions=torch.zeros(size, 1, dtype=torch.int64, device=device),
            # The last place of a row: what warming up writes there is written again before it is ever read.
            write_at=torch.full((size,), view - 1, device=device),
            mask=torch.zeros(size, 1, 1, view, device=device),
        )
        rows = torch.arange(size, device=device)
        groups = [] if prompt is None else [Group(rows=rows, kv=prompt.kv, mask=prompt.mask)]

        def run() -> Tensor:
            slots.write_to(rows, inputs.write_at, view)
            out = self._body(
                input_ids=inputs.tokens,
                position_ids=inputs.positions,
                attention_mask=inputs.mask,
                past_key_values=slots,
                use_cache=True,
                groups=groups,
            )
            hidden: Tensor = out.last_hidden_state
            return hidden[:, -1]

        return _Step(inputs=inputs, run=run if device.type != "cuda" else self._captured(run))

    def _captured(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Capture what a function does on the device; return what does it again."""
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up in their first calls, which can't be captured
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        # Other threads may use the device meanwhile: a reward model does.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = run()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay
