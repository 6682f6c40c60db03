"""The LM head: everything between the pre-logit and the logits.

    logits = finish(W z + b),  finish(x) = cap * tanh(x * scale / cap), each part only where the model has it

A perturbation v of the pre-logit adds W v before scale and soft-cap, which is why the two are kept apart here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aisp.errors import UnsupportedModelError
from aisp.records import FloatArray

_PROBE_TOKENS = 4
# In float32, W x^T takes 0.3 to 0.7 of the time of x W^T at 4 and 8 rows, and up to 1.2 at more (2 cores, heads of
# SmolLM2-135M and Qwen2.5-0.5B). In bfloat16 W x^T has to be turned over as well: twice the time at 46 rows.
_FEW = 8


class Head:
    """The LM head of a causal language model, split from its body.

    Args:
        model: A transformers causal language model.
        vocab_size: Tokens that the tokenizer knows; logits past them (a padded vocabulary) are cut off. None keeps all.

    Raises:
        UnsupportedModelError: The model has no plain linear head, or its logits are not `finish(W z + b)`.
    """

    def __init__(self, model: Any, vocab_size: int | None = None) -> None:
        layer = model.get_output_embeddings()
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, nn.Linear) or weight is None or not weight.is_floating_point():
            raise UnsupportedModelError(
                f"the output layer of {type(model).__name__} is {type(layer).__name__}; "
                "expected a torch.nn.Linear with floating-point weights. "
                "Leave the LM head out of quantisation, or merge its adapter"
            )
        config = model.config.get_text_config()
        rows = weight.shape[0] if vocab_size is None else min(vocab_size, weight.shape[0])
        self.weight: Tensor = weight.detach()[:rows]
        self.bias: Tensor | None = None if layer.bias is None else layer.bias.detach()[:rows]
        self.scale = _logit_scale(config)
        self.soft_cap: float | None = getattr(config, "final_logit_softcapping", None)
        self.body = model.get_decoder()
        self._check(model)

    @property
    def dim(self) -> int:
        """Size of a pre-logit."""
        return int(self.weight.shape[1])

    @property
    def vocab_size(self) -> int:
        return int(self.weight.shape[0])

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def linear(self, vectors: Tensor) -> Tensor:
        """Return W x in float32, shape (n, vocab), of vectors of shape (n, dim). The bias is left out."""
        vectors = vectors.to(self.weight.dtype)
        if self.weight.dtype == torch.float32 and self.device.type == "cpu" and len(vectors) <= _FEW:
            return (self.weight @ vectors.T).T.contiguous()
        return nn.functional.linear(vectors, self.weight).float()

    def raw(self, pre_logits: Tensor) -> Tensor:
        """Return W z + b in float32, shape (n, vocab)."""
        return self.add_bias(self.linear(pre_logits))

    def add_bias(self, linear: Tensor) -> Tensor:
        return linear if self.bias is None else linear + self.bias.float()

    def bag(self, ids: Sequence[int]) -> FloatArray:
        """Return the sum of the head's rows of some tokens, shape (dim,)."""
        rows = self.weight[torch.tensor(list(ids), dtype=torch.int64, device=self.device)]
        return np.asarray(rows.double().sum(0).cpu())

    def finish(self, raw: Tensor) -> Tensor:
        """Return the logits of raw ones, shape (n, vocab): scaled, then soft-capped."""
        logits = raw if self.scale == 1.0 else raw * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def _check(self, model: Any) -> None:
        """Compare with the model's own logits, so that no architecture is ever guessed at."""
        ids = torch.arange(1, 1 + _PROBE_TOKENS, device=model.get_input_embeddings().weight.device)[None]
        ids = ids % self.vocab_size
        with torch.inference_mode():
            expected = model(input_ids=ids, use_cache=False).logits[0, :, : self.vocab_size].float()
            pre_logits = self.body(input_ids=ids, use_cache=False).last_hidden_state[0]
            got = self.finish(self.raw(pre_logits.to(self.device))).to(expected.device)
        tolerance = 1e-3 if self.weight.dtype == torch.float32 else 3e-2
        gap = float((got - expected).abs().max() / expected.abs().max().clamp_min(1.0))
        if not gap <= tolerance:
            raise UnsupportedModelError(
                f"the logits of {type(model).__name__} are not its LM head applied to its last hidden state "
                f"(they differ by {gap:.2g} of their size; scale {self.scale}, soft-cap {self.soft_cap}), "
                "so its pre-logits can't be perturbed. Known to work: Llama, Mistral, Qwen2/2.5/3, Gemma 2/3, Phi-3, "
                "Granite, Cohere, SmolLM2"
            )


def _logit_scale(config: Any) -> float:
    """Return what the model multiplies its logits by: Cohere has a factor, Granite a divisor."""
    factor = getattr(config, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    return float(factor if factor is not None else 1.0) / float(divisor if divisor is not None else 1.0)
