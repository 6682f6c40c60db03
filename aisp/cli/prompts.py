"""A file of prompts as commands go through it: a line that can't be answered is told, and the rest goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from aisp.cli.terminal import show
from aisp.errors import ConfigurationError, PromptError
from aisp.jsonl import Prompt, scan_prompts

if TYPE_CHECKING:
    from aisp.service import Service


class PromptFile:
    """The prompts of a file, and what went wrong with some of its lines.

    Args:
        path: The file.
        skip: Leading prompts to leave out.
        limit: Prompts at most; None takes all.

    Raises:
        ConfigurationError: The file can't be read, or no prompt of it is left.
    """

    def __init__(self, path: Path, *, skip: int = 0, limit: int | None = None) -> None:
        for name, number, least in (("skip", skip, 0), ("limit", limit, 1)):
            if number is not None and number < least:
                raise ConfigurationError(f"--{name} is {number}; expected a number >= {least}")
        self._path = path
        self._errors = Console(stderr=True)
        self._failures: dict[int, str] = {}
        chosen = scan_prompts(path)[skip : None if limit is None else skip + limit]
        self.prompts = [prompt for prompt in chosen if prompt.error is None]
        for prompt in chosen:
            if prompt.error is not None:
                self.tell(prompt, prompt.error)
        if not self.prompts:
            left = f" after the first {skip}" if skip else ""
            raise ConfigurationError(f"{path} holds no prompts that can be answered{left}")

    def tell(self, prompt: Prompt, reason: object) -> None:
        """Tell why a prompt can't be answered."""
        self._failures[prompt.line] = str(reason)
        show(self._errors, f"error: line {prompt.line} of {self._path}: {reason}", style="red")

    def drop_unfit(self, service: Service) -> None:
        """Leave out the prompts that the model's template or its context can't hold, and tell each.

        Raises:
            ConfigurationError: None is left.
        """
        room = getattr(service.engine, "context_length", None)
        fit = []
        for prompt in self.prompts:
            try:
                length = len(service.encode(prompt.messages))
                if room is not None and length >= room:
                    raise PromptError(
                        f"the prompt has {length} tokens and the model's context holds {room}, the response included; "
                        "shorten the prompt"
                    )
            except PromptError as error:
                self.tell(prompt, error)
            else:
                fit.append(prompt)
        if not fit:
            raise ConfigurationError(f"the model can't answer any prompt of {self._path}")
        self.prompts = fit

    def end(self) -> None:
        """Sum up what went wrong, and exit with 1 if anything did."""
        if self._failures:
            lines = ", ".join(map(str, sorted(self._failures)))
            count = len(self._failures)
            told = f"1 prompt in {self._path} was" if count == 1 else f"{count} prompts in {self._path} were"
            where = f"line {lines}" if count == 1 else f"lines {lines}"
            show(self._errors, f"{told} not answered: {where}", style="bold red")
            raise typer.Exit(1)
