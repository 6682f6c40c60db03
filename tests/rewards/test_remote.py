"""Remote rewards against a real server on loopback, which misbehaves on demand."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import socket
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate
from aisp.rewards import Remote, event_loop
from aisp.rewards.remote import ServerError
from aisp.rewards.retry import RetryPolicy

QUICK = RetryPolicy(attempts=3, first_wait=0.01, longest_wait=0.05)


class Server(ThreadingHTTPServer):
    """Scores by length. `faults` are taken one a request: a status, "slow", "cut", or a body."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.requests, self.connections = [], [], set()
        self.busy, self.busiest, self.lock = 0, 0, threading.Lock()
        self.closing, self.sent = threading.Event(), 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.requests.append((self.path, payload, dict(self.headers), time.monotonic()))
            server.connections.add(self.client_address)
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
            fault = server.faults.pop(0) if server.faults else None
        try:
            self.answer(payload, fault)
        finally:
            with server.lock:
                server.busy -= 1

    def answer(self, payload, fault):
        if fault == "cut":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "slow":
            time.sleep(0.6)
        if callable(fault):
            fault(self)
            return
        if isinstance(fault, int):
            self.send(fault, {"error": "no"}, {"retry-after": "0.03"} if fault == 429 else {})
        else:
            self.send(200, fault if isinstance(fault, dict) else self.scored(payload))

    def scored(self, payload):
        if self.path == "/score":
            pairs = zip(payload["text_1"], payload["text_2"], strict=True)
            rows = [{"index": i, "score": len(a) + 100 * len(b)} for i, (a, b) in enumerate(pairs)]
        elif self.path == "/classify":
            rows = [
                {"index": i, "label": "good" if "!" in text else "bad", "probs": [0.9, 0.1]}
                for i, text in enumerate(payload["input"])
            ]
        elif "messages" in payload:
            rows = [{"index": 0, "data": [[0.5], [float(len(payload["messages"]))]]}]
        else:
            rows = [{"index": i, "data": [float(len(text))]} for i, text in enumerate(payload["input"])]
        return {"data": rows[::-1]}  # in an order of its own

    def send(self, status, body, headers=None):
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def candidates(*texts):
    return [Candidate(messages=[{"role": "user", "content": "Hi?"}], text=text) for text in texts]


def values(reward, *texts):
    return [score.value for score in reward.score(candidates(*texts))]


def test_pairs_are_scored(server):
    assert values(Remote(server.url + "/", "m", api_key="k"), "a", "bb") == [103.0, 203.0]
    path, payload, headers, _ = server.requests[0]
    assert path == "/score"
    assert payload == {"model": "m", "text_1": ["Hi?", "Hi?"], "text_2": ["a", "bb"]}
    assert headers["Authorization"] == "Bearer k"


def test_a_label_is_classified(server):
    assert values(Remote(server.url, "m", "classify", label="good"), "yes!", "no") == [0.9, 0.1]


def test_texts_and_conversations_are_pooled(server):
    assert values(Remote(server.url, "m", "pooling"), "a", "bb") == [1.0, 2.0]
    assert values(Remote(server.url, "m", "pooling", chat=True), "a", "bb") == [2.0, 2.0]
    assert server.requests[-1][1]["messages"][0]["role"] == "user"
    sent = sorted(request[1]["messages"][-1]["content"] for request in server.requests[1:])
    assert sent == ["a", "bb"]


def test_requests_run_side_by_side_up_to_a_limit_over_kept_connections(server):
    reward = Remote(server.url, "m", batch=1, concurrency=3)
    server.faults += ["slow"] * 3
    assert values(reward, *(f"{'x' * n}" for n in range(1, 13))) == [3.0 + 100 * n for n in range(1, 13)]
    assert server.busiest == 3
    assert len(server.requests) == 12
    assert len(server.connections) <= 3


@pytest.mark.parametrize("fault", [429, 500, 503, "cut"])
def test_what_may_pass_is_tried_again(server, fault):
    server.faults += [fault, fault]
    assert values(Remote(server.url, "m", retry=QUICK), "a") == [103.0]
    assert len(server.requests) == 3


