"""From pre-logits to tokens: perturb, draw, and measure what was drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aisp.engines.transformers.head import Head
from aisp.engines.transformers.perturbation import Perturbation, Perturber
from aisp.engines.transformers.sequence import Row
from aisp.engines.transformers.softmax import log_probabilities, softmax
from aisp.noise import uniforms
from aisp.records import GREEDY, TOKEN_FIGURES, Sampling

Taken = tuple[int, tuple[float, ...]]
"""A token, and its figures in the order of `aisp.records.TOKEN_FIGURES`."""

# With a vocabulary of 49,152 the figures of 32 rows take 30 ms of a step of 230 where they are computed of all rows at
# once, and 7 ms in pieces of 10.
_NUMBERS_AT_ONCE = 1 << 19


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moves:
    """What is added to the raw logits of some rows.

    Args:
        places: The rows that are moved, among those.
        shifts: W v of each, shape (len(places), vocab).
        steered: The rows that have a mean.
        means: W u of each, shape (len(steered), vocab); None where all that is added is means.
    """

    places: list[int]
    shifts: Tensor
    steered: list[int]
    means: Tensor | None


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
    figures = torch.zeros(n, len(TOKEN_FIGURES), dtype=torch.float64, device=raw.device)
    if perturbation is not None:
        figures[:, 4] = _mean_dot(n, perturbation)
    uniform = _uniforms(rows, raw.device)
    tokens = torch.empty(n, dtype=torch.int64, device=raw.device)
    asked: list[tuple[list[int], Tensor]] = []
    for places in _pieces(rows, raw):
        where = slice(places[0], places[-1] + 1) if places[-1] - places[0] < len(places) else places
        some, moves = [rows[i] for i in places], _moves(places, perturbation, shifts)
        drawn = _take_some(head, some, raw[where], moves, uniform[where])
        tokens[where] = drawn.tokens
        figures[where] += drawn.figures
        if drawn.probabilities is not None:
            asked.append(([i for i in places if "score_vectors" in rows[i].proposal.measures], drawn.probabilities))
    _measure_scores(head, rows, tokens, asked)
    whole = torch.cat([tokens[:, None].double(), figures], 1).tolist()  # one wait for the device
    return [(int(token), tuple(own)) for token, *own in whole]


def _raw(head: Head, pre_logits: Tensor, perturbation: Perturbation | None) -> tuple[Tensor, Tensor | None]:
    """Return W z + b of each row, and what W makes of the perturbation's vectors."""
    if perturbation is None:
        return head.raw(pre_logits), None
    dtype = head.weight.dtype
    stacked = torch.cat([pre_logits, perturbation.vectors.to(dtype)])
    linear = head.linear(stacked)
    n = pre_logits.shape[0]
    return head.add_bias(linear[:n]), linear[n:]


