"""Plain samples of a model, several prompts in flight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aisp.bench.samples import draw_plain
from aisp.models import LoadedModel
from aisp.records import Candidate, Message, Sampling
from aisp.service import Service


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
    service = Service(model)

    def draw(messages: Sequence[Message]) -> list[Candidate]:
        drawn = draw_plain(
            service, messages, samples=samples, max_tokens=max_tokens, sampling=sampling or Sampling(), seed=seed
        )
        candidates = [candidate for candidate, _ in drawn]
        advance()
        return candidates

    with ThreadPoolExecutor(concurrency) as threads:
        return list(threads.map(draw, prompts))
