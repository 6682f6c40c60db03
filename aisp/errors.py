"""Every error that the packages raise on purpose, under one base class.

    AISPError
    ├── ConfigurationError          a setting that contradicts another, or makes no sense (also a ValueError)
    ├── ModelNotFoundError          a model that is not where its name says
    ├── UnsupportedModelError       a model that cannot be split at its LM head, or decoded by us
    ├── PromptError                 messages that the chat template cannot hold, or a prompt that is too long
    ├── RewardError                 a reward that failed, or returned what is no reward
    │   └── AllCandidatesExcludedError   nothing is left to choose from
    ├── StructuredOutputError       an answer that is not an object of its schema (also a ValueError)
    ├── EngineError                 decoding failed
    └── DeadlineExceededError       the time ran out and the caller asked to be told (also a TimeoutError)

    RewardWarning                   a reward that a search has little to go by with (a UserWarning)

A message says what was got, what was expected, and what to try.
"""

from __future__ import annotations


class AISPError(Exception):
    """Base of every error that `aisp` and `aisp_langchain` raise on purpose."""


class ConfigurationError(AISPError, ValueError):
    """A setting that is out of range or contradicts another."""


class ModelNotFoundError(AISPError):
    """A model name that leads to no model; the message says which command brings it."""


class UnsupportedModelError(AISPError):
    """A model that can't be split at the input of its LM head, or whose cache can't be decoded from."""


class PromptError(AISPError, ValueError):
    """Messages that the chat template can't hold, or a prompt longer than the model's context."""


class RewardError(AISPError):
    """A reward that raised, or returned what is not a finite number per candidate."""


class AllCandidatesExcludedError(RewardError):
    """Every candidate was vetoed or could not be scored, so there is none to return."""


class StructuredOutputError(AISPError, ValueError):
    """An answer that is not an object of its schema: it was cut off, breaks the schema, or calls nothing.

    Attributes:
        finish_reason: The answer's: "length" for max_tokens, "cancelled" for the deadline, else "stop"; None where it
            is not known.
    """

    def __init__(self, message: str, *, finish_reason: str | None = None) -> None:
        super().__init__(message)
        self.finish_reason = finish_reason


class EngineError(AISPError):
    """Decoding failed."""


class DeadlineExceededError(AISPError, TimeoutError):
    """The deadline passed and the caller chose to be told rather than to take the best so far."""


class RewardWarning(UserWarning):
    """A reward that tells no response from another, or calls all of them bad: the answer is as good as any other."""
