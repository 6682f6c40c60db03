"""From pre-logits to tokens: perturb, draw, and measure what was drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from aisp.engines.draw import inverse_cdf, log_probabilities
from aisp.engines.head import Head
from aisp.engines.perturb import Perturbation, Perturber
from aisp.engines.rows import Row
from aisp.noise import uniforms
from aisp.records import TOKEN_FIGURES, Sampling

Taken = tuple[int, tuple[float, ...]]
"""A token, and its figures in the order of `aisp.records.TOKEN_FIGURES`."""


@torch.inference_mode()
def take(head: Head, perturber: Perturber, rows: Sequence[Row], pre_logits: Tensor) -> list[Taken]:
    """Take the next token of each row.

    Args:
        head: The LM head.
        perturber: Draws the perturbations.
        rows: n rows.
        pre_logits: z_t, shape (n, dim).
    """
    n = len(rows)
    perturbation = perturber.draw(rows)
    raw, shifts = _raw(head, pre_logits, perturbation)
    logits = head.finish(raw)
    figures = torch.zeros(n, len(TOKEN_FIGURES), dtype=torch.float64, device=logits.device)
    proposed = logits
    if perturbation is not None and shifts is not None:
        count = len(perturbation.rows)
        moved = raw.clone()
        moved[perturbation.rows] += shifts[:count]
        proposed = head.finish(moved)
        figures[:, 3] = _kl_to_base(head, raw, logits, shifts[count:], perturbation)
        figures[:, 4] = _mean_dot(n, perturbation)
    _measure_scale(rows, raw, logits)
    prior, proposed = _allowed(rows, logits, proposed)
    tokens = _draw(rows, prior, proposed, figures)
    _hold(rows, tokens, figures)
    _measure_scores(head, rows, tokens, proposed)
    figures[:, 0] = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    greedy = [i for i, row in enumerate(rows) if row.proposal.sampling.greedy]
    figures[greedy, 1] = figures[greedy, 0]
    return [(token, tuple(own)) for token, own in zip(tokens.tolist(), figures.tolist(), strict=True)]


def _raw(head: Head, pre_logits: Tensor, perturbation: Perturbation | None) -> tuple[Tensor, Tensor | None]:
    """Return W z + b of each row, and W v of the perturbed rows with W u of the means behind them."""
    if perturbation is None:
        return head.raw(pre_logits), None
    dtype = head.weight.dtype
    stacked = torch.cat([pre_logits, perturbation.vectors.to(dtype), perturbation.means.to(dtype)])
    linear = head.linear(stacked)
    n = pre_logits.shape[0]
    return head.add_bias(linear[:n]), linear[n:]


def _allowed(rows: Sequence[Row], logits: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    """Make impossible what the rows' grammars forbid, in the logits and in the perturbed ones, shape (n, vocab)."""
    matchers = [(i, row.matcher) for i, row in enumerate(rows) if row.matcher is not None]
    if not matchers:
        return logits, proposed
    places = [i for i, _ in matchers]
    forbidden = ~torch.stack([matcher.mask(logits.shape[-1]) for _, matcher in matchers]).to(logits.device)
    prior = logits.clone()
    prior[places] = prior[places].masked_fill_(forbidden, -torch.inf)
    if proposed is logits:
        return prior, prior
    proposed = proposed.clone()
    proposed[places] = proposed[places].masked_fill_(forbidden, -torch.inf)
    return prior, proposed


def _hold(rows: Sequence[Row], tokens: Tensor, figures: Tensor) -> None:
    """Put another token where the drawn one would leave no room to end; the forced one has probability 1."""
    for i, row in enumerate(rows):
        if row.matcher is not None:
            drawn = int(tokens[i])
            held = row.matcher.hold(drawn, row.remaining)
            if held != drawn:
                tokens[i] = held
                figures[i, 1:3] = 0.0


