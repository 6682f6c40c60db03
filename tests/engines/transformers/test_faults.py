"""What goes wrong with one flight is that flight's: others get their tokens as alone, and the engine answers on.

A fault is put into every step of the engine's cycle, and an interrupt at lines all over it.
"""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import aisp.engines
from aisp.engines.grammar import Matcher
from aisp.engines.stopping import StopStrings
from aisp.engines.transformers import batch as batch_module
from aisp.engines.transformers import sampler, sequence
from aisp.engines.transformers.batch import Batch
from aisp.engines.transformers.calibration import ScaleMeter
from aisp.engines.transformers.decoder import Decoder
from aisp.engines.transformers.perturbation import Perturber
from aisp.engines.transformers.prefix_cache import PrefixCache
from aisp.engines.transformers.scheduler import Scheduler
from aisp.engines.transformers.sequence import RolloutCall, Sequence
from aisp.engines.transformers.slot_cache import SlotCache
from aisp.errors import ConfigurationError, EngineError
from aisp.records import GREEDY, Limits, NoiseTerm, Proposal, Sampling
from aisp.testing import tiny_model
from tests.engines.build import engine_of

PROMPT, OTHER = list(range(20, 60)), list(range(40, 75))
LIMITS = Limits(max_tokens=9, stop=("never there",))
GUILTY = 666
GRAMMAR = "start: /[a-z ]{5,40}/"


def proposals_of(seed):
    """One of each kind."""
    return [
        Proposal(seed=seed, sampling=Sampling(), retain=True, grammar=GRAMMAR),
        Proposal(seed=seed, sampling=GREEDY, scale=0.3, measures=frozenset({"natural_scale", "bag"}), pause_after=4),
        Proposal(
            seed=seed,
            sampling=Sampling(temperature=0.9, top_p=0.95),
            mean=(NoiseTerm(seed=9, spans=((5, 0.2),)),),
            measures=frozenset({"score_vectors", "unused_mean_dot"}),
            retain=True,
        ),
    ]


BYSTANDERS = proposals_of(7)


@pytest.fixture(scope="module")
def engine():
    return engine_of(tiny_model("llama"))


@pytest.fixture(scope="module")
def narrow():
    """One that has to join sequences bit by bit, and to compute prompts again."""
    return engine_of(tiny_model("llama"), max_sequences=4, cache_bytes=0)


@pytest.fixture(scope="module")
def expected(engine):
    return tokens_of(engine.rollout(engine.prefill(OTHER), BYSTANDERS, LIMITS))


def tokens_of(rollouts):
    return [rollout.tokens.ids for rollout in rollouts]


def all_of(flight):
    found = {}
    while finished := flight.wait():
        found.update(finished)
    return tokens_of(found[place] for place in sorted(found))


def guilty(args):
    """Whether a call is about a sequence of the guilty flight."""
    found = [arg for given in args for arg in (given if isinstance(given, list) else [given])]
    return any(isinstance(one, Sequence) and one.proposal.seed == GUILTY for one in found)


def check_whole(engine, expected):
    """The engine holds nothing more, and answers."""
    assert tokens_of(engine.rollout(engine.prefill(OTHER), BYSTANDERS, LIMITS)) == expected
    stats = engine.stats()
    assert (stats.decoding, stats.waiting, stats.batch_bytes, stats.driven) == (0, 0, 0, False)


STEPS = [
    *[(Scheduler, name) for name in ("_begin", "_run_tasks", "_drop_over", "_admit")],
    *[(Batch, name) for name in ("join", "_prompt_kv", "_take_in", "_own_start", "_forget_prompts", "step")],
    *[(Batch, name) for name in ("_group_rows", "_sample", "_take_tokens", "_check_finite", "finish", "_remember")],
    *[(Batch, name) for name in ("_measure", "leave")],
    *[(Decoder, name) for name in ("prefill", "step")],
    *[(SlotCache, name) for name in ("make_room", "add", "begin", "update", "export", "remove", "resize")],
    *[(PrefixCache, name) for name in ("match", "insert", "_insert", "_evict")],
    *[(Perturber, name) for name in ("draw", "_refresh", "unused_mean_dot")],
    *[(ScaleMeter, name) for name in ("observe", "scale")],
    *[(Matcher, name) for name in ("mask", "hold", "advance")],
    *[(Sequence, name) for name in ("append", "end_reason", "hold", "to_rollout", "_stack_scores")],
    (RolloutCall, "deliver"),
    (StopStrings, "hit"),
    (StopStrings, "cut"),
    (sequence, "decode"),
    (batch_module, "sample"),
    *[(sampler, name) for name in ("softmax", "_draw", "_forbid", "_measure_scores", "_uniforms")],
]


