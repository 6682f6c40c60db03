"""Remote rewards against a real server on loopback, which misbehaves on demand."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate
from aisp.rewards import Remote
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
