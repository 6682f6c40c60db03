"""The command line: `aisp align`, `aisp demo`, `aisp model`, `aisp bench`, `aisp reward`, each in a file of its own."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from aisp.cli.lazy import Later, lazy_group
from aisp.cli.terminal import show
from aisp.version import __version__

_MAIN = {
    "align": Later("aisp.cli.align:command", "Answer a prompt, or a file of them, with the responses that score best."),
    "demo": Later("aisp.cli.demo:command", "Answer three prompts plainly, by best-of-n, and steered, at equal budget."),
}
_MODEL = {
    "fetch": Later("aisp.cli.model:fetch_command", "Download an embedded model and convert it, once."),
    "list": Later("aisp.cli.model:list_command", "List the embedded models."),
}
_REWARD = {
    "list": Later("aisp.cli.reward_list:command", "List the rewards that --reward takes."),
    "check": Later("aisp.cli.reward:check_command", "Find out whether a reward gives a search something to climb."),
    "injections": Later(
        "aisp.cli.reward:injections_command", "Measure how far answers can talk a judge into a better verdict."
    ),
}
_BENCH = {
    "speed": Later("aisp.cli.bench_speed:speed_command", "Compare the time of our decoding with that of `generate`."),
    "growth": Later(
        "aisp.cli.bench_speed:growth_command",
        "Measure how time grows with responses, prompt tokens and concurrent requests.",
    ),
    "quality": Later(
        "aisp.cli.bench_quality:command",
        "Compare strategies with best-of-n, paired by prompt and seed, at every budget.",
    ),
    "tools": Later("aisp.cli.bench_tools:command", "Count how often the right tool is called."),
    "streaming": Later(
        "aisp.cli.bench_streaming:command", "Compare searches that commit block after block with whole-response ones."
    ),
}
_EPILOG = """\
Examples:

  aisp demo

  aisp align "Tell me about rain." --reward sentiment --budget 32

  aisp reward list

`aisp COMMAND --help` shows the options of a command and more examples."""

app = typer.Typer(
    cls=lazy_group(_MAIN),
    help="Steer a local language model towards a reward.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
app.add_typer(
    typer.Typer(cls=lazy_group(_MODEL), help="Models that come from the package index.", no_args_is_help=True),
    name="model",
)
app.add_typer(
    typer.Typer(cls=lazy_group(_REWARD), help="Find out what a reward is worth.", no_args_is_help=True), name="reward"
)
app.add_typer(
    typer.Typer(cls=lazy_group(_BENCH), help="Measure the search on this machine.", no_args_is_help=True), name="bench"
)


def _version(asked: bool) -> None:
    if asked:
        show(Console(), f"aisp {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Steer a local language model towards a reward."""