SHARED = {
    *[(Scheduler, name) for name in ("_drop_over", "_admit")],
    *[(Batch, name) for name in ("join", "step", "_group_rows", "_sample", "_take_tokens", "leave", "_forget_prompts")],
    *[(SlotCache, name) for name in ("make_room", "add", "begin", "update", "remove")],
    *[(sampler, name) for name in ("softmax", "_draw", "_forbid", "_measure_scores", "_uniforms")],
    *[(Decoder, "step"), (Perturber, "draw"), (Perturber, "_refresh"), (batch_module, "sample")],
}
"""Steps of all flights together, which pass when they are tried flight by flight."""


@pytest.mark.parametrize("when", [1, 2])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[f"{owner.__name__}.{name}" for owner, name in STEPS])
def test_a_fault_that_comes_once_costs_nobody_or_one_flight(narrow, expected, owner, name, when, monkeypatch):
    engine = narrow
    plain, calls, tokens = getattr(owner, name), [], []

    def broken(*args, **options):
        calls.append(name)
        if len(calls) == when:
            raise RuntimeError("broken")
        return plain(*args, **options)

    prefix, other = engine.prefill(PROMPT), engine.prefill(OTHER)
    monkeypatch.setattr(owner, name, broken)
    flights = [engine.start(other, BYSTANDERS, LIMITS), engine.start(prefix, proposals_of(GUILTY), LIMITS)]
    errors = []
    for flight in flights:
        try:
            tokens.append(all_of(flight))
        except (EngineError, RuntimeError) as error:
            errors.append(error)
            assert flight.pending == 0
    monkeypatch.undo()
    assert len(errors) <= ((owner, name) not in SHARED)
    assert all("broken" in str(error) for error in errors)
    assert len(calls) >= when or name == "resize", "the step was not reached"
    assert expected in tokens or errors
    check_whole(engine, expected)


OF_ONE = [
    (Batch, "_prompt_kv"),
    (Batch, "_take_in"),
    (Batch, "_own_start"),
    (Batch, "finish"),
    (Batch, "_measure"),
    (Batch, "_remember"),
    (Batch, "_check_finite"),
    (Sequence, "append"),
    (Sequence, "end_reason"),
    (Sequence, "hold"),
    (Sequence, "to_rollout"),
    (RolloutCall, "deliver"),
    (Perturber, "unused_mean_dot"),
    # What is done for all at once fails as long as the guilty one is in it.
    (batch_module, "sample"),
    (sampler, "_draw"),
    (Perturber, "draw"),
    (Batch, "join"),
]


