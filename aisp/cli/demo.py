"""`aisp demo`: three prompts, answered plainly, by best-of-n, and steered, with one reward and at equal budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from aisp.cli.align import search_progress, watched
from aisp.rewards import Avoids, Length, Regex, Reward, Sentiment, veto
from aisp.search.trace import Alignment

PROMPTS = (
    "My flight was cancelled and I am stuck at the airport overnight. What should I do?",
    "Write a short message to a colleague whose project was stopped.",
    "What is there to like about rainy days?",
)
STRATEGIES = ("plain", "best_of_n", "tilted_restart")


def demo_reward() -> Reward:
    """Warm, of 15 to 35 words, with an end, and without the phrase that gives a machine away."""
    kept = 0.3 * Length(15, 35) + 0.3 * Regex(r"[.!?]\s*$", name="finished")
    return Sentiment(measure="balance") + kept + veto(Avoids("as an AI"))


def run(*, model: str, budget: int, max_tokens: int, seed: int, plot: Path | None) -> dict[str, list[Alignment]]:
    """Run the demonstration and print it; return the searches by strategy."""
    console = Console()
    reward = demo_reward()
    console.print(
        f"[bold]{model}[/], reward = sentiment + 0.3 length(15..35 words) + 0.3 finished, veto(avoids 'as an AI')",
        highlight=False,
    )
    console.print(f"{budget} responses a search, {max_tokens} tokens at most, seed {seed}\n", highlight=False)
    found: dict[str, list[Alignment]] = {strategy: [] for strategy in STRATEGIES}
    for prompt in PROMPTS:
        console.print(Panel(escape(prompt), title="prompt", title_align="left", style="bold"))
        for strategy in STRATEGIES:
            settings: dict[str, Any] = {"max_tokens": max_tokens, "seed": seed}
            settings |= (
                {"strategy": "best_of_n", "budget": 1}
                if strategy == "plain"
                else {"strategy": strategy, "budget": budget}
            )
            with search_progress(console) as progress:
                alignment = watched(progress, strategy, prompt, reward, model, settings)
            found[strategy].append(alignment)
            console.print(
                f"[bold]{strategy}[/]  reward [bold]{alignment.best.reward:.3f}[/]  {alignment.cost.seconds:.0f} s"
            )
            console.print(f"  {escape(' '.join(alignment.text.split()))}\n")
    console.print(_summary(found))
    if plot is not None:
        from aisp.plot import plot_alignments

        plot_alignments({name: runs[0] for name, runs in found.items() if name != "plain"}, plot)
        console.print(f"the first prompt's searches are drawn in {plot}", highlight=False)
    return found


def _summary(found: dict[str, list[Alignment]]) -> Table:
    prompts = (f"prompt {i + 1}" for i in range(len(PROMPTS)))
    table = Table("reward of", *prompts, "mean", "responses", "tokens", "seconds", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for strategy, runs in found.items():
        rewards = [alignment.best.reward for alignment in runs]
        table.add_row(
            strategy,
            *(f"{reward:.3f}" for reward in rewards),
            f"{sum(rewards) / len(rewards):.3f}",
            str(runs[0].cost.responses),
            str(sum(alignment.cost.forward_tokens for alignment in runs)),
            f"{sum(alignment.cost.seconds for alignment in runs):.0f}",
        )
    return table
