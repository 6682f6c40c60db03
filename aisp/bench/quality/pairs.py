"""Pairs of answers to read: best-of-n's beside a search's, to the same prompt, after as many responses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from aisp.bench.quality.chosen import Chosen, from_pool, from_search
from aisp.bench.quality.runs import Quality
from aisp.records import Candidate
from aisp.rewards.function import last_user_text


def shown_pairs(quality: Quality, plain: str, number: int) -> str:
    """Return pairs of answers as Markdown, in the order of the prompts: nobody chose them.

    Args:
        quality: The benchmark, run.
        plain: How best-of-n samples.
        number: Pairs, each prompt once before any comes up again with another strategy or seed.
    """
    n = min(quality.budget, quality.pool_size)
    told = list(islice(_pairs(quality, plain, n), number))
    head = f"**{len(told)} pairs of answers** after {n} responses, as they come: best-of-n's, then the search's.\n"
    return "\n".join([head, *told]) if told else ""


def _pairs(quality: Quality, plain: str, n: int) -> Iterator[str]:
    for seed in quality.seeds:
        for name in quality.strategies:
            for prompt, messages in enumerate(quality.prompts):
                request = last_user_text(Candidate(messages=messages, text=""))
                theirs = from_pool(quality, plain, prompt, seed, n)
                ours = from_search(quality, name, prompt, seed, n)
                yield "\n".join(
                    [
                        f"Prompt {prompt + 1}, seed {seed}:\n",
                        _fenced(request),
                        _told(f"best of {n}, {plain}", theirs),
                        _told(name, ours),
                    ]
                )


def _told(who: str, answer: Chosen | None) -> str:
    if answer is None:
        return f"{who}: no answer, all were vetoed.\n"
    others = "".join(f", {name} {value:.3f}" for name, value in answer.held_out.items())
    return f"{who}, reward {answer.reward:.3f}{others}:\n\n{_fenced(answer.text)}"


def _fenced(text: str) -> str:
    """Return a text that Markdown shows as it is, whatever it holds."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{fence}text\n{text}\n{fence}\n"
