"""One bounded exchange with a server: so many bytes at most, sent and unpacked, in so many seconds at most."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Mapping
from typing import Any

import httpx

from aisp.errors import RewardError

_ERROR_BYTES = 4096  # of an error's body, whose first characters are shown


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


class NoAnswerError(RewardError):
    """A server that hadn't answered in full when the time was up."""


async def post(
    client: httpx.AsyncClient, path: str, payload: Mapping[str, Any], *, seconds: float, max_bytes: int
) -> Any:
    """Return the JSON that a server answers.

    Args:
        client: With the server as its base URL.
        path: From there.
        payload: Sent as JSON.
        seconds: For all of it, from the connection to the last byte.
        max_bytes: Of the answer, both as it is sent and unpacked.

    Raises:
        NoAnswerError: The time was up.
        ServerError: A status other than 200.
        RewardError: A body that is too large, is packed in an unknown way, or isn't JSON.
        httpx.TransportError: The connection failed.
    """
    where = f"{str(client.base_url).rstrip('/')}{path}"
    try:
        async with (
            asyncio.timeout(seconds),
            client.stream("POST", path, json=payload, headers={"accept-encoding": "gzip"}) as response,
        ):
            if response.status_code != 200:
                said = (await _body(response, where, _ERROR_BYTES, cut=True)).decode("utf-8", "replace")
                raise ServerError(
                    f"{where} answered {response.status_code}: {said[:200]}",
                    response.status_code,
                    _seconds(response.headers.get("retry-after", "")),
                )
            body = await _body(response, where, max_bytes)
    except TimeoutError as error:
        raise NoAnswerError(
            f"{where} gave no whole answer within {seconds:.3g} s; raise the reward's timeout, or send fewer "
            "candidates a request (batch)"
        ) from error
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RewardError(f"{where} answered {body[:200]!r}, which isn't JSON: {error}") from error


async def _body(response: httpx.Response, where: str, limit: int, *, cut: bool = False) -> bytes:
    """Read a body of at most `limit` bytes; a longer one is cut or refused."""
    unpack = _unpacker(response.headers.get("content-encoding", ""), where)
    body, received = bytearray(), 0
    async for chunk in response.aiter_raw():
        received += len(chunk)
        body += chunk if unpack is None else unpack.decompress(chunk, limit + 1 - len(body))
        if len(body) > limit or received > limit:
            if cut:
                return bytes(body[:limit])
            raise RewardError(
                f"{where} answered more than {limit} bytes; raise the reward's max_bytes if that is meant, or send "
                "fewer candidates a request (batch)"
            )
    if unpack is not None and received and not unpack.eof:
        raise RewardError(f"{where} answered a gzip stream that breaks off")
    return bytes(body)


def _unpacker(encoding: str, where: str) -> Any:
    if encoding.strip().lower() in ("", "identity"):
        return None
    if encoding.strip().lower() in ("gzip", "x-gzip"):
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    raise RewardError(f"{where} answered with the content encoding {encoding!r}; expected gzip or none, as asked for")


def _seconds(header: str) -> float | None:
    """Read how long a server asks to wait; None where it names a date, or nothing."""
    try:
        seconds = float(header)
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
