"""From pre-logits to tokens: perturb, draw, and measure what was drawn."""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from aisp.engines.transformers.head import Head
from aisp.engines.transformers.perturbation import Perturbation, Perturber
from aisp.engines.transformers.sequence import Sequence, sequence_error
from aisp.engines.transformers.softmax import log_probabilities, softmax
from aisp.noise import uniforms
from aisp.records import GREEDY, TOKEN_FIGURES, Sampling

Sampled = tuple[int, tuple[float, ...]]
"""A token, and its figures in the order of `aisp.records.TOKEN_FIGURES`."""

# The columns of the tensors of figures.
_LOG_PROB = TOKEN_FIGURES.index("log_prob")
_LOG_PRIOR = TOKEN_FIGURES.index("log_prior")
_LOG_PROPOSAL = TOKEN_FIGURES.index("log_proposal")
_KL_TO_BASE = TOKEN_FIGURES.index("kl_to_base")
_MEAN_DOT = TOKEN_FIGURES.index("mean_dot")
_ENTROPY = TOKEN_FIGURES.index("entropy")

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
def sample(head: Head, perturber: Perturber, sequences: list[Sequence], pre_logits: Tensor) -> list[Sampled]:
    """Draw the next token of each sequence.

    Args:
        head: The LM head.
        perturber: Draws the perturbations.
        sequences: n of them.
        pre_logits: z_t, shape (n, dim).
    """
    n = len(sequences)
    perturbation = perturber.draw(sequences)
    raw, shifts = _raw(head, pre_logits, perturbation)
    figures = torch.zeros(n, len(TOKEN_FIGURES), dtype=torch.float64, device=raw.device)
    if perturbation is not None:
        figures[:, _MEAN_DOT] = _mean_dot(n, perturbation)
    uniform = _uniforms(sequences, raw.device)
    tokens = torch.empty(n, dtype=torch.int64, device=raw.device)
    asked: list[tuple[list[int], Tensor]] = []
    for places in _pieces(sequences, raw):
        where = slice(places[0], places[-1] + 1) if places[-1] - places[0] < len(places) else places
        some, moves = [sequences[i] for i in places], _moves(places, perturbation, shifts)
        drawn = _sample_alike(head, some, raw[where], moves, uniform[where])
        tokens[where] = drawn.tokens
        figures[where] += drawn.figures
        if drawn.probabilities is not None:
            asked.append(
                ([i for i in places if "score_vectors" in sequences[i].proposal.measures], drawn.probabilities)
            )
    _measure_scores(head, sequences, tokens, asked)
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


def _pieces(sequences: list[Sequence], raw: Tensor) -> abc.Iterator[list[int]]:
    """Yield places of rows that draw alike, so few that what is computed of them stays in a processor's cache."""
    at_once = max(1, _NUMBERS_AT_ONCE // raw.shape[1]) if raw.device.type == "cpu" else len(sequences)
    found: dict[tuple[Sampling, Sampling], list[int]] = {}
    for i, sequence in enumerate(sequences):
        found.setdefault((sequence.proposal.sampling, sequence.proposal.law), []).append(i)
    for places in found.values():
        for start in range(0, len(places), at_once):
            yield places[start : start + at_once]


def _moves(places: abc.Sequence[int], perturbation: Perturbation | None, shifts: Tensor | None) -> _Moves | None:
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
        shifts=_select(shifts, vectors),
        steered=steered,
        means=None if means == vectors else _select(shifts, [mean for mean in means if mean >= 0]),
    )


def _select(rows: Tensor, places: abc.Sequence[int]) -> Tensor:
    return rows.index_select(0, torch.tensor(places, dtype=torch.int64, device=rows.device))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """Tokens, their figures, and for the rows that ask for scores the probabilities that they were drawn with."""

    tokens: Tensor
    figures: Tensor
    probabilities: Tensor | None


def _sample_alike(head: Head, sequences: list[Sequence], raw: Tensor, moves: _Moves | None, uniform: Tensor) -> _Drawn:
    """Draw the next token of sequences that draw alike, from W z + b."""
    sampling = sequences[0].proposal.sampling
    figures = torch.zeros(len(sequences), len(TOKEN_FIGURES), dtype=torch.float64, device=raw.device)
    logits = proposed = head.finish(raw)
    log_total = logits.logsumexp(-1)
    if moves is not None:
        proposed = head.finish(_add_moves(raw, moves))
        _measure_kl(head, raw, logits, log_total, proposed, moves, figures)
    _measure_scale(sequences, raw, logits)
    prior, proposed = _forbid(sequences, logits, proposed)
    tokens = _draw(sequences, prior, proposed, uniform, figures)
    _hold_to_grammars(sequences, tokens, figures)
    figures[:, _LOG_PROB] = logits.gather(-1, tokens[:, None])[:, 0] - log_total
    if sampling.greedy:
        figures[:, _LOG_PRIOR] = figures[:, _LOG_PROB]
    asking = [j for j, sequence in enumerate(sequences) if "score_vectors" in sequence.proposal.measures]
    probabilities = log_probabilities(proposed[asking], sampling).exp_() if asking else None
    return _Drawn(tokens=tokens, figures=figures, probabilities=probabilities)