def test_a_server_may_say_how_long_to_wait(server):
    server.faults += [429]
    slow = RetryPolicy(attempts=2, first_wait=5.0, longest_wait=5.0)
    assert values(Remote(server.url, "m", retry=slow), "a") == [103.0]
    waited = server.requests[1][3] - server.requests[0][3]
    assert 0.03 <= waited < 4.0


def test_a_slow_answer_is_given_up_and_asked_for_again(server):
    server.faults += ["slow"]
    assert values(Remote(server.url, "m", timeout=0.2, retry=QUICK), "a") == [103.0]
    assert len(server.requests) == 2


def begin(handler, **headers):
    handler.close_connection = True
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def dribble(handler):
    """Send a right answer after two seconds of a blank now and then, so that no read is long."""
    begin(handler)
    try:
        for _ in range(100):
            if handler.server.closing.wait(0.02):
                return
            handler.wfile.write(b" ")
        handler.wfile.write(json.dumps({"data": [{"index": 0, "score": 7.0}]}).encode())
    except OSError:
        pass


def flood(handler):
    """Send bytes for as long as anybody reads."""
    begin(handler)
    try:
        while True:
            handler.wfile.write(b" " * 65536)
            handler.server.sent += 65536
    except OSError:
        pass


def packed(content, encoding="gzip"):
    def answer(handler):
        begin(handler, content_encoding=encoding)
        handler.wfile.write(content)

    return answer


def test_a_try_has_a_time_in_all_and_not_only_for_each_read(server):
    # A body that came a byte at a time was waited for without end, since each read was in time.
    server.faults += [dribble, dribble]
    with pytest.raises(RewardError, match=r"gave no whole answer within 0\.2 s"):
        values(Remote(server.url, "m", timeout=0.2, retry=RetryPolicy(attempts=2, first_wait=0.01)), "a")
    assert len(server.requests) == 2


def test_tries_end_with_the_time_for_all_of_them(server):
    server.faults += [dribble] * 9
    retry = RetryPolicy(attempts=9, deadline=0.3, first_wait=0.01, longest_wait=0.01)
    with pytest.raises(RewardError, match="gave no whole answer within 0"):
        values(Remote(server.url, "m", timeout=60.0, retry=retry), "a")
    assert len(server.requests) == 1


def test_an_answer_is_read_up_to_a_size(server):
    server.faults += [flood]
    with pytest.raises(RewardError, match="answered more than 100000 bytes"):
        values(Remote(server.url, "m", max_bytes=100_000, retry=QUICK), "a")
    assert server.sent < 100_000_000
    assert len(server.requests) == 1, "and not asked for again"


def test_an_answer_that_unpacks_to_more_than_that_is_not_unpacked(server, monkeypatch):
    # Half a megabyte of gzip became 2.4 gigabytes.
    server.faults += [packed(gzip.compress(b" " * 200_000_000))]
    tracemalloc.start()
    with pytest.raises(RewardError, match="answered more than 1000000 bytes"):
        values(Remote(server.url, "m", max_bytes=1_000_000, retry=QUICK), "a")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20_000_000


def test_an_error_is_shown_by_its_beginning(server):
    def error(handler):
        handler.close_connection = True
        handler.send_response(400)
        handler.end_headers()
        try:
            for _ in range(1000):
                handler.wfile.write(b"no such model " * 1000)
        except OSError:
            pass

    server.faults += [error]
    with pytest.raises(ServerError, match="answered 400: no such model") as caught:
        values(Remote(server.url, "m", retry=QUICK), "a")
    assert len(str(caught.value)) < 400


