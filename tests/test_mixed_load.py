"""Good and bad requests at once: each is answered or refused by its own error, and memory stays flat."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from pathlib import Path

import pytest

from aisp.errors import AISPError, ConfigurationError, DeadlineExceededError, PromptError, RewardError
from aisp.rewards import FunctionReward
from aisp.service import Service
from aisp.settings import SearchSettings

REQUESTS, WARM, AT_ONCE = 300, 600, 8  # caches and the allocator are full after some 600
LONGEST = 60.0  # seconds
GROWTH = 16 * 2**20  # bytes, some 50 KiB a request
STATM = Path("/proc/self/statm")
SCHEMA = {"type": "object", "title": "one", "properties": {"one": {"type": "boolean"}}, "required": ["one"]}
CHAIN = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(1500)}


def resident():
    import resource

    gc.collect()
    return int(STATM.read_text().split()[1]) * resource.getpagesize()


def fails(text):
    raise ValueError("no")


def exits(text):
    raise SystemExit(3)


async def aexits(text):
    raise SystemExit(3)


async def never_ends(text):
    await asyncio.Event().wait()


def format_of(schema):
    return {"type": "json_schema", "json_schema": {"name": "one", "schema": schema}}


def kinds(released):
    """Return what requests ask for, and what each must end with; None for an answer."""
    late = {"timeout": 0.2, "on_timeout": "raise"}
    return {
        "plain": ({}, None),
        "cold": ({"temperature": 1e-20}, None),
        "too cold": ({"temperature": 1e-40}, ConfigurationError),
        "hot": ({"temperature": 1e308}, None),
        "huge": ({"rewards": FunctionReward(lambda text: 1e308 if len(text) % 2 else -1e308)}, None),
        "held": ({"response_format": format_of(SCHEMA), "max_tokens": 40}, None),
        "blocks": ({"commit_tokens": 4}, None),
        "fails": ({"rewards": FunctionReward(fails)}, RewardError),
        "exits": ({"rewards": FunctionReward(exits)}, RewardError),
        "aexits": ({"rewards": FunctionReward(aexits)}, RewardError),
        "never ends": ({"rewards": FunctionReward(never_ends), **late}, DeadlineExceededError),
        "hangs": ({"rewards": FunctionReward(lambda text: released.wait(LONGEST)), **late}, DeadlineExceededError),
        "long": ({"messages": "word " * 3000}, PromptError),
        "no schema": ({"response_format": format_of({"enum": []})}, ConfigurationError),
        "chain": ({"response_format": format_of({"$defs": CHAIN, "$ref": "#/$defs/a0"})}, ConfigurationError),
        "unknown": ({"budjet": 3}, ConfigurationError),
        "cancelled": ({"budget": 64, "max_tokens": 64}, asyncio.CancelledError),
    }


async def ask(service, name, options, number):
    """Return what a request ended with: an alignment, or the error."""
    rest = {"messages": f"Question {number % 7}", "seed": number, **options}
    if name != "cancelled":
        try:
            return await service.arun(rest.pop("messages"), **rest).alignment()
        except AISPError as error:
            return error
    steps, loop = random.Random(number).randrange(20), asyncio.get_running_loop()
    left = iter(range(steps))

    def cancel_in_time(new_tokens):
        if next(left, None) is None:
            loop.call_soon_threadsafe(task.cancel)

    run = service.arun(rest.pop("messages"), progress=cancel_in_time, **rest)
    task = asyncio.create_task(run.alignment())
    [ended] = await asyncio.gather(task, return_exceptions=True)
    return ended


async def serve(service, count):
    """Return which requests did not end as they should, and how they ended."""
    released, room = threading.Event(), asyncio.Semaphore(AT_ONCE)
    asked = list(kinds(released).items())

    async def one(number):
        name, (options, expected) = asked[number % len(asked)]
        async with room:
            ended = await ask(service, name, options, number)
            right = isinstance(ended, expected) if expected else not isinstance(ended, BaseException)
            return None if right else (name, repr(ended)[:200])  # what ended is let go of

    try:
        ended = await asyncio.gather(*(one(number) for number in range(count)))
        return [wrong for wrong in ended if wrong is not None]
    finally:
        released.set()


@pytest.mark.full
@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
@pytest.mark.filterwarnings("ignore::aisp.errors.RewardWarning", "ignore::aisp.forms.holding.SchemaWarning")
def test_each_of_many_requests_ends_as_it_should_and_memory_stays_flat(tiny, capsys):
    scorer = FunctionReward(len, name="length", partial=True)
    service = Service(tiny, scorer, SearchSettings(budget=6, num_samples=3, max_tokens=12))
    asyncio.run(serve(service, WARM))  # what is loaded and cached once
    before = resident()
    wrong = asyncio.run(serve(service, REQUESTS))
    after = resident()
    with capsys.disabled():
        print(f"\n{REQUESTS} requests: resident {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after")
    assert wrong == []
    assert after - before < GROWTH
    assert service.engine.stats().decoding == service.engine.stats().waiting == 0
