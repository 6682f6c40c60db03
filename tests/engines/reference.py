"""Plain one-by-one decoding, written to be read rather than to be quick: what the engine must equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from aisp.engines.transformers.softmax import inverse_cdf, log_probabilities
from aisp.noise import gaussians, uniforms
from aisp.records import Proposal


@dataclass
class Reference:
    """Tokens and figures of a response that was decoded by full forward passes."""

    ids: list[int] = field(default_factory=list)
    log_prob: list[float] = field(default_factory=list)
    log_prior: list[float] = field(default_factory=list)
    kl_to_base: list[float] = field(default_factory=list)
    mean_dot: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)


def mean_at(proposal: Proposal, position: int, dim: int) -> torch.Tensor:
    total = torch.zeros(dim)
    for term in proposal.mean:
        weight = next((weight for stop, weight in term.spans if position < stop), 0.0)
        total += weight * gaussians([term.seed], torch.tensor([[position]]), dim)[0, 0]
    if proposal.shift is not None:
        total += torch.from_numpy(proposal.shift[min(position, len(proposal.shift) - 1)])
    return total


@torch.inference_mode()
def decode(model: Any, prompt: Sequence[int], proposal: Proposal, max_tokens: int, eos: Sequence[int]) -> Reference:
    """Decode one response by the definition: logits(z + v), by the model's own forward pass with a shifted input."""
    out = Reference()
    dim = model.config.get_text_config().hidden_size
    horizon = max_tokens if proposal.horizon is None else proposal.horizon
    for position in range(max_tokens):
        ids = torch.tensor([[*prompt, *out.ids]])
        mean = mean_at(proposal, position, dim) if position < horizon else torch.zeros(dim)
        noise = gaussians([proposal.seed], torch.tensor([[position]]), dim)[0, 0]
        shift = mean + proposal.scale * noise if position < horizon else mean
        base = shifted_logits(model, ids, torch.zeros(dim))
        proposed, steered = shifted_logits(model, ids, shift), shifted_logits(model, ids, mean)
        if proposal.sampling.greedy:
            token = int(proposed.argmax())
        else:
            uniform = uniforms([proposal.seed], torch.tensor([[position]]))[:, 0]
            token = int(inverse_cdf(log_probabilities(proposed[None], proposal.sampling).exp(), uniform)[0])
        out.ids.append(token)
        out.log_prob.append(float(base.log_softmax(-1)[token]))
        prior = log_probabilities(base[None], proposal.prior or proposal.sampling)[0]
        out.log_prior.append(float(prior[token]))
        out.entropy.append(float(-(prior.exp() * prior.clamp_min(-1e9)).sum()))
        log_q = steered.log_softmax(-1)
        out.kl_to_base.append(float((log_q.exp() * (log_q - base.log_softmax(-1))).sum()))
        out.mean_dot.append(float(mean @ shift))
        if token in eos:
            break
    return out


def shifted_logits(model: Any, ids: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return the model's logits behind `ids`, with the input of its head shifted."""
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _module, inputs: (inputs[0] + shift,))
    try:
        return model(input_ids=ids, use_cache=False).logits[0, -1]
    finally:
        hook.remove()