def _draw(rows: Sequence[Row], logits: Tensor, proposed: Tensor, figures: Tensor) -> Tensor:
    """Take tokens, shape (n,), and fill in the figures of softmax draws (log_prior, log_proposal, entropy)."""
    figures[:, 2] = torch.nan
    tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    for sampling, places in _by_sampling(rows, range(len(rows))).items():
        whole = len(places) == len(rows)
        theirs = proposed if whole else proposed[places]
        base = logits if whole else logits[places]
        if sampling.greedy:
            tokens[places] = theirs.argmax(-1)
            figures[places, 5] = _entropy(log_probabilities(base, sampling))
            continue
        log_q = log_probabilities(theirs, sampling)
        at = torch.tensor([[rows[i].position] for i in places], device=logits.device)
        uniform = uniforms([rows[i].proposal.seed for i in places], at)[:, 0]
        drawn = inverse_cdf(log_q.exp(), uniform)
        tokens[places] = drawn
        moved = proposed is not logits
        log_p = log_probabilities(base, sampling) if moved else log_q
        figures[places, 1] = log_p.gather(-1, drawn[:, None])[:, 0].double()
        figures[places, 5] = _entropy(log_p)
        known = [j for j, i in enumerate(places) if not (rows[i].perturbed and rows[i].proposal.scale)]
        of_drawn = log_q.gather(-1, drawn[:, None])[:, 0].double()
        figures[[places[j] for j in known], 2] = of_drawn[known]
    return tokens


def _by_sampling(rows: Sequence[Row], places: Iterable[int]) -> dict[Sampling, list[int]]:
    found: dict[Sampling, list[int]] = {}
    for i in places:
        found.setdefault(rows[i].proposal.sampling, []).append(i)
    return found


def _entropy(log_p: Tensor) -> Tensor:
    """Return the entropy in nats, float64 of shape (n,), of log-probabilities of shape (n, vocab)."""
    entropy: Tensor = torch.special.entr(log_p.exp()).sum(-1)
    return entropy.double()


def _kl_to_base(head: Head, raw: Tensor, logits: Tensor, mean_shifts: Tensor, perturbation: Perturbation) -> Tensor:
    """Return KL(softmax(W(z + u)) || softmax(W z)) of each row, shape (n,); 0 where there is no mean."""
    kl = torch.zeros(logits.shape[0], dtype=torch.float64, device=logits.device)
    steered = [(row, mean) for row, mean in zip(perturbation.rows, perturbation.mean_of, strict=True) if mean >= 0]
    if steered:
        rows, means = [row for row, _ in steered], [mean for _, mean in steered]
        log_q = torch.log_softmax(head.finish(raw[rows] + mean_shifts[means]), -1)
        log_p = torch.log_softmax(logits[rows], -1)
        kl[rows] = (log_q.exp() * (log_q - log_p)).sum(-1).double().clamp_(min=0.0)
    return kl


def _mean_dot(n: int, perturbation: Perturbation) -> Tensor:
    """Return u_t . v_t of each row, shape (n,); 0 where there is no mean."""
    dots = torch.zeros(n, dtype=torch.float64, device=perturbation.vectors.device)
    places = [place for place, mean in enumerate(perturbation.mean_of) if mean >= 0]
    if places:
        means = perturbation.means[[perturbation.mean_of[place] for place in places]]
        rows = [perturbation.rows[place] for place in places]
        dots[rows] = (means.double() * perturbation.vectors[places].double()).sum(-1)
    return dots


def _measure_scale(rows: Sequence[Row], raw: Tensor, logits: Tensor) -> None:
    for i, row in enumerate(rows):
        if row.meter is not None:
            row.meter.observe(raw[i], logits[i])


def _measure_scores(head: Head, rows: Sequence[Row], tokens: Tensor, proposed: Tensor) -> None:
    """Note W[y] - E_q[W] for the rows that ask for it."""
    asking = [i for i, row in enumerate(rows) if row.proposal.measure_scores]
    for sampling, places in _by_sampling(rows, asking).items():
        probabilities = log_probabilities(proposed[places], sampling).exp().to(head.weight.dtype)
        vectors = head.weight[tokens[places]] - probabilities @ head.weight
        for i, vector in zip(places, vectors, strict=True):
            rows[i].score_vectors.append(vector)
