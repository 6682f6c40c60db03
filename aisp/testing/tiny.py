"""A tiny language model and its tokenizer, made from a seed, with no file and no network.

The model's weights are random, so what it says is noise; but its distributions are neither flat nor peaked, its
end-of-sequence token has a share of them, and a seed gives the same weights on every machine.
"""

from __future__ import annotations

from typing import Any

from aisp.errors import ConfigurationError
from aisp.models import LoadedModel, load

__all__ = ["CHATML_TEMPLATE", "tiny_loaded_model", "tiny_model", "tiny_tokenizer"]

CHATML_TEMPLATE = """\
{%- if tools %}<|im_start|>system
You may call these functions:
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role not in ["system", "user", "assistant", "tool"] %}
{{- raise_exception("no such role: " + message.role) }}
{%- endif %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
<tool_call>{{ call.function | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WORDS = (
    *(
        "the",
        "and",
        "of",
        "to",
        "in",
        "is",
        "you",
        "that",
        "it",
        "for",
        "was",
        "on",
        "are",
        "with",
        "as",
        "his",
        "they",
    ),
    *("be", "at", "one", "have", "this", "from", "or", "had", "by", "hot", "but", "good", "bad", "not", "yes", "no"),
)
_BASE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
_KV = {"num_key_value_heads": 2}
_EXTRA: dict[str, dict[str, Any]] = {
    "llama": {**_BASE, **_KV, "tie_word_embeddings": True},
    "mistral": {**_BASE, **_KV, "sliding_window": None},
    "qwen2": {**_BASE, **_KV},
    "qwen3": {**_BASE, **_KV, "head_dim": 16},
    "gemma2": {
        **_BASE,
        **_KV,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 16,
        "tie_word_embeddings": False,
    },
    "gemma3_text": {**_BASE, **_KV, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16},
    "phi3": {**_BASE, **_KV},
    "granite": {**_BASE, **_KV, "logits_scaling": 1.5},
    "cohere": {**_BASE, **_KV, "logit_scale": 0.6, "tie_word_embeddings": False},
    "gpt_neox": {**_BASE},
    "phi": {**_BASE},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "tie_word_embeddings": False},
}
ARCHITECTURES = tuple(_EXTRA)
"""What `tiny_model` can be."""

_LOGIT_STD = 1.6  # the softmax over some 300 tokens then has an entropy of about 4.5 nats


def tiny_tokenizer() -> Any:
    """Build a byte-level BPE tokenizer with a ChatML template; any text goes through it and back unchanged.

    Its control tokens are `<|endoftext|>`, `<|im_start|>` and `<|im_end|>` (ids 0 to 2); the last one ends a turn and
    is its end-of-sequence token.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: index for index, token in enumerate(_SPECIAL)}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[symbol] = len(vocab)
    merges = []
    for word in _WORDS:
        symbols = "\u0120" + word  # how byte-level BPE writes a word that follows a space
        for end in range(2, len(symbols) + 1):
            if symbols[:end] not in vocab:
                merges.append((symbols[: end - 1], symbols[end - 1]))
                vocab[symbols[:end]] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    build: Any = PreTrainedTokenizerFast  # not typed
    return build(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
        chat_template=CHATML_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(architecture: str = "llama", seed: int = 0, vocab_size: int | None = None, **config: Any) -> Any:
    """Build a causal language model of two layers and 64 dimensions, float32, on the CPU, in evaluation mode.

    Args:
        architecture: A model type of transformers, one of those that have a head of interest: tied ("llama"), biased
            ("phi"), scaled ("granite", "cohere") or soft-capped ("gemma2").
        seed: Of the weights. Neither reads nor changes the global random state.
        vocab_size: Rows of the embedding. None takes the size of `tiny_tokenizer()`; more is a padded vocabulary.
        **config: Fields of the architecture's configuration that win over the ones chosen here.

    Raises:
        ConfigurationError: An architecture that is not prepared here.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if architecture not in _EXTRA:
        raise ConfigurationError(f"architecture is {architecture!r}; expected one of {', '.join(sorted(_EXTRA))}")
    tokenizer = tiny_tokenizer()
    fields = {
        "vocab_size": len(tokenizer) if vocab_size is None else vocab_size,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **_EXTRA[architecture],
    }
    settings = AutoConfig.for_model(architecture, **{**fields, **config})
    with torch.random.fork_rng(devices=[]):  # building initialises, from the global state
        auto: Any = AutoModelForCausalLM  # not typed
        model = auto.from_config(settings, dtype=torch.float32)
    _fill(model, seed)
    return model.eval().requires_grad_(False)


def tiny_loaded_model(architecture: str = "llama", seed: int = 0, **config: Any) -> LoadedModel:
    """Build `tiny_model` and `tiny_tokenizer` and wrap them as `aisp.models.load` does."""
    return load(tiny_model(architecture, seed, **config), tokenizer=tiny_tokenizer())


def _fill(model: Any, seed: int) -> None:
    """Draw every weight from one generator, in the order of the names, whatever the library's own initialisation is."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ends = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            draw = torch.randn(weight.shape, generator=generator)
            if weight.dim() < 2:
                # Norms stay near what they were (1, or 0 where the layer adds 1); biases become visible.
                weight.add_(0.1 * draw)
            elif id(weight) in ends:
                weight.copy_(draw * (_LOGIT_STD / model.config.get_text_config().hidden_size ** 0.5))
            else:
                weight.copy_(draw / _fan_in(name, weight) ** 0.5)


def _fan_in(name: str, weight: Any) -> int:
    """GPT-2 keeps its matrices transposed, inputs first."""
    return int(weight.shape[0] if "c_" in name else weight.shape[1])
