"""Plain samples of a model, several prompts in flight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aisp.engines import engine_for
from aisp.models import LoadedModel
from aisp.noise import root_seed, row_seed
from aisp.records import Candidate, Limits, Message, Proposal, Sampling
from aisp.search.loop import Request, text_candidate

_ROUND = 64


def draw_samples(
    model: LoadedModel,
    prompts: Sequence[Sequence[Message]],
    *,
    samples: int = 16,
    max_tokens: int = 64,
    sampling: Sampling | None = None,
    seed: int = 0,
    concurrency: int = 8,
    advance: Callable[[], None] = lambda: None,
) -> list[list[Candidate]]:
    """Return what a model says to each prompt by itself, as rewards see it.

    Args:
        model: The model.
        prompts: Each as OpenAI-style messages.
        samples: Responses a prompt.
        max_tokens: Of a response.
        sampling: How tokens are drawn; None for temperature 1, untruncated.
        seed: Equal seeds give equal responses in float32.
        concurrency: Prompts in flight at once; their rows share the decode batch.
        advance: Called as each prompt is done.
    """
    engine, limits, drawn_by = engine_for(model), Limits(max_tokens=max_tokens), sampling or Sampling()

    def draw(messages: Sequence[Message]) -> list[Candidate]:
        tokens = model.encode(messages)
        request = Request(messages=messages, prompt_tokens=tokens, limits=limits, seed=seed)
        prefix, root, rollouts = engine.prefill(tokens), root_seed(seed, tokens), []
        for start in range(0, samples, _ROUND):
            rows = range(min(_ROUND, samples - start))
            seeds = [row_seed(root, start // _ROUND, row) for row in rows]
            rollouts += engine.rollout(prefix, [Proposal(seed=own, sampling=drawn_by) for own in seeds], limits)
        advance()
        return [text_candidate(request, rollout) for rollout in rollouts]

    with ThreadPoolExecutor(concurrency) as threads:
        return list(threads.map(draw, prompts))
