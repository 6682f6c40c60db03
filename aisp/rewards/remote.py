"""Rewards that live on a server: OpenAI-compatible scoring and pooling endpoints, as vLLM serves them.

    /score     (prompt, response) pairs -> one number a pair                 cross-encoders
    /classify  texts -> class probabilities, of which one label counts       classifiers
    /pooling   texts -> the pooled output, one number a text                 reward models

One client a reward, whose connections are reused; requests run side by side on the event loop that the package owns, so
many at a time and no more. What may pass (a busy or restarting server, a cut connection, a time-out) is tried again.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate
from aisp.rewards.base import Reward
from aisp.rewards.function import last_user_text
from aisp.rewards.loop import submit
from aisp.rewards.retry import Patience

if TYPE_CHECKING:
    import httpx

Endpoint = Literal["score", "classify", "pooling"]
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})


class ServerError(RewardError):
    """A server that answered with an error.

    Args:
        message: What it said.
        status: The HTTP status.
        retry_after: Seconds that it asks to wait; None where it doesn't.
    """

    def __init__(self, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


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
        timeout: Seconds a try.
        patience: When to try again.

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
        patience: Patience | None = None,
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
        for name, value in (("batch", batch), ("concurrency", concurrency), ("timeout", timeout)):
            if not value > 0:
                raise ConfigurationError(f"{name} is {value}; expected a number above 0")
        self.base_url, self.model, self.endpoint, self.label, self.chat = (
            base_url.rstrip("/"),
            model,
            endpoint,
            label,
            chat,
        )
        self.batch, self.timeout, self.patience = 1 if chat else batch, timeout, patience or Patience()
        self._key = os.environ.get("AISP_API_KEY") if api_key is None else api_key
        self._slots = asyncio.Semaphore(concurrency)
        self._client: httpx.AsyncClient | None = None

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
        async with self._slots:
            async for attempt in self.patience.aretrying(_may_pass):
                with attempt:
                    answer = await self._post(self._payload(candidates))
        return self._values(answer, len(candidates))

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

    async def _post(self, payload: Mapping[str, Any]) -> Any:
        """Ask once."""
        response = await self._connected().post(f"/{self.endpoint}", json=payload)
        if response.status_code != 200:
            after = response.headers.get("retry-after", "")
            raise ServerError(
                f"{self.base_url}/{self.endpoint} answered {response.status_code}: {response.text[:200]}",
                response.status_code,
                float(after) if after.replace(".", "", 1).isdigit() else None,
            )
        return response.json()

    def _connected(self) -> httpx.AsyncClient:
        """Return the one client, made on the loop that it lives on."""
        import httpx

        if self._client is None:
            headers = {} if not self._key else {"Authorization": f"Bearer {self._key}"}
            self._client = httpx.AsyncClient(base_url=self.base_url, headers=headers, timeout=self.timeout)
            weakref.finalize(self, _close, self._client)
        return self._client

    def _values(self, answer: Any, count: int) -> list[float]:
        """Read one number a candidate, in the order of `index`."""
        try:
            rows = sorted(answer["data"], key=lambda row: row.get("index", 0))
            values = [self._value(row) for row in rows]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
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


def _close(client: httpx.AsyncClient) -> None:
    """Close a client on the loop that its connections live on."""
    submit(client.aclose())


def _may_pass(error: BaseException) -> bool:
    """Return whether another try may find it mended."""
    if isinstance(error, ServerError):
        return error.status in _PASSING
    import httpx

    return isinstance(error, httpx.TransportError)
