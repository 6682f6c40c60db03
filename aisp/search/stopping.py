"""When a search ends before its budget does, and what is returned then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from aisp.errors import ConfigurationError
from aisp.search.trace import Round


@dataclass(frozen=True, slots=True, kw_only=True)
class Stops:
    """What ends a search early.

    Args:
        target_reward: As soon as the best reward is at least this. Of a block, where blocks are committed.
        patience: After this many rounds in a row without a better response; of a block, where blocks are committed.
        response_price: As soon as no further response is expected to gain this (`aisp.search.gain`); of a block, where
            blocks are committed. None and 0 spend the budget.
        on_timeout: At the deadline, return the best so far, or raise.
    """

    target_reward: float | None = None
    patience: int | None = None
    response_price: float | None = None
    on_timeout: Literal["best", "raise"] = "best"

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise ConfigurationError(
                f"patience is {self.patience}; expected an integer >= 1, or None to spend the budget"
            )
        if self.response_price is not None and not self.response_price >= 0:
            raise ConfigurationError(
                f"response_price is {self.response_price}; expected a number >= 0, in standard deviations of the "
                "reward over plain samples (0 spends the budget)"
            )


def explain_nothing_left(rounds: Sequence[Round]) -> str:
    """Return what a caller is told where no response can be returned."""
    responses = [response for round_ in rounds for response in round_.responses]
    vetoed = sum(response.score.vetoed for response in responses)
    errors = [response.score.error for response in responses if response.score.error is not None]
    first = f"; the first error: {errors[0]}" if errors else ""
    return (
        f"none of {len(responses)} responses can be returned: {vetoed} vetoed, {len(errors)} not scorable{first}. "
        "Loosen the veto, mend the reward, or raise the budget"
    )