def _pieces(rows: Sequence[Row], raw: Tensor) -> Iterator[list[int]]:
    """Yield places of rows that draw alike, so few that what is computed of them stays in a processor's cache."""
    at_once = max(1, _NUMBERS_AT_ONCE // raw.shape[1]) if raw.device.type == "cpu" else len(rows)
    found: dict[tuple[Sampling, Sampling], list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault((row.proposal.sampling, row.proposal.law), []).append(i)
    for places in found.values():
        for start in range(0, len(places), at_once):
            yield places[start : start + at_once]


def _moves(places: Sequence[int], perturbation: Perturbation | None, shifts: Tensor | None) -> _Moves | None:
    """Return what concerns the rows at some places of the batch; None if nothing does."""
    if perturbation is None or shifts is None:
        return None
    where = {row: i for i, row in enumerate(perturbation.rows)}
    moved = [(j, where[place]) for j, place in enumerate(places) if place in where]
    if not moved:
        return None
    vectors, means = [perturbation.vector_of[i] for _, i in moved], [perturbation.mean_of[i] for _, i in moved]
    steered = [j for (j, _), mean in zip(moved, means, strict=True) if mean >= 0]
    return _Moves(
        places=[j for j, _ in moved],
        shifts=_picked(shifts, vectors),
        steered=steered,
        means=None if means == vectors else _picked(shifts, [mean for mean in means if mean >= 0]),
    )


def _picked(rows: Tensor, places: Sequence[int]) -> Tensor:
    return rows.index_select(0, torch.tensor(places, dtype=torch.int64, device=rows.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """Tokens, their figures, and for the rows that ask for scores the probabilities that they were drawn with."""

    tokens: Tensor
    figures: Tensor
    probabilities: Tensor | None


def _take_some(head: Head, rows: Sequence[Row], raw: Tensor, moves: _Moves | None, uniform: Tensor) -> _Drawn:
    """Take the next token of rows that draw alike, from W z + b."""
    sampling = rows[0].proposal.sampling
    figures = torch.zeros(len(rows), len(TOKEN_FIGURES), dtype=torch.float64, device=raw.device)
    logits = proposed = head.finish(raw)
    log_total = logits.logsumexp(-1)
    if moves is not None:
        proposed = head.finish(_moved(raw, moves))
        _measure_kl(head, raw, logits, log_total, proposed, moves, figures)
    _measure_scale(rows, raw, logits)
    prior, proposed = _allowed(rows, logits, proposed)
    tokens = _draw(rows, prior, proposed, uniform, figures)
    _hold(rows, tokens, figures)
    figures[:, 0] = logits.gather(-1, tokens[:, None])[:, 0] - log_total
    if sampling.greedy:
        figures[:, 1] = figures[:, 0]
    asking = [j for j, row in enumerate(rows) if "score_vectors" in row.proposal.measures]
    probabilities = log_probabilities(proposed[asking], sampling).exp_() if asking else None
    return _Drawn(tokens=tokens, figures=figures, probabilities=probabilities)


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


def _uniforms(rows: Sequence[Row], device: torch.device) -> Tensor:
    """Return the number that chooses each row's token, shape (n,); of no meaning where it is taken greedily."""
    if all(row.proposal.sampling.greedy for row in rows):
        return torch.zeros(len(rows), device=device)
    positions = torch.tensor([[row.position] for row in rows], device=device)
    return uniforms([row.proposal.seed for row in rows], positions)[:, 0]


def _draw(rows: Sequence[Row], logits: Tensor, proposed: Tensor, uniform: Tensor, figures: Tensor) -> Tensor:
    """Take tokens, shape (n,), and fill in the figures of softmax draws (log_prior, log_proposal, entropy)."""
    sampling, law = rows[0].proposal.sampling, rows[0].proposal.law
    figures[:, 2] = torch.nan
    if sampling.greedy:
        figures[:, 5] = softmax(logits, sampling).entropy()
        return proposed.argmax(-1)
    proposal = softmax(proposed, sampling)
    prior = proposal if proposed is logits and law == sampling else softmax(logits, law)
    excluded = {j: row.excluded for j, row in enumerate(rows) if row.excluded}
    if excluded:
        proposal = proposal.without(excluded)
    tokens = proposal.draw(uniform)
    figures[:, 1], figures[:, 5] = prior.log_prob(tokens), prior.entropy()
    known = [j for j, row in enumerate(rows) if not (row.perturbed and row.proposal.scale)]
    figures[known, 2] = proposal.log_prob(tokens)[known].double()
    return tokens


def _moved(raw: Tensor, moves: _Moves) -> Tensor:
    """Return W (z + v) + b."""
    if len(moves.places) == len(raw):
        return raw + moves.shifts
    moved = raw.clone()
    moved[moves.places] += moves.shifts
    return moved


def _measure_kl(
    head: Head, raw: Tensor, logits: Tensor, log_total: Tensor, proposed: Tensor, moves: _Moves, figures: Tensor
) -> None:
    """Fill in KL(softmax(W(z + u)) || softmax(W z)) of each row that has a mean."""
    if not moves.steered:
        return
    at = slice(None) if len(moves.steered) == len(raw) else moves.steered
    steered = proposed[at] if moves.means is None else head.finish(raw[at] + moves.means)
    q = softmax(steered, GREEDY)  # at temperature 1
    kl = q.mean(q.scores - logits[at]) - q.log_total + log_total[at]
    figures[moves.steered, 3] = kl.double().clamp_(min=0.0)


def _mean_dot(n: int, perturbation: Perturbation) -> Tensor:
    """Return u_t . v_t of each row, shape (n,); 0 where there is no mean."""
    vectors = perturbation.vectors.double()
    dots = torch.zeros(n, dtype=torch.float64, device=vectors.device)
    of = zip(perturbation.rows, perturbation.mean_of, perturbation.vector_of, strict=True)
    steered = [(row, mean, vector) for row, mean, vector in of if mean >= 0]
    if steered:
        rows, means, own = (list(column) for column in zip(*steered, strict=True))
        dots[rows] = (vectors[means] * vectors[own]).sum(-1)
    return dots


def _measure_scale(rows: Sequence[Row], raw: Tensor, logits: Tensor) -> None:
    for i, row in enumerate(rows):
        if row.meter is not None:
            row.meter.observe(raw[i], logits[i])


def _measure_scores(
    head: Head, rows: Sequence[Row], tokens: Tensor, asked: Sequence[tuple[Sequence[int], Tensor]]
) -> None:
    """Note W[y] - E_q[W] for the rows at the places that ask for it, from their probabilities."""
    if not asked:
        return
    places = [place for some, _ in asked for place in some]
    probabilities = torch.cat([theirs for _, theirs in asked]).to(head.weight.dtype)
    vectors = head.weight[tokens[places]] - probabilities @ head.weight
    for place, vector in zip(places, vectors, strict=True):
        rows[place].score_vectors.append(vector)
