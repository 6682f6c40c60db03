"""Coherence with the prompt: the cosine of sentence embeddings.

torch and transformers take seconds to import, so they are imported when the encoder is first needed.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aisp.errors import ConfigurationError
from aisp.models import devices
from aisp.models.quiet import no_progress_bars
from aisp.records import Candidate, Score
from aisp.rewards import checkpoints
from aisp.rewards.base import Reward
from aisp.rewards.encoding import Encoded, encode_texts, padded, padded_batches, tokens_read
from aisp.rewards.function import last_user_text

if TYPE_CHECKING:
    import torch

Pooling = Literal["mean", "first"]
_LIMIT = 512  # tokens of a text at most, whatever more the model could read


class Coherence(Reward):
    """Cosine of the embeddings of last user message and response, in [-1, 1].

    The coherence that is reported for steered decoding (Su et al. 2022, https://arxiv.org/abs/2202.06417, section 4.2),
    where SimCSE makes the embeddings.

    Args:
        model: A checkpoint directory or hub id of a sentence encoder, as all-MiniLM or SimCSE.
        pooling: What embeds a text: the "mean" of its last hidden states (all-MiniLM) or the "first" of them (SimCSE).
        batch_tokens: Tokens of a padded batch, which bounds its memory whatever the number of candidates.
        device: Where it runs, the CPU by default.

    Raises:
        ConfigurationError: Another pooling. The model is loaded when it is first needed.
    """

    cost = 10.0

    def __init__(
        self,
        model: str | Path,
        *,
        pooling: Pooling = "mean",
        batch_tokens: int = 8192,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**{"name": "coherence", **options})
        if pooling not in ("mean", "first"):
            raise ConfigurationError(f'pooling is {pooling!r}; expected "mean" or "first"')
        self.source, self.pooling, self.batch_tokens, self.device = str(model), pooling, batch_tokens, device
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None

    def config(self) -> Mapping[str, Any]:
        return {"source": self.source, "pooling": self.pooling}

    def check(self) -> None:
        """Find a checkpoint that isn't there or brings code.

        Raises:
            ModelNotFoundError: There is no such checkpoint.
            UnsupportedModelError: It brings code of its own.
        """
        if self._loaded is None:
            checkpoints.find(self.source, self.name, "sentence encoder")

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        model, tokenizer = self._load()
        limit = min(tokens_read(model, tokenizer), _LIMIT)
        pairs = [(last_user_text(candidate), candidate.text) for candidate in candidates]
        encoded = {text: encode_texts(tokenizer, None, text, limit) for pair in pairs for text in pair}
        units = self._embeddings(model, tokenizer, encoded)
        return [
            Score(
                value=float(units[prompt] @ units[response]),
                comment=self._unread(prompt, encoded[prompt].read, response, encoded[response].read),
            )
            for prompt, response in pairs
        ]

    def _unread(self, prompt: str, read_of_prompt: int, response: str, read: int) -> str | None:
        """Return what was too long to be read, in words, and warn of a response that was."""
        lost = [
            f"only the first {shown} of {len(text)} characters of the {what} were read"
            for what, text, shown in (("prompt", prompt, read_of_prompt), ("response", response, read))
            if shown < len(text)
        ]
        if read < len(response):
            warnings.warn(f"reward {self.name!r}: {lost[-1]}; let responses be shorter (max_tokens)", stacklevel=3)
        return "; ".join(lost) or None

    def _embeddings(self, model: Any, tokenizer: Any, encoded: Mapping[str, Encoded]) -> dict[str, torch.Tensor]:
        """Return embeddings of length 1, float32 of shape (dim,), by text."""
        import torch

        texts = list(encoded)
        found: dict[str, torch.Tensor] = {}
        for batch in padded_batches([len(row.ids) for row in encoded.values()], self.batch_tokens):
            rows = [encoded[texts[place]] for place in batch]
            with torch.inference_mode():
                inputs = padded(rows, tokenizer, tokenizer.pad_token_id or 0)
                tensors = {name: torch.tensor(values, device=model.device) for name, values in inputs.items()}
                states = model(**tensors).last_hidden_state.float()
            mask = tensors["attention_mask"][..., None]
            pooled = states[:, 0] if self.pooling == "first" else (states * mask).sum(1) / mask.sum(1)
            units = torch.nn.functional.normalize(pooled, dim=-1).cpu()
            found.update((texts[place], unit) for place, unit in zip(batch, units, strict=True))
        return found

    def _load(self) -> tuple[Any, Any]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._from_pretrained()
            return self._loaded

    def _from_pretrained(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        device = devices.resolve_device(self.device or "cpu")
        checkpoints.find(self.source, self.name, "sentence encoder")
        with no_progress_bars(), checkpoints.named(self.source, self.name, "sentence encoder"):
            tokenizer = AutoTokenizer.from_pretrained(self.source, trust_remote_code=False)
            model = AutoModel.from_pretrained(self.source, use_safetensors=True, trust_remote_code=False)
        return model.to(device).eval().requires_grad_(False), tokenizer
