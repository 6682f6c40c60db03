"""The loop that async rewards share outlives what they do to it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from aisp.errors import RewardError
from aisp.records import Candidate
from aisp.rewards import FunctionReward, event_loop

CANDIDATES = [Candidate(messages=[], text=text) for text in ("a", "bb")]


async def fine(text):
    await asyncio.sleep(0)
    return float(len(text))


async def exits(text):
    sys.exit(3)


async def interrupts(text):
    raise KeyboardInterrupt


async def exits_in_a_task(text):
    return await asyncio.create_task(exits(text))


async def exits_in_a_callback(text):
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(0)
    raise ValueError("after it")


async def stops_the_loop(text):
    asyncio.get_running_loop().stop()
    raise ValueError("after it")


async def cancels_itself(text):
    raise asyncio.CancelledError


LONGEST = 60.0  # seconds
WRECKERS = [exits, interrupts, exits_in_a_task, exits_in_a_callback, stops_the_loop, cancels_itself]


@pytest.mark.parametrize("wrecker", WRECKERS)
def test_a_reward_that_exits_fails_alone(wrecker):
    # Its SystemExit ended the thread of the loop, and every later async reward waited for ever.
    with pytest.raises(RewardError, match=f"reward '{wrecker.__name__}' raised"):
        FunctionReward(wrecker).score(CANDIDATES)
    excluded = FunctionReward(wrecker, on_error="exclude").score(CANDIDATES)
    assert [score.usable for score in excluded] == [False, False]
    assert [score.value for score in FunctionReward(fine).score(CANDIDATES)] == [1.0, 2.0]


def test_what_else_runs_on_the_loop_is_not_lost():
    started, go_on = threading.Event(), asyncio.Event()

    async def waits(text):
        started.set()
        await go_on.wait()
        return 1.0

    waiting = event_loop.submit(FunctionReward(waits).ascore(CANDIDATES[:1]))
    started.wait()
    for wrecker in WRECKERS:
        FunctionReward(wrecker, on_error="exclude").score(CANDIDATES)

    async def release():
        go_on.set()

    event_loop.run(release())
    assert [score.value for score in waiting.result()] == [1.0]


class Own(BaseException):
    pass


@pytest.mark.parametrize("error", [Own, GeneratorExit])
def test_an_exception_that_is_no_error_is_the_rewards_failure(error):
    # As a library's own timeouts and pytest's outcomes are: LangChain's `ainvoke` took one for an answer.
    async def odd(text):
        raise error

    with pytest.raises(RewardError, match=error.__name__):
        FunctionReward(odd).score(CANDIDATES)
    assert FunctionReward(fine).score(CANDIDATES)[0].value == 1.0


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, Own, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("on_error", ["raise", "exclude"])
def test_what_a_plain_function_raises_on_a_thread_is_its_own_failure(error, on_error):
    # A reward that called `sys.exit` in one `ainvoke` ended the event loop of all others.
    def odd(text):
        raise error

    async def score():
        try:
            return await FunctionReward(odd, on_error=on_error).ascore(CANDIDATES)
        except RewardError as raised:
            return raised

    found = asyncio.run(score())
    told = str(found) if on_error == "raise" else found[0].error
    assert f"raised {error.__name__}()" in told


@pytest.mark.parametrize("error", [GeneratorExit, asyncio.CancelledError])
def test_a_plain_function_does_not_cancel_its_caller(error):
    def odd(text):
        raise error

    with pytest.raises(RewardError, match=error.__name__):
        FunctionReward(odd).score(CANDIDATES)


def test_the_exit_of_a_plain_function_is_the_callers():
    # A signal handler that runs meanwhile may mean the process by it.
    with pytest.raises(SystemExit):
        FunctionReward(lambda text: sys.exit(3), on_error="exclude").score(CANDIDATES)


def test_a_loop_whose_thread_is_gone_is_replaced(monkeypatch):
    gone = threading.Thread(target=lambda: None)
    gone.start()
    gone.join()
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(event_loop, "_served", event_loop._Served(loop, gone))
    assert FunctionReward(fine).score(CANDIDATES)[0].value == 1.0
    assert not event_loop.is_served(loop)
    loop.close()


def test_cancelling_who_awaits_cancels_the_reward():
    started, ended = threading.Event(), threading.Event()

    async def endless(text):
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def cancelled():
        scoring = asyncio.create_task(FunctionReward(endless).ascore(CANDIDATES[:1]))
        await asyncio.to_thread(started.wait)
        scoring.cancel()
        await asyncio.wait([scoring])
        return scoring.cancelled()

    assert asyncio.run(cancelled())
    assert ended.wait(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes can't be forked off here")
def test_a_process_that_is_forked_off_has_a_loop_of_its_own():
    # Threads don't come along, so the child waited for a loop that nobody ran.
    code = """
        import os, signal
        from aisp.records import Candidate
        from aisp.rewards import FunctionReward, event_loop

        async def fine(text):
            return 1.0

        def score():
            return FunctionReward(fine).score([Candidate(messages=[], text="a")])[0].value

        assert score() == 1.0
        event_loop._lock.acquire()  # as another thread may at that moment
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if score() == 1.0 else 1)
        event_loop._lock.release()
        assert os.waitpid(child, 0)[1] == 0
        assert score() == 1.0, "the parent's loop goes on"
        """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_coroutine_that_blocks_its_loop_holds_up_no_other(monkeypatch):
    # An async reward that slept, or asked a server, without awaiting held up every async reward of the process.
    monkeypatch.setattr(event_loop, "_ANSWERS_WITHIN", 0.05)
    blocked, over = threading.Event(), threading.Event()

    async def blocks(text):
        blocked.set()
        over.wait(LONGEST)
        return 1.0

    held = threading.Thread(target=FunctionReward(blocks).score, args=(CANDIDATES[:1],))
    held.start()
    try:
        assert blocked.wait(LONGEST)
        assert [score.value for score in FunctionReward(fine).score(CANDIDATES)] == [1.0, 2.0]
        assert not over.is_set()
        assert held.is_alive()
    finally:
        over.set()
    held.join(LONGEST)
    assert not held.is_alive(), "what blocked is not lost"