def _forbid(sequences: list[Sequence], logits: Tensor, proposed: Tensor) -> tuple[Tensor, Tensor]:
    """Make impossible what the grammars forbid, in the logits and in the perturbed ones, shape (n, vocab)."""
    places = [i for i, sequence in enumerate(sequences) if sequence.matcher is not None]
    if not places:
        return logits, proposed
    forbidden = ~torch.stack([_mask(sequences[i], logits.shape[-1]) for i in places]).to(logits.device)
    prior = logits.clone()
    prior[places] = prior[places].masked_fill_(forbidden, -torch.inf)
    if proposed is logits:
        return prior, prior
    proposed = proposed.clone()
    proposed[places] = proposed[places].masked_fill_(forbidden, -torch.inf)
    return prior, proposed


def _mask(sequence: Sequence, vocab_size: int) -> Tensor:
    """Return which tokens a sequence's grammar allows, bool, shape (vocab_size,)."""
    if sequence.matcher is None:
        return torch.ones(vocab_size, dtype=torch.bool)
    try:
        return torch.from_numpy(sequence.matcher.mask(vocab_size))
    except Exception as error:
        raise sequence_error(sequence, error) from error


def _hold_to_grammars(sequences: list[Sequence], tokens: Tensor, figures: Tensor) -> None:
    """Put another token where the drawn one would leave no room to end; the forced one has probability 1."""
    for i, sequence in enumerate(sequences):
        if sequence.matcher is not None:
            drawn = int(tokens[i])
            try:
                held = sequence.hold(drawn)
            except Exception as error:
                raise sequence_error(sequence, error) from error
            if held != drawn:
                tokens[i] = held
                figures[i, [_LOG_PRIOR, _LOG_PROPOSAL]] = 0.0


def _uniforms(sequences: list[Sequence], device: torch.device) -> Tensor:
    """Return the number that chooses each row's token, shape (n,); of no meaning where it is taken greedily."""
    if all(sequence.proposal.sampling.greedy for sequence in sequences):
        return torch.zeros(len(sequences), device=device)
    positions = torch.tensor([[sequence.position] for sequence in sequences], device=device)
    return uniforms([sequence.proposal.seed for sequence in sequences], positions)[:, 0]


def _draw(sequences: list[Sequence], logits: Tensor, proposed: Tensor, uniform: Tensor, figures: Tensor) -> Tensor:
    """Take tokens, shape (n,), and fill in the figures of softmax draws (log_prior, log_proposal, entropy)."""
    sampling, law = sequences[0].proposal.sampling, sequences[0].proposal.law
    figures[:, _LOG_PROPOSAL] = torch.nan
    if sampling.greedy:
        figures[:, _ENTROPY] = softmax(logits, sampling).entropy()
        return proposed.argmax(-1)
    proposal = softmax(proposed, sampling)
    prior = proposal if proposed is logits and law == sampling else softmax(logits, law)
    excluded = {j: sequence.excluded for j, sequence in enumerate(sequences) if sequence.excluded}
    if excluded:
        proposal = proposal.without(excluded)
    tokens = proposal.draw(uniform)
    figures[:, _LOG_PRIOR], figures[:, _ENTROPY] = prior.log_prob(tokens), prior.entropy()
    known = [j for j, sequence in enumerate(sequences) if not (sequence.perturbed and sequence.proposal.scale)]
    figures[known, _LOG_PROPOSAL] = proposal.log_prob(tokens)[known].double()
    return tokens


def _add_moves(raw: Tensor, moves: _Moves) -> Tensor:
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
    figures[moves.steered, _KL_TO_BASE] = kl.double().clamp_(min=0.0)


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


def _measure_scale(sequences: list[Sequence], raw: Tensor, logits: Tensor) -> None:
    for i, sequence in enumerate(sequences):
        if sequence.meter is not None:
            try:
                sequence.meter.observe(raw[i], logits[i])
            except Exception as error:
                raise sequence_error(sequence, error) from error


def _measure_scores(
    head: Head, sequences: list[Sequence], tokens: Tensor, asked: abc.Sequence[tuple[abc.Sequence[int], Tensor]]
) -> None:
    """Note W[y] - E_q[W] for the rows at the places that ask for it, from their probabilities."""
    if not asked:
        return
    places = [place for some, _ in asked for place in some]
    probabilities = torch.cat([theirs for _, theirs in asked]).to(head.weight.dtype)
    vectors = head.weight[tokens[places]] - probabilities @ head.weight
    for place, vector in zip(places, vectors, strict=True):
        sequences[place].score_vectors.append(vector)