@pytest.mark.parametrize("first", ["bystander", "guilty"])
@pytest.mark.parametrize(("owner", "name"), OF_ONE, ids=[f"{owner.__name__}.{name}" for owner, name in OF_ONE])
def test_a_fault_that_stays_is_told_to_its_own_flight_only(engine, expected, owner, name, first, monkeypatch):
    plain = getattr(owner, name)

    def broken(*args, **options):
        if guilty(args):
            raise RuntimeError("broken")
        return plain(*args, **options)

    prefix, other = engine.prefill(PROMPT), engine.prefill(OTHER)
    third = engine.rollout(engine.prefill(PROMPT[5:]), BYSTANDERS, LIMITS)
    monkeypatch.setattr(owner, name, broken)
    flights = {
        "bystander": engine.start(other, BYSTANDERS, LIMITS),
        "guilty": engine.start(prefix, proposals_of(GUILTY), LIMITS),
        "third": engine.start(engine.prefill(PROMPT[5:]), BYSTANDERS, LIMITS),
    }
    for who in sorted(flights, key=lambda one: one != first):
        if who == "guilty":
            with pytest.raises(EngineError, match="broken"):
                all_of(flights[who])
            assert flights[who].pending == 0
        else:
            assert all_of(flights[who]) == (expected if who == "bystander" else tokens_of(third))
    monkeypatch.undo()
    check_whole(engine, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": np.full((1, 64), np.nan, np.float32)}, "shift is nan"),
        ({"shift": np.full((2, 64), np.inf, np.float32)}, "shift is inf"),
        ({"shift": np.full((1, 64), 3e38, np.float32)}, "shift is 3"),
        ({"shift": np.zeros((1, 63), np.float32)}, "63 numbers a position"),
        ({"shift": np.zeros((0, 64), np.float32)}, r"shape \(0, 64\)"),
        ({"shift": np.zeros((1, 64))}, "float64 of shape"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"scale": -1.0}, "scale is -1.0"),
        ({"mean": (NoiseTerm(seed=1, spans=((4, 1.0), (9, float("nan")))),)}, "weight nan"),
        ({"mean": (NoiseTerm(seed=1, spans=((4, -1e300),)),)}, "weight 1e"),
        ({"pause_after": 0}, "pause_after is 0"),
        ({"horizon": -1}, "horizon is -1"),
        ({"grammar": "start: %json {"}, "can't be compiled"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_where_they_enter(engine, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        engine.start(engine.prefill(PROMPT), [Proposal(**{"seed": 1, **changes})], LIMITS)
    assert engine.stats().waiting == 0


@pytest.mark.parametrize("temperature", [1e-40, -1.0, float("inf"), float("nan")])
def test_a_temperature_that_leaves_float32_is_refused(temperature):
    """One of 1e-40 once failed the eight other requests in its batch."""
    with pytest.raises(ConfigurationError, match="temperature is"):
        Sampling(temperature=temperature)


@pytest.mark.parametrize(
    "extreme",
    [
        Proposal(seed=GUILTY, sampling=Sampling(temperature=1e-20)),
        Proposal(seed=GUILTY, sampling=Sampling(temperature=1e300)),
        Proposal(seed=GUILTY, sampling=Sampling(temperature=1e-20), prior=Sampling(temperature=1e38)),
        Proposal(seed=GUILTY, sampling=Sampling(top_p=1e-300, top_k=1)),
        Proposal(seed=GUILTY, sampling=Sampling(), scale=1e30),
        Proposal(seed=GUILTY, sampling=GREEDY, scale=1e30),
        Proposal(seed=GUILTY, sampling=Sampling(), shift=np.full((1, 64), 9e29, np.float32)),
        Proposal(seed=GUILTY, sampling=Sampling(), shift=np.full((1, 64), 1e18, np.float32), grammar=GRAMMAR),
        Proposal(seed=2**63, sampling=Sampling(), mean=(NoiseTerm(seed=2**64 - 1, spans=((4, 1e30),)),)),
    ],
)
def test_extreme_numbers_are_drawn_from_or_fail_alone(engine, expected, extreme):
    bystander = engine.start(engine.prefill(OTHER), BYSTANDERS, LIMITS)
    outcome = []
    try:
        outcome += engine.rollout(engine.prefill(PROMPT), [extreme], LIMITS)
    except EngineError as error:
        outcome.append(str(error))
    for one in outcome:
        if isinstance(one, str):
            assert "not finite" in one
        else:
            assert all(np.isfinite(getattr(one.tokens, name)).all() for name in ("log_prob", "kl_to_base", "entropy"))
    assert all_of(bystander) == expected
    check_whole(engine, expected)


def test_a_model_whose_numbers_overflow_for_one_prompt_fails_that_flight_only(engine, expected, monkeypatch):
    """As in float16: not a number in a slot would spread, since what is masked is multiplied by 0."""
    bystander = engine.start(engine.prefill(OTHER), BYSTANDERS, LIMITS)
    poisoned = engine.start(engine.prefill(PROMPT), proposals_of(GUILTY), LIMITS)
    plain = Batch._sample

    def sample(self, sequences, pre_logits):
        pre_logits = pre_logits.clone()
        for place, one in enumerate(sequences):
            if one.proposal.seed == GUILTY and len(one.ids) == 3:
                pre_logits[place] = float("nan")
        return plain(self, sequences, pre_logits)

    monkeypatch.setattr(Batch, "_sample", sample)
    with pytest.raises(EngineError, match="not finite at its token 3"):
        all_of(poisoned)
    assert all_of(bystander) == expected
    monkeypatch.undo()
    check_whole(engine, expected)


ROOM = str(Path(aisp.engines.__file__).parent)


class InterruptAt:
    """Raises KeyboardInterrupt at the n-th line that runs in the engines' files; counts the lines without one."""

    def __init__(self, line):
        self.left = line
        self.lines = 0

    def __enter__(self):
        sys.settrace(self._call)

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, arg):
        return self._line if frame.f_code.co_filename.startswith(ROOM) else None

    def _line(self, frame, event, arg):
        self.lines += event == "line"
        if self.lines == self.left:
            self.left = -1
            raise KeyboardInterrupt
        return self._line


def interrupted(engine, line):
    """Ask for a flight of every kind, and be interrupted; return the lines that ran."""
    interrupt = InterruptAt(line)
    try:
        with interrupt:
            engine.rollout(engine.prefill(PROMPT), proposals_of(GUILTY), LIMITS)
    except KeyboardInterrupt:
        pass
    return interrupt.lines


def test_an_interrupt_at_any_line_leaves_bystanders_their_tokens_and_the_engine_whole(engine, expected):
    lines = interrupted(engine, -1)
    assert lines > 3000
    # Primes apart, so that loops are met at all of their lines.
    for line in [*range(1, 200, 7), *range(200, lines, 131)]:
        bystander = engine.start(engine.prefill(OTHER), BYSTANDERS, LIMITS)
        interrupted(engine, line)
        assert all_of(bystander) == expected, f"after an interrupt at line {line}"
        gc.collect(0)
        check_whole(engine, expected)


def test_interrupts_under_load_leave_no_thread_stuck(engine, expected):
    """Ctrl-C once left the lock of who decodes taken, or a waiting thread without a ring."""
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(tokens_of(engine.rollout(engine.prefill(OTHER), BYSTANDERS, LIMITS)))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    lines = interrupted(engine, -1)
    for line in range(11, lines, max(lines // 40, 1)):
        interrupted(engine, line)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert answers
    assert all(answer == expected for answer in answers)
    check_whole(engine, expected)
