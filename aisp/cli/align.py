"""`aisp align`: answers a prompt, or a file of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

import aisp
from aisp.cli.checks import check_rewards
from aisp.cli.options import (
    OUTPUT_PANEL,
    DeviceOption,
    DtypeOption,
    ModelOption,
    RewardOption,
    read_settings,
    with_search_settings,
)
from aisp.cli.outputs import check_picture
from aisp.cli.progress import loading
from aisp.cli.prompts import PromptFile
from aisp.cli.reward_list import SYNTAX
from aisp.cli.searching import rounds_table, search_progress, watched
from aisp.cli.terminal import printable, printable_json, show, show_all
from aisp.errors import AllCandidatesExcludedError, ConfigurationError, DeadlineExceededError, PromptError
from aisp.jsonl import Prompt, ResultFile, check_text, result_key
from aisp.models import DEFAULT_MODEL
from aisp.rewards import Reward
from aisp.rewards.spec import parse_rewards
from aisp.search.trace import Alignment

# What one prompt may run into while others are answered.
_OF_A_PROMPT = (PromptError, AllCandidatesExcludedError, DeadlineExceededError)

_EPILOG = (
    """\
Examples:

  aisp align "Tell me about rain." --reward sentiment --reward 0.5*length:20..40 --budget 32

  aisp align "Tell me about rain." --reward sentiment --strategy best_of_n --plot rain.png

  aisp align --prompts questions.jsonl --out answers.jsonl --reward sentiment

A run that was killed goes on where it stopped: call it again.

Rewards:

"""
    + SYNTAX
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a call of the command asks for.

    Args:
        rewards: As they were written.
        reward: What they add up to; None draws one plain sample.
        model: Its name.
        dtype: Of its weights.
        device: Where it runs.
        settings: Of the search, those that were given.
    """

    rewards: list[str]
    reward: Reward | None
    model: str
    dtype: str | None
    device: str | None
    settings: Mapping[str, Any]

    def service(self) -> aisp.Service:
        """Return what answers; nothing is loaded yet."""
        return aisp.Service(self.model, self.reward, read_settings(self.settings), dtype=self.dtype, device=self.device)

    def kept(self) -> dict[str, Any]:
        """Return what a file of answers says of how they were made."""
        own = {"model": self.model, "dtype": self.dtype, "rewards": self.rewards}
        return {**own, "reward_fingerprint": self.reward and self.reward.fingerprint, **self.settings}


command = typer.Typer(add_completion=False)


@command.command("align", epilog=_EPILOG)
@with_search_settings
def align(
    prompt: Annotated[str | None, typer.Argument(help="The user's text.")] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A file with a prompt a line; in a .jsonl file, objects with messages or prompt."),
    ] = None,
    reward: RewardOption = [],  # noqa: B006 - Typer copies it
    model: ModelOption = DEFAULT_MODEL,
    dtype: DtypeOption = None,
    device: DeviceOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Where answers to --prompts go, as JSON lines.", rich_help_panel=OUTPUT_PANEL),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="A picture of reward against budget: .png, .svg or .pdf.", rich_help_panel=OUTPUT_PANEL),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole trace as JSON.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    settings: Mapping[str, Any] = {},
) -> None:
    """Answer a prompt, or a file of them, with the responses that score best."""
    if (prompt is None) == (prompts is None):
        raise ConfigurationError("give one prompt, or a file of them with --prompts")
    asked = Asked(
        rewards=reward, reward=parse_rewards(reward), model=model, dtype=dtype, device=device, settings=settings
    )
    asked.service().check()
    check_rewards(asked.reward)
    if prompts is not None:
        if plot is not None or as_json:
            raise ConfigurationError("--plot and --json are for one prompt; with --prompts, give --out")
        if out is None:
            raise ConfigurationError("--prompts needs --out FILE.jsonl to write to")
        _answer_file(prompts, out, asked)
        return
    if out is not None:
        raise ConfigurationError("--out is for --prompts; for one prompt, give --json")
    if not str(prompt).strip():
        raise ConfigurationError("the prompt is empty; give the user's text, or a file of prompts with --prompts")
    check_text(prompt)
    check_picture(plot)
    alignment = _answer(str(prompt), asked, Console(quiet=as_json))
    if plot is not None:
        alignment.plot(plot)
    if as_json:
        sys.stdout.write(printable_json(alignment.to_dict()) + "\n")


def _answer(prompt: str, asked: Asked, console: Console) -> Alignment:
    """Answer one prompt, and show the search and a table of its rounds."""
    service, messages = asked.service(), [{"role": "user", "content": prompt}]
    with loading(console, asked.model):
        _ = service.engine
    if asked.settings.get("commit_tokens") is not None:
        alignment = _written(console, service, messages)
    else:
        with search_progress(console) as progress:
            alignment = watched(progress, "searching", service, messages, _budget(asked))
        answer = Text(printable(alignment.text))
        console.print(Panel(answer, title=Text(_title(alignment)), title_align="left"))
    if asked.reward is not None:
        show_all(console, rounds_table(alignment))
    return alignment


def _answer_file(path: Path, out: Path, asked: Asked) -> None:
    """Answer a file of prompts, one JSON line each; what the file of results has already is not answered again."""
    console, file = Console(stderr=True), PromptFile(path)
    with ResultFile(out, "align", asked.kept()) as results:
        earlier = len(results.done)
        keys = [_key(prompt, asked) for prompt in file.prompts]
        missing = [(key, prompt) for key, prompt in zip(keys, file.prompts, strict=True) if key not in results.done]
        if missing:
            _answer_missing(missing, len(keys), results, asked, file, console)
        there = sum(key in results.done for key in keys)
        show(console, f"{there} answers in {out}, {len(results.done) - earlier} of them new" + _others(results, keys))
    file.end()


def _answer_missing(
    missing: list[tuple[str, Prompt]], total: int, results: ResultFile, asked: Asked, file: PromptFile, console: Console
) -> None:
    service = asked.service()
    with loading(console, asked.model):
        _ = service.engine
    with search_progress(console) as progress:
        task = progress.add_task("prompts", total=total, completed=total - len(missing), note="")
        for key, prompt in missing:
            try:
                alignment = watched(progress, f"line {prompt.line}", service, prompt.messages, _budget(asked))
            except _OF_A_PROMPT as error:
                file.tell(prompt, error)
            else:
                row = {"index": prompt.index, "messages": prompt.messages, "text": alignment.text}
                results.write(key, {**row, **alignment.summary()})
            progress.advance(task)


def _key(prompt: Prompt, asked: Asked) -> str:
    return result_key(prompt.messages, asked.kept(), prompt.index)


def _others(results: ResultFile, keys: list[str]) -> str:
    others = len(results.done.keys() - set(keys))
    return f"; it also holds {others} answers to other prompts" if others else ""


def _budget(asked: Asked) -> int:
    return read_settings(asked.settings).make_plan(rewarded=asked.reward is not None).budget


def _written(console: Console, service: aisp.Service, messages: list[dict[str, Any]]) -> Alignment:
    """Run a search that commits blocks, each shown as soon as it is settled."""
    run = service.run(messages)
    for piece in run.texts():
        show(console, piece, end="")
    show(console, f"\n\n{_title(run.alignment)}")
    return run.alignment


def _title(alignment: Alignment) -> str:
    if alignment.reward is None:
        return "one plain sample"
    parts = ", ".join(f"{name} {value:.2f}" for name, value in alignment.best.score.parts.items())
    return printable(f"reward {alignment.best.reward:.3f} ({parts})")
