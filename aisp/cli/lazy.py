"""Groups of commands whose modules are imported when a command is called, so that `aisp --help` is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from aisp.cli.terminal import plain_terminal, readable_errors


@dataclass(frozen=True, slots=True)
class Later:
    """A command that is not imported yet.

    Args:
        place: Its Typer object, as "module:name".
        help: The first line of its own help.
    """

    place: str
    help: str

    def load(self) -> Any:
        """Import the command."""
        module, _, name = self.place.partition(":")
        return typer.main.get_command(getattr(import_module(module), name))


def lazy_group(commands: Mapping[str, Later]) -> type[TyperGroup]:
    """Return a class of groups that have these commands beside their own."""

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            stubs = {name: TyperCommand(name, help=later.help) for name, later in commands.items()}
            self.commands = {**stubs, **self.commands}

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            name, command, rest = super().resolve_command(ctx, args)
            # Only here, so that the list of commands is printed from the stubs.
            return name, commands[str(name)].load() if name in commands else command, rest

        def invoke(self, ctx: Any) -> Any:
            with plain_terminal(), readable_errors():
                return super().invoke(ctx)

    return LazyGroup
