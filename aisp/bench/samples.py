"""Plain samples of a model: pools to compare a search with, and what a reward is tried on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aisp.call import make_request
from aisp.noise import root_seed, row_seed
from aisp.records import Candidate, Message, Proposal, Rollout, Sampling
from aisp.service import Service

_ROUND = 64


def draw_plain(
    service: Service, messages: Sequence[Message], *, samples: int, max_tokens: int, sampling: Sampling, seed: int
) -> Iterator[tuple[Candidate, Rollout]]:
    """Yield what a model says to a prompt by itself, as rewards see it and as the engine wrote it.

    Args:
        service: Whose model is asked.
        messages: The prompt, OpenAI-style.
        samples: Responses.
        max_tokens: Of a response.
        sampling: How tokens are drawn.
        seed: Equal seeds give equal responses in float32.
    """
    call = service.read({"max_tokens": max_tokens, "seed": seed})
    engine = service.engine
    request = make_request(engine.codec, messages, call)
    prefix, root = engine.prefill(request.prompt_tokens), root_seed(seed, request.prompt_tokens)
    for start in range(0, samples, _ROUND):
        seeds = [row_seed(root, start // _ROUND, row) for row in range(min(_ROUND, samples - start))]
        proposals = [Proposal(seed=own, sampling=sampling) for own in seeds]
        for rollout in engine.rollout(prefix, proposals, request.limits):
            yield call.form.parse(request, rollout), rollout
