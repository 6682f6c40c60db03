"""Options that several commands share, and those that are made of the fields of `SearchSettings`.

Every field is an option of the same name, with the words that its documentation has, so that none is missing here.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from rich.markup import escape

from aisp.errors import ConfigurationError
from aisp.invalid import complaints
from aisp.settings import SearchFields, SearchSettings, parse_strategy

MODEL_PANEL, OUTPUT_PANEL = "Model", "Output"
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", help="Embedded model, hub id, checkpoint folder or GGUF file.", rich_help_panel=MODEL_PANEL
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="float32, bfloat16 or float16; by default bfloat16 where the device is fast at it.",
        rich_help_panel=MODEL_PANEL,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cuda, mps or cpu; by default the first that is there.", rich_help_panel=MODEL_PANEL),
]
PromptsOption = Annotated[
    Path, typer.Option("--prompts", help="A prompt a line; in a .jsonl file, objects with messages, prompt or text.")
]
RewardOption = Annotated[
    list[str],
    typer.Option(
        "--reward",
        metavar="SPEC",
        help="As sentiment, 0.5*length:20..40 or veto:avoids:sorry; several add up. `aisp reward list` shows all.",
    ),
]
LimitOption = Annotated[int | None, typer.Option("--limit", help="Answer this many prompts at most.")]

_PANELS = {
    "Search": ("strategy", "strategy_options", "preset", "budget", "num_samples", "num_rounds", "commit_tokens"),
    "Responses": ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed", "kl_budget"),
    "Stopping": ("timeout", "on_timeout", "target_reward", "patience", "response_price"),
}
_OTHERS = "Options of one strategy"
_NAMES = {"strategy_options": "--option"}
_ATTRIBUTE = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)


def with_search_settings(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of `SearchSettings`, and its `settings` those that were given.

    Args:
        function: The command. Its last parameter is `settings`, a mapping.
    """
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "settings"]
    helps = _helps()
    fields = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field, helps))
        for name, field in SearchSettings.model_fields.items()
    ]

    def command(**given: Any) -> None:
        settings = {name: given.pop(name) for name in SearchSettings.model_fields}
        function(
            **given, settings={name: _value(name, said) for name, said in settings.items() if said not in (None, [])}
        )

    order = [*_PANELS, _OTHERS]
    fields.sort(key=lambda parameter: order.index(_panel(parameter.name)))
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + fields
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    return command


def read_settings(given: Mapping[str, Any]) -> SearchSettings:
    """Return the settings that options stand for.

    Raises:
        ConfigurationError: A value that the field doesn't take.
    """
    try:
        return SearchSettings(**given)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explained(one) for one in complaints(error))) from error


def read_strategy(spec: str, others: Mapping[str, Any]) -> SearchSettings:
    """Return the settings that NAME or NAME:KEY=VALUE,KEY=VALUE stands for.

    Args:
        spec: The words.
        others: Settings that hold where the words don't say otherwise.

    Raises:
        ConfigurationError: An unknown strategy or setting, or a value that it doesn't take.
    """
    try:
        return read_settings({**others, **parse_strategy(spec)})
    except ConfigurationError as error:
        raise ConfigurationError(f"--strategy {spec}: {str(error).strip()}") from error


def read_pairs(words: Sequence[str], option: str) -> dict[str, Any]:
    """Read words of the form NAME=VALUE, a value being JSON or else a word.

    Raises:
        ConfigurationError: A word of another form, or a name that is given twice.

    Example:
        >>> read_pairs(["parents=3", "scale=auto"], "--option")
        {'parents': 3, 'scale': 'auto'}
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not (equals and name and value):
            raise ConfigurationError(f"{option} {word!r} is not a setting; expected NAME=VALUE, as parents=3".strip())
        if name in found:
            raise ConfigurationError(f"{option} {name} is given twice; leave one out".strip())
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _value(name: str, said: Any) -> Any:
    field = SearchSettings.model_fields[name]
    if _is_mapping(field):
        return read_pairs(said, _NAMES[name])
    if isinstance(said, str) and {int, float} & {*_kinds(field)}:  # a number, or a word in its place
        try:
            return json.loads(said)
        except ValueError:
            return said
    return said


def _option(name: str, field: FieldInfo, helps: Mapping[str, str]) -> Any:
    words = [kind for kind in _kinds(field) if kind is not NoneType]
    kind: Any = str
    metavar = None
    if _is_mapping(field):
        kind, metavar = list[str], "NAME=VALUE"
    elif words in ([int], [float], [bool], [str]):
        kind = words[0]
    elif len(words) == 1 and get_origin(words[0]) is list:
        kind, metavar = list[str], "TEXT"
    elif choices := [word for one in words if get_origin(one) is Literal for word in get_args(one)]:
        others = [one.__name__.upper() for one in words if get_origin(one) is not Literal]
        metavar = "|".join(
            [*others, *choices, *(["none"] if field.default is not None and NoneType in _kinds(field) else [])]
        )
    flag = _NAMES.get(name, "--" + name.replace("_", "-"))
    return Annotated[
        kind | None,
        typer.Option(flag, metavar=metavar, help=escape(helps.get(name, "")), rich_help_panel=_panel(name)),
    ]


def _panel(name: str) -> str:
    return next((panel for panel, names in _PANELS.items() if name in names), _OTHERS)


def _is_mapping(field: FieldInfo) -> bool:
    return any(get_origin(kind) is dict for kind in _kinds(field))


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    """Return what a field's annotation is a union of."""
    is_union = get_origin(field.annotation) in (Union, UnionType)
    kinds = get_args(field.annotation) if is_union else (field.annotation,)
    return tuple(get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds)


def _helps() -> dict[str, str]:
    """Return what the documentation of `SearchSettings` says of each field; nothing where Python leaves it out."""
    found = _ATTRIBUTE.findall(SearchFields.__doc__ or "")
    return {name: " ".join(text.split()).replace("`", "") for name, text in found}


def _explained(error: Any) -> str:
    raised = error.get("ctx", {}).get("error")
    if isinstance(raised, ConfigurationError):
        return str(raised)
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"there is no setting {name}"
    return f"{name} is {error['input']!r}: {error['msg'][:1].lower()}{error['msg'][1:]}"
