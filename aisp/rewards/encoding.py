"""What a model reads of a candidate, within its limit: the prompt gives way first, then the response's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aisp.records import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A candidate as tokens.

    Args:
        ids: Token ids, at least one.
        types: Token types, as many.
        read: Characters of the response that are in them, from its start.
        comment: What was left out, in words; None where nothing was.
    """

    ids: list[int]
    types: list[int]
    read: int
    comment: str | None


def encode_texts(tokenizer: Any, prompt: str | None, response: str, limit: int) -> Encoded:
    """Encode a response, or the pair of prompt and response.

    Args:
        tokenizer: A fast tokenizer of transformers.
        prompt: None for the response alone.
        response: Kept as long as there is anything left of the prompt.
        limit: Tokens at most.
    """
    whole_prompt, whole = prompt or "", response
    while len((encoded := _tokens(tokenizer, prompt, response))["input_ids"]) > limit and (prompt or response):
        over = len(encoded["input_ids"]) - limit
        if prompt:
            prompt = _cut(tokenizer, prompt, over, from_left=True)
        else:
            response = _cut(tokenizer, response, over, from_left=False)
    ids = list(encoded["input_ids"]) or [tokenizer.pad_token_id or 0]
    types = list(encoded.get("token_type_ids") or [0] * len(ids))
    unread = len(whole_prompt) - len(prompt or "")
    lost = f"the first {unread} characters of the prompt were not read" if unread else None
    return Encoded(ids=ids, types=types, read=len(response), comment=_comment(lost, whole, len(response)))


def encode_chat(tokenizer: Any, messages: Sequence[Message], response: str, limit: int) -> Encoded:
    """Encode a conversation that ends with the response, through the tokenizer's chat template.

    Args:
        tokenizer: A fast tokenizer of transformers with a chat template.
        messages: The prompt, whose oldest tokens give way first.
        response: The assistant's turn.
        limit: Tokens at most.
    """
    whole = response
    ids = _conversation(tokenizer, messages, response)
    if len(ids) > limit:
        empty = _conversation(tokenizer, messages, "")
        tail = next((n for n, (a, b) in enumerate(zip(ids[::-1], empty[::-1], strict=False)) if a != b), 0)
        while (over := len(ids) - len(empty) + tail - limit) > 0 and response:
            response = _cut(tokenizer, response, over, from_left=False)
            ids = _conversation(tokenizer, messages, response)
    unread = max(len(ids) - limit, 0)
    lost = f"the first {unread} tokens of the conversation were not read" if unread else None
    return Encoded(
        ids=ids[unread:],
        types=[0] * (len(ids) - unread),
        read=len(response),
        comment=_comment(lost, whole, len(response)),
    )


def tokens_read(model: Any, tokenizer: Any) -> int:
    """Return how many tokens a model reads at most."""
    return min(int(getattr(model.config, "max_position_embeddings", 1 << 20)), int(tokenizer.model_max_length))


def padded(rows: Sequence[Encoded], tokenizer: Any, pad: int) -> dict[str, list[list[int]]]:
    """Return what a model reads of some rows, by the names of its inputs; `pad` fills up to the longest."""
    longest = max(len(row.ids) for row in rows)
    inputs = {
        "input_ids": [row.ids + [pad] * (longest - len(row.ids)) for row in rows],
        "attention_mask": [[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows],
    }
    if "token_type_ids" in tokenizer.model_input_names:
        inputs["token_type_ids"] = [row.types + [0] * (longest - len(row.types)) for row in rows]
    return inputs


def padded_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group rows of similar length so that no padded batch has more than `batch_tokens` tokens (one row always may)."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and lengths[row] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def _comment(lost: str | None, whole: str, read: int) -> str | None:
    short = f"only the first {read} of {len(whole)} characters of the response were read" if read < len(whole) else None
    return "; ".join(filter(None, [lost, short])) or None


def _conversation(tokenizer: Any, messages: Sequence[Message], response: str) -> list[int]:
    turns = [*(dict(message) for message in messages), {"role": "assistant", "content": response}]
    return list(tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"])


def _tokens(tokenizer: Any, prompt: str | None, response: str) -> Any:
    return tokenizer(response) if prompt is None else tokenizer(prompt, response)


def _cut(tokenizer: Any, text: str, tokens: int, *, from_left: bool) -> str:
    """Return a text without its first or last tokens."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if tokens >= len(offsets):
        return ""
    return text[offsets[tokens][0] :] if from_left else text[: offsets[len(offsets) - tokens - 1][1]]