def test_packed_answers_are_read(server):
    body = json.dumps({"data": [{"index": 0, "score": 7.0}]}).encode()
    server.faults += [packed(gzip.compress(body))]
    assert values(Remote(server.url, "m", retry=QUICK), "a") == [7.0]
    assert server.requests[0][2]["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (packed(b"x", "br"), "content encoding 'br'"),
        (packed(gzip.compress(b"x" * 999)[:-20]), "breaks off|isn't JSON"),
        (packed(b"not gzip"), "error|incorrect"),
        (packed(b"{", "identity"), "isn't JSON"),
        (packed(b"[" * 200_000, "identity"), "isn't JSON"),
        (packed(b'{"data": [{"score": 1' + b"0" * 5000 + b"}]}", "identity"), "isn't JSON"),
    ],
    ids=["brotli", "cut gzip", "no gzip", "cut JSON", "deep JSON", "a number of thousands of digits"],
)
def test_answers_that_can_not_be_read_are_errors_and_can_be_excluded(server, fault, said):
    server.faults += [fault, fault]
    with pytest.raises(RewardError, match=said):
        values(Remote(server.url, "m", retry=QUICK), "a")
    [score] = Remote(server.url, "m", retry=QUICK, on_error="exclude").score(candidates("a"))
    assert not score.usable


def test_a_wait_that_is_no_number_is_not_waited_for(server):
    def busy(handler):
        handler.send(429, {}, {"retry-after": "²"})

    server.faults += [busy]
    assert values(Remote(server.url, "m", retry=QUICK), "a") == [103.0]


def test_a_loop_that_was_replaced_gets_connections_of_its_own(server, monkeypatch):
    reward = Remote(server.url, "m", concurrency=1, batch=1)
    assert values(reward, "a", "bb") == [103.0, 203.0]
    old_loop, old_client = event_loop._served.loop, reward._connections._here.client
    monkeypatch.setattr(event_loop, "_served", None)
    assert values(reward, "ccc", "dddd") == [303.0, 403.0]
    asyncio.run_coroutine_threadsafe(old_client.aclose(), old_loop).result()
    asyncio.run_coroutine_threadsafe(reward._connections._here.client.aclose(), event_loop._served.loop).result()


def test_it_gives_up_in_the_end(server):
    server.faults += [500] * 3
    with pytest.raises(ServerError, match="answered 500"):
        values(Remote(server.url, "m", retry=QUICK), "a")
    assert len(server.requests) == 3


def test_what_will_not_pass_is_not_tried_again(server):
    server.faults += [401]
    with pytest.raises(RewardError, match="answered 401"):
        values(Remote(server.url, "m", retry=QUICK), "a")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"data": []},
        {"data": [{"index": 0}]},
        {"scores": [1.0]},
        {"data": [{"index": 0, "score": "high"}]},
        {"data": [{"index": 0, "score": math.nan}]},
        {"data": "none"},
    ],
    ids=["none", "no score", "no data", "a word", "NaN", "text"],
)
def test_answers_of_another_shape_are_errors(server, body):
    server.faults += [body]
    with pytest.raises(RewardError):
        values(Remote(server.url, "m", retry=QUICK), "a")


def test_failures_can_be_excluded_one_by_one(server):
    reward = Remote(server.url, "m", batch=1, on_error="exclude", retry=RetryPolicy(attempts=1))
    server.faults += [{"data": [{"index": 0, "score": math.nan}]}]
    scores = reward.score(candidates("a", "bb"))
    assert sum(score.error is not None for score in scores) == 1
    assert sum(score.usable for score in scores) == 1


def test_nobody_there():
    with pytest.raises(RewardError, match="ConnectError"):
        values(Remote("http://127.0.0.1:9", "m", retry=RetryPolicy(attempts=2, first_wait=0.01)), "a")


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "rank"},
        {"endpoint": "classify"},
        {"label": "good"},
        {"chat": True},
        {"batch": 0},
        {"timeout": 0},
        {"max_bytes": 0},
        {"bacth": 3},
    ],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises((ConfigurationError, TypeError)):
        Remote("http://localhost", "m", **wrong)


def test_the_fingerprint_knows_the_server_but_not_the_key():
    one = Remote("http://a", "m", api_key="x")
    assert one.fingerprint == Remote("http://a/", "m", api_key="y").fingerprint
    assert one.fingerprint != Remote("http://b", "m").fingerprint
