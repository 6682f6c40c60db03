"""Rewards that live on a server: OpenAI-compatible scoring and pooling endpoints, as vLLM serves them.

    /score     (prompt, response) pairs -> one number a pair                 cross-encoders
    /classify  texts -> class probabilities, of which one label counts       classifiers
    /pooling   texts -> the pooled output, one number a text                 reward models

One client a reward, whose connections are reused; requests run side by side on the event loop that the package owns, so
many at a time and no more. What may pass (a busy or restarting server, a cut connection, a time-out) is tried again. An
answer is read within a time and up to a size, whatever the server sends.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import httpx

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate
from aisp.rewards.base import Reward
from aisp.rewards.event_loop import close_soon
from aisp.rewards.exchange import NoAnswerError, ServerError, post
from aisp.rewards.function import last_user_text
from aisp.rewards.retry import RetryPolicy

Endpoint = Literal["score", "classify", "pooling"]
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class Remote(Reward):
    """Scores with a model behind a scoring endpoint.

    Args:
        base_url: Where the server is, as `http://localhost:8000`.
        model: The model's name there.
        endpoint: "score", "classify" or "pooling".
        label: The label whose probability is the reward of "classify".
        chat: For "pooling", send the conversation as messages rather than the response's text.
        api_key: Sent as a bearer token; the environment variable AISP_API_KEY by default.
        batch: Candidates a request.
        concurrency: Requests in flight at once.
        timeout: Seconds that a try takes at most, from the connection to the answer's last byte.
        max_bytes: Bytes of an answer at most, as sent and unpacked.
        retry: When to try again, and how long in all.

    Raises:
        ConfigurationError: Settings that contradict each other.
    """

    cost = 2.0

    def __init__(
        self,
        base_url: str,
        model: str,
        endpoint: Endpoint = "score",
        *,
        label: str | None = None,
        chat: bool = False,
        api_key: str | None = None,
        batch: int = 16,
        concurrency: int = 8,
        timeout: float = 30.0,
        max_bytes: int = 16 * 1024 * 1024,
        retry: RetryPolicy | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if endpoint not in ("score", "classify", "pooling"):
            raise ConfigurationError(f'endpoint is {endpoint!r}; expected "score", "classify" or "pooling"')
        if (label is None) != (endpoint != "classify"):
            raise ConfigurationError(
                f"endpoint {endpoint!r} with label={label!r}; give a label to classify, only there"
            )
        if chat and endpoint != "pooling":
            raise ConfigurationError(f"endpoint {endpoint!r} takes no conversation; leave chat out")
        sizes = {"batch": batch, "concurrency": concurrency, "timeout": timeout, "max_bytes": max_bytes}
        for name, value in sizes.items():
            if not value > 0:
                raise ConfigurationError(f"{name} is {value}; expected a number above 0")
        self.base_url, self.model, self.endpoint = base_url.rstrip("/"), model, endpoint
        self.label, self.chat, self.batch = label, chat, 1 if chat else batch
        self.timeout, self.max_bytes, self.retry = timeout, max_bytes, retry or RetryPolicy()
        key = os.environ.get("AISP_API_KEY") if api_key is None else api_key
        self._connections = _Connections(self.base_url, key, timeout, concurrency)

    def config(self) -> Mapping[str, Any]:
        return {
            "url": self.base_url,
            "model": self.model,
            "endpoint": self.endpoint,
            "label": self.label,
            "chat": self.chat,
        }

    async def _ascore(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        batches = [candidates[i : i + self.batch] for i in range(0, len(candidates), self.batch)]
        found = await asyncio.gather(*(self._batch(batch) for batch in batches))
        return [value for values in found for value in values]

    async def _batch(self, candidates: Sequence[Candidate]) -> list[float]:
        client, slots = self._connections.here()
        async with slots:
            until = asyncio.get_running_loop().time() + self.retry.deadline
            async for attempt in self.retry.aretrying(_may_pass):
                with attempt:
                    answer = await self._post(client, self._payload(candidates), until)
        return self._values(answer, len(candidates))

    async def _post(self, client: httpx.AsyncClient, payload: Mapping[str, Any], until: float) -> Any:
        """Ask once; `until` is the loop's time at which all tries end."""
        left = max(until - asyncio.get_running_loop().time(), 0.0)
        return await post(
            client, f"/{self.endpoint}", payload, seconds=min(self.timeout, left), max_bytes=self.max_bytes
        )

    def _payload(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        texts = [candidate.text for candidate in candidates]
        if self.endpoint == "score":
            prompts = [last_user_text(candidate) for candidate in candidates]
            return {"model": self.model, "text_1": prompts, "text_2": texts}
        if self.chat:
            [candidate] = candidates
            messages = [*(dict(m) for m in candidate.messages), {"role": "assistant", "content": candidate.text}]
            return {"model": self.model, "messages": messages}
        return {"model": self.model, "input": texts}

    def _values(self, answer: Any, count: int) -> list[float]:
        """Read one number a candidate, in the order of `index`."""
        try:
            rows = sorted(answer["data"], key=lambda row: row.get("index", 0))
            values = [self._value(row) for row in rows]
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RewardError(
                f"{self.base_url}/{self.endpoint} answered {str(answer)[:200]}, not of the expected shape: {error!r}"
            ) from error
        if len(values) != count:
            raise RewardError(f"{self.base_url}/{self.endpoint} answered {len(values)} scores for {count} candidates")
        return values

    def _value(self, row: Mapping[str, Any]) -> float:
        if self.endpoint == "score":
            return float(row["score"])
        if self.endpoint == "pooling":
            pooled = row["data"]
            while isinstance(pooled, list):  # a reward model pools to its last position's one number
                pooled = pooled[-1]
            return float(pooled)
        if row.get("label") == self.label:
            probabilities = row.get("probs")
            return float(max(probabilities)) if probabilities else float(row["score"])
        labels, probabilities = row.get("labels"), row["probs"]
        if labels:
            return float(probabilities[list(labels).index(self.label)])
        if len(probabilities) == 2:
            return float(min(probabilities))  # the other of two labels won
        raise ValueError(f"label {self.label!r} did not win, and the answer doesn't name the labels")


class _Here(NamedTuple):
    """What belongs to one event loop."""

    client: httpx.AsyncClient
    slots: asyncio.Semaphore


class _Connections:
    """The one client of a reward, made on the loop that it lives on, and anew where that loop was replaced."""

    def __init__(self, base_url: str, key: str | None, timeout: float, concurrency: int) -> None:
        self._headers = {} if not key else {"Authorization": f"Bearer {key}"}
        self._base_url, self._timeout, self._concurrency = base_url, timeout, concurrency
        self._loop: asyncio.AbstractEventLoop | None = None
        self._here: _Here | None = None

    def here(self) -> _Here:
        """Return what belongs to the running loop."""
        loop = asyncio.get_running_loop()
        if self._here is None or self._loop is not loop:
            client = httpx.AsyncClient(base_url=self._base_url, headers=self._headers, timeout=self._timeout)
            self._loop, self._here = loop, _Here(client, asyncio.Semaphore(self._concurrency))
            weakref.finalize(self, close_soon, loop, client.aclose).atexit = False  # the process closes them anyway
        return self._here


def _may_pass(error: BaseException) -> bool:
    """Return whether another try may find it mended."""
    if isinstance(error, ServerError):
        return error.status in _PASSING
    return isinstance(error, NoAnswerError | httpx.TransportError)
