"""Attention of one new token a row over keys that rows of one prompt share, and keys of the row's own.

Registered with transformers as an attention function; it runs on a copy of the model's structure whose tensors are
the model's own (`shared_body`), so the user's model and its configuration stay as they are. The prompt's keys and
values are held once, whatever the number of rows: both parts are reduced on their own and merged by their
log-sum-exp, which is one softmax over both.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NAME = "aisp_shared_prefix"

_HARMLESS = {"position_ids", "cache_position", "use_cache", "is_causal", "output_attentions", "output_router_logits"}
"""Arguments that models pass to every attention function, and that leave the scores as they are."""

KV = list[tuple[Tensor, Tensor]]
"""Keys and values of a run of tokens: one pair a layer, each of shape (kv_heads, length, head_dim)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a batch that attend to one prompt.

    Args:
        rows: Their places in the batch, int64 of shape (n,).
        kv: The prompt's keys and values.
        mask: Additive, float32 of shape (length,), where the prompt fills only a part of them; None where it is whole.
    """

    rows: Tensor
    kv: KV
    mask: Tensor | None = None


class SharingUnsupportedError(Exception):
    """The model's attention asks for something that the shared form doesn't do."""


def shared_body(body: nn.Module) -> nn.Module:
    """Return a copy of a decoder's structure, over the same tensors, whose attention is `attend`."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    tensors = [*body.parameters(), *body.buffers()]
    clone = copy.deepcopy(body, {id(tensor): tensor for tensor in tensors})
    for module in clone.modules():
        config = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation_internal = NAME
    return clone


def _no_mask(**_: Any) -> None:
    """Leave the mask to `attend`: the batch brings its own."""


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    groups: Sequence[Group] = (),
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend from one token a row.

    Args:
        module: The attention layer.
        query: Shape (rows, heads, 1, head_dim).
        key: The rows' own keys, shape (rows, kv_heads, length, head_dim).
        value: Likewise.
        attention_mask: Additive, shape (rows, 1, 1, length).
        scaling: Factor of the scores.
        dropout: Must be 0.
        groups: Which rows share which prompt; a row in none has all its keys in `key`.
        **others: None, False, or known not to change the scores, as a soft-cap, a window, sinks or a bias would.

    Returns:
        Shape (rows, 1, heads, head_dim), and no weights.

    Raises:
        SharingUnsupportedError: An argument that this form doesn't know.
    """
    unknown = [name for name, got in others.items() if name not in _HARMLESS and got is not None and got is not False]
    if unknown or dropout or query.shape[2] != 1 or attention_mask is None:
        raise SharingUnsupportedError(f"attention with {', '.join(unknown) or 'dropout, several tokens or no mask'}")
    rows, heads, _, dim = query.shape
    kv_heads = key.shape[1]
    scale = dim**-0.5 if scaling is None else scaling
    if not groups:
        packed = query.reshape(rows, kv_heads, heads // kv_heads, dim)
        mask = attention_mask.to(query.dtype)
        out = nn.functional.scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
        return out.reshape(rows, 1, heads, dim), None
    query = query.reshape(rows, kv_heads, heads // kv_heads, dim) * scale
    scores = torch.matmul(query, key.transpose(2, 3)).float() + attention_mask
    top = scores.amax(-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    mass = weights.sum(-1, keepdim=True)
    out = torch.matmul(weights.to(value.dtype), value).float()
    for group in groups:
        _merge(query, out, mass, top, group, module.layer_idx)
    out = out / mass
    return out.reshape(rows, 1, heads, dim).to(value.dtype), None


def _merge(query: Tensor, out: Tensor, mass: Tensor, top: Tensor, group: Group, layer: int) -> None:
    """Merge the prompt's part into the running sums of a group's rows: shapes (rows, kv_heads, queries, ...)."""
    keys, values = group.kv[layer]
    rows = group.rows
    picked = query[rows]
    n, kv_heads, queries, dim = picked.shape
    flat = picked.transpose(0, 1).reshape(kv_heads, n * queries, dim)
    scores = torch.bmm(flat, keys.transpose(1, 2)).float()
    if group.mask is not None:
        scores = scores + group.mask
    peak = scores.amax(-1, keepdim=True)
    weights = scores.sub_(peak).exp_()

    def by_row(tensor: Tensor) -> Tensor:
        return tensor.view(kv_heads, n, queries, -1).transpose(0, 1)

    prompt_mass, prompt_top = by_row(weights.sum(-1, keepdim=True)), by_row(peak)
    prompt_out = by_row(torch.bmm(weights.to(values.dtype), values).float())
    own_top = top[rows]
    best = torch.maximum(own_top, prompt_top)
    own_factor, prompt_factor = (own_top - best).exp_(), (prompt_top - best).exp_()
    out[rows] = out[rows] * own_factor + prompt_out * prompt_factor
    mass[rows] = mass[rows] * own_factor + prompt_mass * prompt_factor
