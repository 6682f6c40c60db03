"""Runs the model's body: prompts at once, and one token a row of a decode batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aisp.engines.transformers.attention import KV, Group, SharingUnsupportedError, shared_body
from aisp.engines.transformers.cuda_graphs import CapturedSteps, CudaGraphs, GraphBackend
from aisp.engines.transformers.head import Head
from aisp.engines.transformers.slot_cache import SlotCache
from aisp.errors import UnsupportedModelError

_log = logging.getLogger(__name__)
# Tokens from all over the vocabulary: behind those at its start, which are often special, SmolLM2 in bfloat16 differs
# from itself by a tenth, nearly as much as a prompt shifted by one position does (0.15). Behind these it is 0.02.
_PROBE_LENGTH, _PROBE_STRIDE = 12, 7919
_ROUNDED = 0.1  # what roundings of half precision may add up to


class Decoder:
    """The body of a model, with the cache that a batch of rows of different lengths needs.

    Where the model's attention is plain, rows of one prompt share its keys and values (`sharing`). Elsewhere
    (soft-capped or sliding-window attention) every row holds a copy of them and the model's own attention runs under
    explicit masks. A probe at the start compares a decode step with the model's own forward pass, so that neither
    form is trusted unseen.

    Args:
        model: A transformers causal language model.
        head: Its head, split from it.
        graphs: How decode steps are captured and replayed. None captures on CUDA, and nowhere else.

    Raises:
        UnsupportedModelError: A cache or attention that neither form reproduces.
    """

    def __init__(self, model: Any, head: Head, graphs: GraphBackend | None = None) -> None:
        self.body = head.body
        self.config = self.body.config.get_text_config()
        self.device: torch.device = model.get_input_embeddings().weight.device
        self._layer_types = _layer_types(self.config)
        self._shared: Any = None
        self.captured: CapturedSteps | None = None
        self.reset_counts()
        unsupported = self._layer_types - {"full_attention", "sliding_attention"}
        if unsupported:
            raise UnsupportedModelError(
                f"{type(model).__name__} has layers of {', '.join(sorted(unsupported))}; only full and sliding-window "
                "attention can be decoded row by row. Choose a model with those"
            )
        self._choose(type(model).__name__)
        if self.sharing and (graphs is not None or self.device.type == "cuda"):
            self._capture(CudaGraphs() if graphs is None else graphs)

    @property
    def sharing(self) -> bool:
        return self._shared is not None

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return int(self.body.get_input_embeddings().weight.shape[0])

    def reset_counts(self) -> None:
        """Count prefills and steps from here on."""
        self.prefills = self.prefilled_tokens = self.steps = 0
        if self.captured is not None:
            self.captured.generations = self.captured.replayed = 0

    def forget_captured(self) -> None:
        """Drop what was captured, so that its memory is free and nothing reads buffers that are gone."""
        if self.captured is not None:
            self.captured.forget()

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], past: KV | None = None) -> tuple[KV, Tensor]:
        """Run tokens behind what is known already.

        Args:
            tokens: At least one.
            past: Keys and values of what comes before.

        Returns:
            Keys and values of past and tokens together, and the pre-logit behind the last token, shape (dim,).
        """
        from transformers import DynamicCache

        self.prefills += 1
        self.prefilled_tokens += len(tokens)
        cache: Any = DynamicCache()
        for layer, (keys, values) in enumerate(past or ()):
            cache.update(keys[None], values[None], layer)
        out = self.body(
            input_ids=torch.tensor([list(tokens)], device=self.device), past_key_values=cache, use_cache=True
        )
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers], out.last_hidden_state[0, -1]

    @torch.inference_mode()
    def step(
        self, slots: SlotCache, tokens: Sequence[int], positions: Sequence[int], groups: Sequence[Group]
    ) -> Tensor:
        """Run one token a row.

        Args:
            slots: The rows' keys and values, in the order of the batch.
            tokens: One a row.
            positions: Their absolute positions, prompt included.
            groups: Which rows share which prompt; empty unless `sharing`.

        Returns:
            Pre-logits, shape (rows, dim).
        """
        self.steps += 1
        if self.captured is not None and (hidden := self.captured.step(slots, tokens, positions, groups)) is not None:
            return hidden
        mask = slots.begin(self.device)
        body, extra = (self._shared, {"groups": groups}) if self.sharing else (self.body, {})
        out = body(
            input_ids=torch.tensor(tokens, device=self.device)[:, None],
            position_ids=torch.tensor(positions, device=self.device)[:, None],
            attention_mask=mask if self.sharing else self._masks(mask, positions),
            past_key_values=slots,
            use_cache=True,
            **extra,
        )
        last: Tensor = out.last_hidden_state[:, -1]
        return last

    def _capture(self, graphs: GraphBackend) -> None:
        """Take steps on buffers that stay in place from here on, if they are as the plain ones."""
        self.captured = CapturedSteps(self._shared, self.device, graphs)
        if not self._probe():
            self.captured = None
            _log.warning("decode steps in place differ from plain ones, and aren't used")

    def _masks(self, mask: Tensor, positions: Sequence[int]) -> Tensor | dict[str, Tensor]:
        """Return what the model's own attention wants: its dtype, and the window where layers slide."""
        dtype = self.body.dtype
        floor = torch.finfo(dtype).min
        full = mask.clamp_min(floor).to(dtype)
        if self._layer_types == {"full_attention"}:
            return full
        columns = torch.arange(mask.shape[-1], device=mask.device)
        behind = columns <= torch.tensor(positions, device=mask.device)[:, None] - self.config.sliding_window
        sliding = full.masked_fill(behind[:, None, None], floor)
        if getattr(self.config, "layer_types", None) is None:
            return sliding
        return {"full_attention": full, "sliding_attention": sliding}

    def _choose(self, name: str) -> None:
        """Take the shared form if it passes the probe, else the expanded one if that passes."""
        if self._layer_types == {"full_attention"}:
            try:
                self._shared = shared_body(self.body)
                if self._probe():
                    return
                reason = "its attention differs"
            except (SharingUnsupportedError, TypeError, AttributeError, RuntimeError, KeyError, ValueError) as error:
                reason = str(error)
            self._shared = None
            _log.warning("%s: prompts are copied for every response, since they can't be shared: %s", name, reason)
        else:
            _log.warning("%s: prompts are copied for every response, since sliding windows can't share them", name)
        if not self._probe():
            raise UnsupportedModelError(
                f"decoding {name} one token at a time differs from its own forward pass, "
                "so its cache is not one that rows of different lengths can share. "
                "Choose a model with full or sliding-window attention"
            )

    @torch.inference_mode()
    def _probe(self) -> bool:
        """Decode one token behind a short prompt, two rows of different lengths; compare with plain forward passes."""
        vocab = self.vocab_size
        *probe, between, last = (i * _PROBE_STRIDE % vocab for i in range(1, _PROBE_LENGTH + 3))
        kv, _ = self.prefill(probe)
        slots = SlotCache(kv)
        longer, _ = self.prefill([between], kv)
        prompt = len(probe)
        own = [(keys[:, prompt:], values[:, prompt:]) for keys, values in longer]
        for start in (None, own) if self.sharing else (kv, longer):
            slots.add(start, 0)
        groups = [Group(rows=torch.arange(2, device=self.device), kv=kv)] if self.sharing else []
        got = self.step(slots, [last, last], [prompt, prompt + 1], groups)
        expected = torch.stack([self.prefill([*probe, *more, last])[1] for more in ((), (between,))])
        gap = (got.float() - expected.float()).norm() / expected.float().norm()
        return bool(gap <= (1e-3 if got.dtype == torch.float32 else _ROUNDED))


def _layer_types(config: Any) -> set[str]:
    types = getattr(config, "layer_types", None)
    if types is not None:
        return set(types)
    return {"sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"}
