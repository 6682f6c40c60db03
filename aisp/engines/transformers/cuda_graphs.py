"""Decode steps on buffers that stay where they are, captured once as a CUDA graph and replayed.

A step of a small batch spends its time on launching kernels. Captured, it is one launch; but what was captured reads
and writes the same addresses for ever, in the same shapes. So a step runs over a bucket of rows, the smallest that
holds them, and over a bucket of tokens a row; what is too much is masked. Its inputs are copied into place before it,
and the prompt that the rows share is copied once, when the rows turn to it.

    slots (in place) + inputs (copied in) --captured body--> pre-logits of the bucket's rows

Two rules keep a replay from reading what is no longer there. A captured step owns every tensor that it reads from
outside (`_Step.owned`). And all graphs over one set of buffers are one generation: they share a memory pool and are
dropped together, and the next generation has a pool of its own, since a pool whose graphs are all gone can't be used
again.

Steps that this form doesn't cover (rows of several prompts) are taken as they are elsewhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from aisp.engines.transformers.attention import KV, Group
from aisp.engines.transformers.memory import out_of_memory
from aisp.engines.transformers.slot_cache import BLOCK, SlotCache, additive_mask, bucket

_log = logging.getLogger(__name__)
# Before capturing: libraries set themselves up in their first call, and may choose an algorithm in their second.
_WARM_UP = 2
# Captured steps of a generation, each a size of batch, response and prompt. Buckets are powers of two, so that 6 sizes
# of batch at 5 lengths stay below it. Each holds a graph's nodes and the memory that its pool can't share.
_KEPT = 32


class GraphBackend(Protocol):
    """Captures what a function does on the device, to be done again on the same addresses."""

    def new_pool(self) -> Any:
        """Return memory that the graphs of one generation share."""

    def capture(self, run: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:
        """Capture a function; return what does it again and returns the same tensor, filled anew.

        It keeps alive the graph and what it returns, and nothing that the function read.
        """


class CudaGraphs:
    """CUDA's own graphs."""

    def new_pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def capture(self, run: Callable[[], Tensor], pool: Any) -> Callable[[], Tensor]:
        side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: a reward model does.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            out = run()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """What a step reads besides the slots: buffers of a bucket's size."""

    tokens: Tensor
    positions: Tensor
    rows: Tensor
    write_at: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompt:
    """A prompt's keys and values, in buffers of a bucket's size, and the mask of what it doesn't fill."""

    kv: KV
    mask: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """A captured step of one shape: fill the inputs, replay it, read the pre-logits.

    Args:
        inputs: Where its inputs are copied to.
        replay: Does it again.
        owned: Everything else that it reads and that is not the model's: it lives as long as the step does.
    """

    inputs: _Inputs
    replay: Callable[[], Tensor]
    owned: tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class _Generation:
    """The steps that were captured over one set of buffers, and the memory pool that they share."""

    slots: SlotCache
    place: int
    pool: Any
    steps: dict[tuple[int, int, int], _Step] = field(default_factory=dict)

    def covers(self, slots: SlotCache) -> bool:
        """Whether its steps read these slots, where they are now."""
        return self.slots is slots and self.place == slots.place


class CapturedSteps:
    """Takes decode steps of a body whose attention is `aisp.engines.transformers.attention.attend`.

    Args:
        body: The shared body.
        device: Where it is.
        backend: Captures and replays.
    """

    def __init__(self, body: Any, device: torch.device, backend: GraphBackend) -> None:
        self._body = body
        self._device = device
        self._backend = backend
        self._generation: _Generation | None = None
        self._prompts: dict[int, _Prompt] = {}
        self._held: dict[int, KV] = {}  # which prompt's keys and values each buffer of `_prompts` holds
        self._works = True
        self.generations = 0
        self.replayed = 0

    @property
    def graphs(self) -> int:
        """Captured steps that are held."""
        return 0 if self._generation is None else len(self._generation.steps)

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
        prompt = self._fill_prompt(groups[0].kv) if groups else None
        try:
            step = self._captured(slots, size, view, prompt)
        except RuntimeError as error:
            self.forget()  # a pool whose first capture failed has no graphs, and can't be used again either
            if out_of_memory(error):
                raise
            self._works = False
            _log.warning("decode steps can't be captured, so that each kernel is launched by itself: %s", error)
            return None
        self._fill_inputs(step.inputs, slots, tokens, positions)
        slots.lengths = [length + 1 for length in slots.lengths]
        self.replayed += 1
        return step.replay()[:rows]

    def forget_steps(self) -> None:
        """Drop every step, so that the slots that it reads can move."""
        self._generation = None

    def forget(self) -> None:
        """Drop every step and every buffer, so that their memory is free."""
        self.forget_steps()
        self._prompts.clear()
        self._held.clear()

    def _captured(self, slots: SlotCache, size: int, view: int, prompt: _Prompt | None) -> _Step:
        """Return the step of a shape, captured unless it was before over the same buffers."""
        generation = self._generation
        if generation is None or not generation.covers(slots) or len(generation.steps) >= _KEPT:
            del generation
            self.forget_steps()  # first: the old graphs give their memory back before others ask for theirs
            generation = _Generation(slots=slots, place=slots.place, pool=self._backend.new_pool())
            self._generation = generation
            self.generations += 1
        key = (size, view, 0 if prompt is None else len(prompt.mask))
        step = generation.steps.get(key)
        if step is None:
            step = generation.steps[key] = self._capture(slots, size, view, prompt, generation.pool)
        return step

    def _fill_prompt(self, kv: KV) -> _Prompt:
        """Return the buffers that hold a prompt, filled with it."""
        length = kv[0][0].shape[1]
        size = bucket(length, BLOCK)
        prompt = self._prompts.get(size)
        if prompt is None:
            empty = [tuple(part.new_zeros(part.shape[0], size, part.shape[2]) for part in pair) for pair in kv]
            prompt = _Prompt(kv=[(k, v) for k, v in empty], mask=torch.zeros(size, device=self._device))
            self._prompts[size] = prompt
        if self._held.get(size) is not kv:
            self._held.pop(size, None)  # an interrupt while it is copied must not leave half of it taken for whole
            for (keys, values), (new_keys, new_values) in zip(prompt.kv, kv, strict=True):
                keys[:, :length], values[:, :length] = new_keys, new_values
            prompt.mask.copy_(additive_mask(torch.tensor([length - 1], device=self._device), size)[0])
            self._held[size] = kv
        return prompt

    def _fill_inputs(self, inputs: _Inputs, slots: SlotCache, tokens: Sequence[int], positions: Sequence[int]) -> None:
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

    def _capture(self, slots: SlotCache, size: int, view: int, prompt: _Prompt | None, pool: Any) -> _Step:
        """Capture the step of a shape."""
        device = self._device
        inputs = _Inputs(
            tokens=torch.zeros(size, 1, dtype=torch.int64, device=device),
            positions=torch.zeros(size, 1, dtype=torch.int64, device=device),
            rows=torch.arange(size, device=device),
            # The last place of a row: what warming up writes there is written again before it is ever read.
            write_at=torch.full((size,), view - 1, device=device),
            mask=torch.zeros(size, 1, 1, view, device=device),
        )
        groups = [] if prompt is None else [Group(rows=inputs.rows, kv=prompt.kv, mask=prompt.mask)]

        def run() -> Tensor:
            slots.write_to(inputs.rows, inputs.write_at, view)
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

        replay = self._backend.capture(run, pool)
        return _Step(inputs=inputs, replay=replay, owned=(slots.buffers, prompt))
