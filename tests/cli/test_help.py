"""Help: quick, complete, and with what people look for in it."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Annotated, Literal

import pytest
import typer
from pydantic import BaseModel, Field

import aisp
from aisp.cli import app as cli
from aisp.cli.options import _option, read_pairs, read_settings
from aisp.cli.reward_list import ENTRIES
from aisp.errors import ConfigurationError
from aisp.rewards.spec import _BUILDERS
from aisp.settings import SearchSettings

LATER = {
    "": cli._MAIN,
    "model": cli._MODEL,
    "reward": cli._REWARD,
    "bench": cli._BENCH,
}
COMMANDS = [((group, name) if group else (name,), later) for group, own in LATER.items() for name, later in own.items()]


def loaded_by(*arguments):
    code = "import sys\nfrom aisp.cli.app import app\ntry: app(sys.argv[1:])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    return set(done.stdout.split())


def test_the_list_of_commands_imports_none_of_them():
    loaded = loaded_by("--help")
    assert "aisp.cli.app" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "pydantic", "numpy", "aisp.settings", "aisp.cli.align"})


@pytest.mark.parametrize("command", ["align", "demo"])
def test_the_help_of_a_command_loads_no_torch(command):
    loaded = loaded_by(command, "--help")
    assert f"aisp.cli.{command}" in loaded
    assert "torch" not in loaded


def test_the_version(invoke):
    assert invoke("--version").output == f"aisp {aisp.__version__}\n"


@pytest.mark.parametrize(
    ("words", "later"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_a_command_is_listed_as_it_describes_itself_and_has_help(words, later, invoke):
    assert later.load().help.partition("\n")[0].rstrip(".") == later.help.rstrip("."), words
    result = invoke(*words, "--help")
    assert result.exit_code == 0
    assert later.help[:20] in result.output


def test_an_unknown_command_is_told_with_what_is_near(invoke):
    result = invoke("bench", "sped")
    assert result.exit_code == 2
    assert "Did you mean" in result.output
    assert "speed" in result.output


def test_every_setting_is_an_option_in_a_group_with_its_own_words(invoke):
    options = {option.name: option for option in cli._MAIN["align"].load().params}
    assert set(SearchSettings.model_fields) <= set(options)
    for name in SearchSettings.model_fields:
        assert options[name].rich_help_panel, name
        assert len(options[name].help) > 10, name
    shown = invoke("align", "--help").output
    for panel in ("Model", "Output", "Search", "Responses", "Stopping"):
        assert f"─ {panel} ─" in shown


def test_help_has_examples_and_the_syntax_of_rewards(invoke):
    shown = invoke("align", "--help").output
    assert "Examples:" in shown
    assert "length:20..40" in shown
    assert "veto:SPEC" in shown


def test_every_reward_that_words_may_name_is_listed(invoke):
    result = invoke("reward", "list", columns=60)
    assert result.exit_code == 0
    assert all(words in result.output and what in result.output for words, what in ENTRIES)
    assert [name for name in _BUILDERS if name not in result.output] == []


class Drawn(BaseModel):
    """Settings of every shape that a field may have."""

    number: int | None = None
    share: float | None = None
    choice: Literal["best", "raise"] = "best"
    either: float | Literal["auto"] | None = None
    bounded: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    words: list[str] | None = None
    strategy_options: dict[str, float] | None = Field(default=None)


def test_an_option_takes_what_its_field_takes():
    found = {name: _option(name, field, {}) for name, field in Drawn.model_fields.items()}
    kinds = {name: one.__origin__ for name, one in found.items()}
    assert kinds == {
        "number": int | None,
        "share": float | None,
        "choice": str | None,
        "either": str | None,
        "bounded": str | None,
        "words": list[str] | None,
        "strategy_options": list[str] | None,
    }
    flags = {name: one.__metadata__[0] for name, one in found.items()}
    assert flags["choice"].metavar == "best|raise"
    assert flags["either"].metavar == "FLOAT|auto"
    assert flags["bounded"].metavar == "INT|auto"
    assert flags["strategy_options"].default == "--option"
    assert isinstance(flags["words"], typer.models.OptionInfo)


def test_options_of_a_strategy_are_pairs():
    assert read_pairs(["a=1", "b=auto", "c= [1, 2]", "d=x=y"], "--option") == {
        "a": 1, "b": "auto", "c": [1, 2], "d": "x=y",
    }  # fmt: skip
    for words, message in ((["a"], "--option 'a' is not a setting"), (["a=1", "a=2"], "--option a is given twice")):
        with pytest.raises(ConfigurationError, match=message):
            read_pairs(words, "--option")


def test_a_value_that_a_setting_does_not_take_is_said_in_words():
    with pytest.raises(ConfigurationError, match=r"budget is 0: input should be greater than or equal to 1"):
        read_settings({"budget": 0})
    with pytest.raises(ConfigurationError, match=r"^budget is 'many': .* integer, or input should be 'auto'$"):
        read_settings({"budget": "many"})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("kl-budget", 3.5),
        ("on-timeout", "raise"),
        ("temperature", 0),
        ("seed", 0),
        ("top-p", 0.5),
        ("budget", 8),
        ("budget", "auto"),
        ("response-price", 0),
    ],
)
def test_what_is_given_is_what_is_set(option, value, invoke, monkeypatch):
    seen = {}
    align = import_module("aisp.cli.align")
    monkeypatch.setattr(align, "_answer", lambda prompt, asked, console: seen.update(asked.settings))
    result = invoke("align", "Hi", "--reward", "json", f"--{option}", value)
    assert result.exit_code == 0, result.output
    assert seen == {option.replace("-", "_"): value}, "and nothing else"
