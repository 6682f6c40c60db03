"""What is wrong with a setting, in words: a name that is not one, and what pydantic finds wrong with a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from aisp.errors import ConfigurationError
from aisp.strategies.registry import explain_option

# Other libraries' names, and symbols of the paper, by what is meant here.
_MEANT = {
    "reward": "rewards",
    "reward_fn": "rewards",
    "reward_func": "rewards",
    "reward_funcs": "rewards",
    "n": "num_samples (responses a round) or budget (responses in all)",
    "num_generations": "num_samples (responses a round) or budget (responses in all)",
    "num_return_sequences": "num_samples (responses a round) or budget (responses in all)",
    "best_of": "budget, with strategy='best_of_n'",
    "kappa": "num_rounds",
    "num_iterations": "num_rounds",
    "num_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_length": "max_tokens (of the response; the prompt's are not counted)",
    "stop_sequences": "stop",
    "stop_strings": "stop",
    "random_seed": "seed",
    "request_timeout": "timeout",
    "do_sample": "temperature (0 is greedy, None leaves it to the strategy)",
    "num_beams": "strategy='blockwise', strategy_options={'beams': ...} (beams of unfinished text)",
    "early_stopping": "budget='auto', patience or target_reward",
    "options": "strategy_options",
    "strategy_kwargs": "strategy_options",
    "sigma": "scale, an option of aisp: strategy='aisp', strategy_options={'scale': ...}",
    "alpha": "prior_shift, an option of aisp: strategy='aisp', strategy_options={'prior_shift': ...}",
    "tau": "horizon, an option of aisp: strategy='aisp', strategy_options={'horizon': ...}",
    "lambda": "reward_temperature, an option of aisp: strategy='aisp', strategy_options={'reward_temperature': ...}",
    "kl_coef": "kl_budget (nats a response, a limit and not a weight)",
    "beta": "kl_budget (nats a response, a limit and not a weight)",
}
_MEANT |= {"lam": _MEANT["lambda"], "lambda_": _MEANT["lambda"]}
# Names that stand for nothing here, by the reason.
_ABSENT = {
    "base_url": "there is no server behind it: the model runs in this process (engine=... chooses another engine)",
    "api_base": "there is no server behind it: the model runs in this process (engine=... chooses another engine)",
    "frequency_penalty": "repetition is a matter of the reward here",
    "presence_penalty": "repetition is a matter of the reward here",
    "repetition_penalty": "repetition is a matter of the reward here",
}


def explain_invalid(error: ValidationError) -> str:
    """Return one sentence for each value that is wrong."""
    said = []
    for one in complaints(error):
        raised = one.get("ctx", {}).get("error")
        place = ".".join(map(str, one["loc"]))
        said.append(
            str(raised) if isinstance(raised, ConfigurationError) else f"{place} is {one['input']!r}: {one['msg']}"
        )
    return "; ".join(said)


def complaints(error: ValidationError) -> list[dict[str, Any]]:
    """Return pydantic's complaints, as one where a field takes several kinds of value and each has its own."""
    merged: dict[Any, dict[str, Any]] = {}
    for one in error.errors(include_url=False):
        loc = one["loc"]
        kind_of_value = len(loc) == 2 and isinstance(loc[1], str) and one["type"] != "extra_forbidden"
        key = loc[:1] if kind_of_value else loc
        if key in merged:
            merged[key]["msg"] += f", or {one['msg'][:1].lower()}{one['msg'][1:]}"
        else:
            merged[key] = {**one, "loc": key}
    return list(merged.values())


def explain_unknown(names: Iterable[str], known: Iterable[str]) -> str:
    """Return what a caller is told of names that are not settings: which name is meant, for each.

    Args:
        names: The unknown names; a mapping's values are shown where a name is an option of a strategy.
        known: The names that there are.
    """
    values = names if isinstance(names, Mapping) else {}
    there = sorted(known)
    return "; ".join(_explained(name, values.get(name, ...), there) for name in names)


def _explained(name: str, value: Any, known: Sequence[str]) -> str:
    lead = f"there is no setting {name!r}"
    if name in _MEANT:
        return f"{lead}; give {_MEANT[name]}"
    if name in _ABSENT:
        return f"{lead}: {_ABSENT[name]}"
    option = explain_option(name, value)
    if option is not None:
        return f"{lead}: {option}"
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"{lead}; did you mean {close[0]}?" if close else f"{lead}; expected any of {', '.join(known)}"
