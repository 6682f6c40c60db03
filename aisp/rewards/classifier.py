"""Sequence classifiers and reward models of transformers, as rewards.

torch and transformers take seconds to import, so they are imported when a model is first needed.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aisp.errors import ConfigurationError, UnsupportedModelError
from aisp.models import devices
from aisp.models.quiet import no_progress_bars
from aisp.records import Candidate, Score
from aisp.rewards import checkpoints
from aisp.rewards.base import Reward
from aisp.rewards.encoding import Encoded, encode_chat, encode_texts, padded, padded_batches, tokens_read
from aisp.rewards.function import last_user_text

if TYPE_CHECKING:
    import torch

Output = Literal["logit", "probability", "margin", "expected"]
Input = Literal["text", "pair", "chat"]
_DTYPES = ("float32", "bfloat16", "float16")


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
            from the left; a response that is longer still loses its end. The score's comment says so.
        batch_tokens: Tokens of a padded batch, which bounds its memory whatever the number of candidates.
        device: Where a named model runs, the CPU by default. A loaded one runs where it is.
        dtype: Of a named model's weights: "float32" (the default), "bfloat16" or "float16".

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
        dtype: str | None = None,
        **options: Any,
    ) -> None:
        named = isinstance(model, (str, Path))
        super().__init__(**{"name": Path(model).name.replace(".", "_") if named else "classifier", **options})
        if input not in ("text", "pair", "chat"):
            raise ConfigurationError(f'input is {input!r}; expected "text", "pair" or "chat"')
        if output not in (None, "logit", "probability", "margin", "expected"):
            raise ConfigurationError(f'output is {output!r}; expected "logit", "probability", "margin" or "expected"')
        if dtype not in (None, *_DTYPES):
            raise ConfigurationError(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}")
        if not named and tokenizer is None:
            raise ConfigurationError("a loaded model was given without its tokenizer; give tokenizer=... too")
        if not named and (device is not None or dtype is not None):
            raise ConfigurationError(
                f"device is {device!r} and dtype {dtype!r}, but the model is loaded already; move it with model.to(...)"
            )
        self.source, self.input, self.output, self.label = (str(model) if named else None), input, output, label
        self.max_length, self.batch_tokens, self.device, self.dtype = max_length, batch_tokens, device, dtype
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Any] | None = None if named else (model, tokenizer)
        if not named:
            self._fits(model, tokenizer)

    def config(self) -> Mapping[str, Any]:
        own = {
            key: value for key, value in vars(self).items() if not key.startswith("_") and key not in ("name", "cost")
        }
        return {**own, "object": None if self._loaded is None or self.source else id(self._loaded[0])}

    def check(self) -> None:
        """Find a checkpoint that isn't there or brings code, and a label that it doesn't have.

        Raises:
            ModelNotFoundError: There is no such checkpoint.
            UnsupportedModelError: It brings code of its own.
            ConfigurationError: Settings that don't fit it.
        """
        if self.source is None or self._loaded is not None:
            return
        config = checkpoints.find(self.source, self.name, "classifier")
        labels = config.get("id2label")
        if isinstance(labels, dict) and labels:
            numbers = {name: int(number) for number, name in labels.items()}
            self._label_of(len(labels), config.get("label2id") or numbers)

    def load(self) -> tuple[Any, Any]:
        """Return model and tokenizer, loaded the first time.

        Raises:
            ModelNotFoundError: There is no such checkpoint.
            UnsupportedModelError: It has no classification head.
        """
        with self._lock:
            if self._loaded is None:
                loaded = self._from_pretrained()
                self._fits(*loaded)
                self._loaded = loaded
            return self._loaded

    def _score(self, candidates: Sequence[Candidate]) -> Sequence[Score]:
        model, tokenizer = self.load()
        encoded = [self._encode(tokenizer, model, candidate) for candidate in candidates]
        values: list[float] = [0.0] * len(encoded)
        # Models that read a sequence's last token find it by the padding token; one without it is read row by row.
        padding = getattr(model.config, "pad_token_id", None) is not None
        batches = padded_batches([len(row.ids) for row in encoded], self.batch_tokens if padding else 0)
        for rows in batches:
            for row, value in zip(rows, self._values(model, tokenizer, [encoded[row] for row in rows]), strict=True):
                values[row] = value
        return [Score(value=value, comment=row.comment) for value, row in zip(values, encoded, strict=True)]

    def _encode(self, tokenizer: Any, model: Any, candidate: Candidate) -> Encoded:
        limit = self.max_length or tokens_read(model, tokenizer)
        if self.input == "chat":
            encoded = encode_chat(tokenizer, candidate.messages, candidate.text, limit)
        else:
            prompt = last_user_text(candidate) if self.input == "pair" else None
            encoded = encode_texts(tokenizer, prompt, candidate.text, limit)
        if encoded.read < len(candidate.text):
            warnings.warn(
                f"reward {self.name!r}: {encoded.comment}; let responses be shorter (max_tokens)", stacklevel=2
            )
        return encoded

    def _values(self, model: Any, tokenizer: Any, rows: Sequence[Encoded]) -> list[float]:
        import torch

        pad = getattr(model.config, "pad_token_id", None) or 0  # the one that the model looks for
        inputs = padded(rows, tokenizer, pad)
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

    def _fits(self, model: Any, tokenizer: Any) -> None:
        """Refuse what these settings can't be used with."""
        self._label(model)
        if self.input == "chat" and not getattr(tokenizer, "chat_template", None):
            raise ConfigurationError(
                f'reward {self.name!r}: input is "chat" but the tokenizer has no chat template; take "pair" or "text"'
            )

    def _label(self, model: Any) -> int:
        return self._label_of(int(model.config.num_labels), model.config.label2id or {})

    def _label_of(self, count: int, numbers: Mapping[str, int]) -> int:
        """Return the number of the label that counts, of `count`."""
        names = {str(name): number for name, number in numbers.items()}
        if count == 1 and self.output in ("margin", "expected"):
            raise ConfigurationError(
                f'output is "{self.output}" but the model has one logit; take "logit" or "probability"'
            )
        label = count - 1 if self.label is None else names.get(str(self.label), self.label)
        if not isinstance(label, int) or not -count <= label < count:
            raise ConfigurationError(f"label is {self.label!r}; the model has {', '.join(names)} (0 to {count - 1})")
        return label % count

    def _from_pretrained(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        source, device = str(self.source), devices.resolve_device(self.device or "cpu")
        checkpoints.find(source, self.name, "classifier")
        with no_progress_bars(), checkpoints.named(source, self.name, "classifier"):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            model, found = AutoModelForSequenceClassification.from_pretrained(
                source,
                dtype=getattr(torch, self.dtype or "float32"),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        if found["missing_keys"]:  # which transformers would draw at random
            missing = ", ".join(sorted(found["missing_keys"]))
            raise UnsupportedModelError(
                f"reward {self.name!r}: the checkpoint {source!r} has no {missing}; expected one that was trained to "
                "classify, head included"
            )
        return model.to(device).eval().requires_grad_(False), tokenizer
