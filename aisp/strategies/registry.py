"""Find strategies: built in, registered by an installed package, in a user's module, or given as objects.

    "tilted_restart"              a built-in, or the name of an entry point in the group "aisp.strategies"
    "my_module:Mine"              a class, or a finished object, in a module that Python can import
    TiltedRestart(parents=3)      an object

A name and a class take options, which are the parameters of the class. An object already has its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_args, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError

from aisp.errors import ConfigurationError
from aisp.records import Capability
from aisp.strategies.aisp import AISP
from aisp.strategies.base import Strategy
from aisp.strategies.best_of_n import BestOfN
from aisp.strategies.tilted_restart.strategy import TiltedRestart

GROUP = "aisp.strategies"
BUILT_IN: Mapping[str, Callable[..., Strategy[Any]]] = {
    "tilted_restart": TiltedRestart,
    "aisp": AISP,
    "best_of_n": BestOfN,
}


def strategy_names() -> list[str]:
    """Return the names that `strategy=` takes: the built-in strategies first, then those of installed packages."""
    return [*BUILT_IN, *sorted({entry.name for entry in entry_points(group=GROUP)} - BUILT_IN.keys())]


def build_strategy(strategy: Any, options: Mapping[str, Any] | None = None) -> Strategy[Any]:
    """Return the strategy that a name, a class path, an object or a description of one stands for.

    Args:
        strategy: As in the module's docstring, or what `describe_strategy` returned.
        options: Parameters of the strategy's class; none may stand beside an object.

    Raises:
        ConfigurationError: No such strategy, an option that it does not have, a value out of range, or an object that
            is not a strategy.

    Example:
        >>> build_strategy("tilted_restart", {"parents": 3})
        TiltedRestart(sampling=Sampling(temperature=0.6, top_p=1.0, top_k=None), plain=Sampling(temperature=0.8, \
top_p=1.0, top_k=None), parents=3.0, tilt_nats=16.0)
    """
    given = dict(options or {})
    if isinstance(strategy, Mapping):
        strategy, own = _read_description(strategy)
        given = {**own, **given}
    found = find_strategy(strategy) if isinstance(strategy, str) else strategy
    said = strategy if isinstance(strategy, str) else type(strategy).__name__
    if isinstance(strategy, str) and _makes_strategies(found):
        found = _made(said, found, given)
    elif given:
        raise ConfigurationError(
            f"strategy={strategy!r} is an object, so strategy_options={given!r} can't apply to it; "
            "give the options to its constructor"
        )
    return _checked(said, found)


def find_strategy(name: str) -> Any:
    """Return the class (or the finished object) that a name or "module:Class" leads to.

    Raises:
        ConfigurationError: It leads to nothing, or can't be imported.
    """
    if ":" in name:
        return _imported(name)
    if name in BUILT_IN:
        return BUILT_IN[name]
    entries = {entry.value: entry for entry in entry_points(group=GROUP) if entry.name == name}
    if not entries:
        raise ConfigurationError(
            f"there is no strategy {name!r}; expected one of {', '.join(strategy_names())}, "
            "a class as 'module:Class', or an object"
        )
    if len(entries) > 1:
        raise ConfigurationError(
            f"several packages register a strategy {name!r}: {', '.join(sorted(entries))}; give one of these instead"
        )
    [entry] = entries.values()
    return _loaded(entry)


def option_names(strategy: Any) -> tuple[str, ...]:
    """Return the options of a class that makes strategies; none for an object, and for one that takes any keyword."""
    if not _makes_strategies(strategy):
        return ()
    parameters = inspect.signature(strategy).parameters.values()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def homes_of(option: str) -> list[str]:
    """Return the names of the strategies that have an option. Packages that can't be imported are left out."""
    found = []
    for name in strategy_names():
        try:
            known = option_names(find_strategy(name))
        except ConfigurationError:
            continue
        if option in known:
            found.append(name)
    return found


def explain_option(option: str, value: Any = ...) -> str | None:
    """Return the sentence that says where an option belongs; None where no known strategy has it."""
    homes = homes_of(option)
    if not homes:
        return None
    shown = "..." if value is ... else repr(value)
    return (
        f"{option} is an option of {', '.join(homes)}: strategy={homes[0]!r}, strategy_options={{{option!r}: {shown}}}"
    )


def describe_strategy(strategy: Any) -> Any:
    """Return a strategy as JSON: a name as it is, an object by its class and its options.

    Equal strategies have equal descriptions and different options different ones, in every process: caches and result
    files are keyed by it. `build_strategy` reads it again where the options are JSON.

    Raises:
        ConfigurationError: An object that is not a dataclass and has no `__repr__` of its own.
    """
    if strategy is None or isinstance(strategy, str):
        return strategy
    if isinstance(strategy, Mapping):
        return dict(strategy)
    kind = type(strategy)
    path = f"{kind.__module__}:{kind.__qualname__}"
    if is_dataclass(strategy):
        own = {field.name: _as_json(getattr(strategy, field.name)) for field in fields(strategy) if field.init}
        description: dict[str, Any] = {"class": path, "options": own}
    else:
        description = {"class": path, "repr": repr(strategy)}
    if " at 0x" in repr(description):
        raise ConfigurationError(
            f"{path} has no description that stays the same, and results are kept by it; make it a frozen dataclass "
            f"whose fields are its options, or give it a __repr__ that names them (it is {description})"
        )
    return description


def _as_json(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else repr(value)


def _read_description(description: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if description.keys() != {"class", "options"}:
        raise ConfigurationError(
            f"strategy={dict(description)} can't be read; expected a name, 'module:Class', an object, or the "
            "description of a dataclass; options belong in strategy_options"
        )
    return description["class"], dict(description["options"])


def _makes_strategies(found: Any) -> bool:
    """Return whether something is a class or a function that returns strategies, and not a strategy itself."""
    return isinstance(found, type) or (callable(found) and not hasattr(found, "propose"))


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        found: Any = import_module(module)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigurationError(
            f"strategy={path!r}: {module!r} can't be imported: {type(error).__name__}: {error}; "
            "expected 'module:Class' with a module on Python's path"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"strategy={path!r}: {module} has no {name!r}; expected 'module:Class'")
        found = getattr(found, part)
    return found


def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # likewise
        raise ConfigurationError(
            f"strategy {entry.name!r} of an installed package ({entry.value}) can't be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error


def _made(said: str, factory: Callable[..., Any], given: dict[str, Any]) -> Any:
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    known = option_names(factory)
    unknown = [] if takes_any else sorted(given.keys() - set(known))
    if unknown:
        elsewhere = (explain_option(option, given[option]) for option in unknown)
        raise ConfigurationError(
            "; ".join(
                (
                    f"{said} has no option {', '.join(unknown)}; its options are {', '.join(known) or 'none'}",
                    *(sentence for sentence in elsewhere if sentence),
                )
            )
        )
    try:
        return factory(**_typed(said, factory, given))
    except TypeError as error:
        raise ConfigurationError(f"strategy {said} can't be built from the options {given}: {error}") from error


def _typed(said: str, factory: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return options as their annotations want them: 3 as 3.0, a mapping as `Sampling`."""
    try:
        plain_class = isinstance(factory, type) and not is_dataclass(factory)
        hints = get_type_hints(vars(factory).get("__init__", factory) if plain_class else factory)
        kinds: dict[str, Any] = {name: (hints[name], ...) for name in given if name in hints}
        model = create_model("Options", __config__=ConfigDict(arbitrary_types_allowed=True), **kinds)
    except (NameError, TypeError, PydanticUserError):
        return given  # annotations that only a type checker can read
    try:
        read = model(**{name: given[name] for name in kinds})
    except ValidationError as error:
        raise ConfigurationError(f"strategy {said}: {_wrong(error, given)}") from error
    return {**given, **{name: getattr(read, name) for name in kinds}}


def _wrong(error: ValidationError, given: Mapping[str, Any]) -> str:
    expected: dict[str, list[str]] = {}
    for one in error.errors():
        expected.setdefault(str(one["loc"][0]), []).append(one["msg"])
    return "; ".join(f"{name} is {given[name]!r}: {' or '.join(said)}" for name, said in expected.items())


def _checked(said: str, strategy: Any) -> Strategy[Any]:
    """Return an object that has what a strategy has.

    Raises:
        ConfigurationError: Something is missing.
    """
    if isinstance(strategy, type):
        raise ConfigurationError(f"strategy={strategy.__name__} is a class; give an object, {strategy.__name__}(...)")
    missing = [name for name in ("init", "propose", "update") if not callable(getattr(strategy, name, None))]
    missing += [name for name in ("name", "needs") if not hasattr(strategy, name)]
    if missing:
        raise ConfigurationError(
            f"strategy {said} is not a strategy: {strategy!r} has no {', '.join(missing)}; expected what "
            "aisp.strategies.Strategy has (needs is frozenset() where it asks nothing of the engine)"
        )
    unknown = sorted(set(strategy.needs) - set(get_args(Capability)))
    if unknown:
        raise ConfigurationError(
            f"strategy {said} needs {', '.join(unknown)}, which no engine knows; expected any of "
            f"{', '.join(get_args(Capability))}"
        )
    found: Strategy[Any] = strategy
    return found
