"""Sequence classifiers and reward models of transformers, as rewards."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aisp.errors import ConfigurationError, ModelNotFoundError
from aisp.records import Candidate, Score
from aisp.rewards.base import Reward
from aisp.rewards.function import last_user_text

if TYPE_CHECKING:
    import torch

Output = Literal["logit", "probability", "margin", "expected"]
Input = Literal["text", "pair", "chat"]


class Classifier(Reward):
    """Scores with any `AutoModelForSequenceClassification`: a classifier, a cross-encoder, or a reward model.

    Args:
        model: A checkpoint directory or hub id, or a loaded model (then with its `tokenizer`).
        tokenizer: The model's tokenizer; of the same checkpoint by default.
        input: What the model reads: the response's "text", the "pair" of last user message and response, or the whole
            conversation through the tokenizer's "chat" template.
        output: "logit" of the label; its "probability"; the "margin", its logit less the log-sum-exp of the others
            (two labels: the difference of their logits); or the "expected" index under softmax. With one logit:
            "logit", or "probability" by the sigmoid. By default "logit" for one label and "margin" for more.
        label: Name or index of the label. The last one by default.
        max_length: Tokens that the model reads; its own limit by default. What is too long loses its prompt first,
            from the left; a response that is longer still loses its end, and the score's comment says so.
        batch_tokens: Tokens of a padded batch, which bounds its memory whatever the number of candidates.
        device: Where it runs; that of a loaded model, else the CPU.
        dtype: Its weights' type, float32 by default.

    Raises:
        ConfigurationError: Settings that don't fit the model. A model that is named is loaded when it is first needed.
    """

    cost = 10.0

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        input: Input = "text",  # noqa: A002 - the word that a user would look for
        output: Output | None = None,
        label: str | int | None = None,
        max_length: int | None = None,
        batch_tokens: int = 8192,
        device: str | None = None,
        dtype: str = "float32",
        **options: Any,
    ) -> None:
        named = isinstance(model, (str, Path))
        super().__init__(**{"name": Path(model).name.replace(".", "_") if named else "classifier", **options})
        if input not in ("text", "pair", "chat"):
            raise ConfigurationError(f'input is {input!r}; expected "text", "pair" or "chat"')
        if output not in (None, "logit", "probability", "margin", "expected"):
            raise ConfigurationError(f'output is {output!r}; expected "logit", "probability", "margin" or "expected"')
        if not named and tokenizer is None:
            raise ConfigurationError("a loaded model was given without its tokenizer; give tokenizer=... too")
        self.source, self.input, self.output, self.label = (str(model) if named else None), input, output, label
        self.max_length, self.batch_tokens, self.device, self.dtype = max_length, batch_tokens, device, dtype
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None if named else (model, tokenizer)
        if not named:
            self._label(model)

    def config(self) -> Mapping[str, Any]:
        own = {
            key: value for key, value in vars(self).items() if not key.startswith("_") and key not in ("name", "cost")
        }
        return {**own, "object": None if self._loaded is None or self.source else id(self._loaded[0])}

    def load(self) -> tuple[Any, Any]:
        """Return model and tokenizer, loaded the first time.

        Raises:
            ModelNotFoundError: There is no such checkpoint.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._from_pretrained()
                self._label(self._loaded[0])
            return self._loaded

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        model, tokenizer = self.load()
        encoded = [self._encode(tokenizer, model, candidate) for candidate in candidates]
        values: list[float] = [0.0] * len(encoded)
        for rows in _batches([len(ids) for ids, _, _ in encoded], self.batch_tokens):
            for row, value in zip(rows, self._values(model, tokenizer, [encoded[row] for row in rows]), strict=True):
                values[row] = value
        return [Score(value=value, comment=comment) for value, (_, _, comment) in zip(values, encoded, strict=True)]

    def _encode(self, tokenizer: Any, model: Any, candidate: Candidate) -> tuple[list[int], list[int], str | None]:
        """Return token ids, token types, and what had to be cut off from the response."""
        limit = self.max_length or min(
            int(getattr(model.config, "max_position_embeddings", 1 << 20)), int(tokenizer.model_max_length)
        )
        if self.input == "chat":
            messages = [*candidate.messages, {"role": "assistant", "content": candidate.text}]
            ids = list(
                tokenizer.apply_chat_template([dict(message) for message in messages], return_dict=True)["input_ids"]
            )
            return ids[-limit:], [0] * len(ids[-limit:]), None
        prompt = last_user_text(candidate) if self.input == "pair" else None
        response = candidate.text
        while len((encoded := _pair(tokenizer, prompt, response))["input_ids"]) > limit:
            over = len(encoded["input_ids"]) - limit
            if prompt:
                prompt = _cut(tokenizer, prompt, over, from_left=True)
            else:
                response = _cut(tokenizer, response, over, from_left=False)
        ids = list(encoded["input_ids"])
        types = list(encoded.get("token_type_ids") or [0] * len(ids))
        return ids, types, self._shortened(candidate.text, response)

    def _shortened(self, whole: str, read: str) -> str | None:
        if read == whole:
            return None
        comment = f"only the first {len(read)} of {len(whole)} characters of the response were read"
        warnings.warn(f"reward {self.name!r}: {comment}; let responses be shorter (max_tokens)", stacklevel=2)
        return comment

    def _values(self, model: Any, tokenizer: Any, rows: Sequence[tuple[list[int], list[int], Any]]) -> list[float]:
        import torch

        longest = max(len(ids) for ids, _, _ in rows)
        pad = tokenizer.pad_token_id or 0
        inputs = {
            "input_ids": [ids + [pad] * (longest - len(ids)) for ids, _, _ in rows],
            "attention_mask": [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _, _ in rows],
        }
        if "token_type_ids" in tokenizer.model_input_names:
            inputs["token_type_ids"] = [types + [0] * (longest - len(types)) for _, types, _ in rows]
        with torch.inference_mode():
            tensors = {name: torch.tensor(values, device=model.device) for name, values in inputs.items()}
            logits = model(**tensors).logits.float()
        return [float(value) for value in self._read(logits, self._label(model))]

    def _read(self, logits: torch.Tensor, label: int) -> torch.Tensor:
        """Return one value a row of logits, shape (rows, labels)."""
        import torch

        single = logits.shape[1] == 1
        output = self.output or ("logit" if single else "margin")
        if output == "logit":
            return logits[:, label]
        if output == "probability":
            return logits[:, 0].sigmoid() if single else logits.softmax(-1)[:, label]
        if output == "expected":
            return logits.softmax(-1) @ torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
        others = [index for index in range(logits.shape[1]) if index != label]
        return logits[:, label] - logits[:, others].logsumexp(-1)

    def _label(self, model: Any) -> int:
        count, names = int(model.config.num_labels), {str(k): v for k, v in (model.config.label2id or {}).items()}
        if count == 1 and self.output in ("margin", "expected"):
            raise ConfigurationError(
                f'output is "{self.output}" but the model has one logit; take "logit" or "probability"'
            )
        label = count - 1 if self.label is None else names.get(str(self.label), self.label)
        if not isinstance(label, int) or not -count <= label < count:
            raise ConfigurationError(f"label is {self.label!r}; the model has {', '.join(names)} (0 to {count - 1})")
        return label % count

    def _from_pretrained(self) -> tuple[Any, Any]:
        source = str(self.source)
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=getattr(torch, self.dtype), use_safetensors=True
            )
        except OSError as error:
            raise ModelNotFoundError(
                f"reward {self.name!r}: there is no classifier at {self.source!r}: {error}; "
                "give a checkpoint directory or a hub id"
            ) from error
        return model.to(self.device or "cpu").eval().requires_grad_(False), tokenizer


def _pair(tokenizer: Any, first: str | None, second: str) -> Any:
    return tokenizer(second) if first is None else tokenizer(first, second)


def _cut(tokenizer: Any, text: str, tokens: int, *, from_left: bool) -> str:
    """Return a text without its first or last tokens."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if tokens >= len(offsets):
        return ""
    return text[offsets[tokens][0] :] if from_left else text[: offsets[len(offsets) - tokens - 1][1]]


def _batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows of similar length so that no padded batch has more than `batch_tokens` tokens (one row always may)."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and lengths[row] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches
