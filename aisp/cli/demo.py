"""`aisp demo`: a few prompts answered plainly, by best-of-n, and steered, with one reward and at equal budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

import aisp
from aisp.cli.checks import check_rewards
from aisp.cli.options import ModelOption, read_settings
from aisp.cli.outputs import check_picture
from aisp.cli.progress import loading
from aisp.cli.searching import search_progress, watched
from aisp.cli.terminal import add_row, new_table, printable, show, show_all
from aisp.models import DEFAULT_MODEL
from aisp.plot import plot_alignments
from aisp.rewards import Avoids, Length, Regex, Reward, Sentiment, veto
from aisp.search.trace import Alignment

PROMPTS = (
    "My flight was cancelled and I am stuck at the airport overnight. What should I do?",
    "Write a short message to a colleague whose project was stopped.",
    "What is there to like about rainy days?",
)
STRATEGIES = ("plain", "best_of_n", "tilted_restart")

_EPILOG = """\
Examples:

  aisp demo

  aisp demo --budget 64 --plot demo.png"""

command = typer.Typer(add_completion=False)


@command.command("demo", epilog=_EPILOG)
def demo(
    model: ModelOption = DEFAULT_MODEL,
    budget: Annotated[int, typer.Option(help="Responses for each prompt and strategy.")] = 32,
    max_tokens: Annotated[int, typer.Option(help="Response tokens at most.")] = 48,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal answers.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="A picture of reward against budget: .png, .svg or .pdf.")] = None,
) -> None:
    """Answer three prompts plainly, by best-of-n, and steered, at equal budget."""
    reward, console = demo_reward(), Console()
    searches = {name: _settings(name, budget, max_tokens, seed) for name in STRATEGIES}
    services = {name: aisp.Service(model, reward, read_settings(own)) for name, own in searches.items()}
    for service in services.values():
        service.check()
    check_picture(plot)
    check_rewards(reward)
    show(console, f"{model}, reward = sentiment + 0.3 length(15..35 words) + 0.3 finished, veto(avoids 'as an AI')")
    show(console, f"{budget} responses a search, {max_tokens} tokens at most, seed {seed}\n")
    with loading(console, model):
        _ = services["plain"].engine
    found: dict[str, list[Alignment]] = {name: [] for name in STRATEGIES}
    for prompt in PROMPTS:
        console.print(Panel(Text(prompt), title="prompt", title_align="left", style="bold"))
        for name, service in services.items():
            found[name].append(_shown(console, prompt, name, service, searches[name]["budget"]))
    show_all(console, _summary(found))
    if plot is not None:
        plot_alignments({name: runs[0] for name, runs in found.items() if name != "plain"}, plot)
        show(console, f"the first prompt's searches are drawn in {plot}")


def demo_reward() -> Reward:
    """Return what the demonstration prefers: warm answers of 15 to 35 words that end, and don't say "as an AI"."""
    kept = 0.3 * Length(15, 35) + 0.3 * Regex(r"[.!?]\s*$", name="finished")
    return Sentiment(measure="balance") + kept + veto(Avoids("as an AI"))


def _settings(name: str, budget: int, max_tokens: int, seed: int) -> dict[str, Any]:
    own = {"strategy": "best_of_n", "budget": 1} if name == "plain" else {"strategy": name, "budget": budget}
    return {**own, "max_tokens": max_tokens, "seed": seed}


def _shown(console: Console, prompt: str, name: str, service: aisp.Service, budget: int) -> Alignment:
    with search_progress(console) as progress:
        alignment = watched(progress, name, service, [{"role": "user", "content": prompt}], budget)
    console.print(f"[bold]{name}[/]  reward [bold]{alignment.best.reward:.3f}[/]  {alignment.cost.seconds:.0f} s")
    show(console, f"  {printable(' '.join(alignment.text.split()))}\n")
    return alignment


def _summary(found: dict[str, list[Alignment]]) -> Table:
    prompts = (f"prompt {i + 1}" for i in range(len(PROMPTS)))
    table = new_table("reward of", *prompts, "mean", "responses", "tokens", "seconds")
    for strategy, runs in found.items():
        rewards = [alignment.best.reward for alignment in runs]
        add_row(
            table,
            [
                strategy,
                *(f"{reward:.3f}" for reward in rewards),
                f"{sum(rewards) / len(rewards):.3f}",
                runs[0].cost.responses,
                sum(alignment.cost.forward_tokens for alignment in runs),
                f"{sum(alignment.cost.seconds for alignment in runs):.0f}",
            ],
        )
    return table
