"""The contract of `aisp.engines.Engine`, as tests that an engine of your own inherits.

    class TestMyEngine(EngineContract):
        @property
        def engine(self):
            return MyEngine(...)

It needs nothing of pytest but that it runs methods whose names begin with `test_`. What an engine does not offer it
must refuse; what it offers is put to the proof.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np

from aisp.engines.base import Engine, Flight
from aisp.errors import ConfigurationError, PromptError
from aisp.records import (
    TOKEN_FIGURES,
    Capability,
    FinishReason,
    Limits,
    Measure,
    NoiseTerm,
    Prefix,
    Proposal,
    Rollout,
    Sampling,
)

_SECONDS = 60.0  # that a thread is waited for


class EngineContract:
    """Checks that an engine keeps the contract. Subclass it, and give `engine`.

    Attributes:
        engine: What is checked; a class attribute, a property, or set on the instance by a fixture.
        messages: A prompt.
        dim: Size of a pre-logit; None finds it by a measure, where one is offered that tells it.
        grammar: A grammar of the tokenizer's texts, and what those may be; used where grammars are offered.
        max_tokens: Of a response.
        samplings: Ways of taking a token that the engine can do.
    """

    engine: Engine
    messages: Sequence[dict[str, Any]] = ({"role": "user", "content": "Tell me about rain."},)
    dim: int | None = None
    grammar: tuple[str, frozenset[str]] = ('start: "yes" | "no"', frozenset({"yes", "no"}))
    max_tokens: int = 12
    samplings: Sequence[Sampling] = (Sampling(),)

    def test_there_is_one_response_a_proposal_in_their_order(self) -> None:
        for count in (0, 1, 5):
            rollouts = self._rollout(self._samples(count))
            _expect(len(rollouts) == count, f"{len(rollouts)} responses to {count} proposals")
            _expect(all(isinstance(rollout, Rollout) for rollout in rollouts), f"{rollouts} are not rollouts")

    def test_responses_end_at_their_limit_or_before(self) -> None:
        for rollout in self._rollout(self._samples(6)):
            length = len(rollout.tokens)
            _expect(0 < length <= self.max_tokens, f"{length} tokens where {self.max_tokens} were allowed")
            _expect(rollout.finish_reason in get_args(FinishReason), f"finish_reason is {rollout.finish_reason!r}")
            _expect(rollout.finish_reason in ("stop", "length"), f"{rollout.finish_reason} without being asked to")

    def test_the_text_is_that_of_the_tokens(self) -> None:
        for rollout in self._rollout(self._samples(6)):
            self._expect_text(rollout)

    def test_a_stop_string_is_not_part_of_the_text_and_ends_it(self) -> None:
        [whole, *_] = sorted(self._rollout(self._samples(6)), key=lambda rollout: -len(rollout.text))
        proposals = self._samples(6)
        stop = whole.text[len(whole.text) // 2 :][:2]
        if not stop:
            return
        for rollout in self._rollout(proposals, stop=(stop,)):
            _expect(stop not in rollout.text, f"{stop!r} is in {rollout.text!r}")

    def test_figures_are_named_one_a_token_and_finite(self) -> None:
        for sampling in self.samplings:
            for rollout in self._rollout([replace(one, sampling=sampling) for one in self._samples(6)]):
                tokens = rollout.tokens
                for name in TOKEN_FIGURES:
                    figures = getattr(tokens, name)
                    _expect(figures.shape == (len(tokens),), f"{name} has shape {figures.shape}")
                    _expect(figures.dtype == np.float64, f"{name} is {figures.dtype}")
                    _expect(bool(np.isfinite(figures).all()), f"{name} is {figures} for softmax draws without noise")
                for name in ("log_prob", "log_prior", "log_proposal"):
                    _expect(bool((getattr(tokens, name) <= 1e-6).all()), f"{name} is above 0")
                _expect(bool((tokens.entropy >= -1e-6).all()), f"entropies {tokens.entropy}")
                _expect(not tokens.kl_to_base.any(), f"kl_to_base is {tokens.kl_to_base} where nothing is steered")

    def test_equal_seeds_give_equal_tokens_whatever_shares_the_batch(self) -> None:
        if "deterministic" not in self.engine.offers:
            return
        proposals = self._samples(6)
        together = _ids(self._rollout(proposals))
        _expect(_ids(self._rollout(proposals)) == together, "the same request gave other tokens")
        _expect(_ids(self._rollout(proposals[::-1])) == together[::-1], "another order gave other tokens")
        alone = [_ids(self._rollout([proposal]))[0] for proposal in proposals]
        _expect(alone == together, f"{alone} alone, {together} in a batch")
        _expect(len(set(together)) > 1, "six seeds gave one response")

    def test_a_flight_counts_what_it_hands_out(self) -> None:
        found: dict[int, Rollout] = {}
        with self._start(self._samples(5)) as flight:
            while finished := flight.wait():
                places = [place for place, _ in finished]
                _expect(places == sorted(places), f"handed out in the order {places}")
                _expect(not found.keys() & set(places), f"{places} were handed out before")
                found.update(finished)
                _expect(flight.pending == 5 - len(found), f"{flight.pending} pending after {len(found)} of 5")
            _expect(flight.wait() == [], "an empty flight handed something out")
        _expect(sorted(found) == list(range(5)), f"places {sorted(found)} of 5")

    def test_what_has_finished_is_handed_out_while_the_rest_is_written(self) -> None:
        if "kept" not in self.engine.offers:
            return
        first, second = self._samples(2)
        limits = Limits(max_tokens=self.max_tokens)
        with self._start([first, replace(second, pause_after=1)], limits) as flight:
            found = dict(flight.wait())
            whole = self._rollout([first])[0]
            if len(whole.tokens) > 2:
                _expect(sorted(found) == [1], f"places {sorted(found)} came first, of which place 1 has one token")

    def test_a_flight_takes_in_more(self) -> None:
        proposals = self._samples(5)
        found: dict[int, Rollout] = {}
        with self._start(proposals[:2]) as flight:
            found.update(flight.wait())
            flight.add(proposals[2:])
            while finished := flight.wait():
                found.update(finished)
            flight.add(proposals[:1])  # also once all was handed out
            found.update(flight.wait())
        _expect(sorted(found) == list(range(6)), f"places {sorted(found)} of 6")
        if "deterministic" in self.engine.offers:
            expected = _ids(self._rollout([*proposals, proposals[0]]))
            _expect(_ids([found[place] for place in range(6)]) == expected, "added later they have other tokens")

    def test_what_cannot_be_drawn_from_leaves_a_flight_as_it_was(self) -> None:
        good, *_ = self._samples(1)
        [rollout] = self._rollout([good])
        bad = replace(good, kept=rollout.tokens.followed_by(rollout.tokens))  # more than a response may have
        with self._start([good], Limits(max_tokens=len(rollout.tokens))) as flight:
            _refused(lambda: flight.add([good, bad]), "kept tokens that leave no room")
            _expect(flight.pending == 1, f"{flight.pending} pending; what was refused added something")
            _expect([place for place, _ in flight.wait()] == [0], "the flight did not go on")

    def test_closing_a_flight_ends_it_and_leaves_the_engine_usable(self) -> None:
        flight = self._start(self._samples(4))
        flight.close()
        flight.close()
        _expect(flight.pending == 0, f"{flight.pending} pending after close")
        _expect(flight.wait() == [], "a closed flight handed something out")
        _expect(len(self._rollout(self._samples(2))) == 2, "the engine did not answer afterwards")

    def test_flights_end_as_cancelled_when_their_time_is_over(self) -> None:
        cancel = threading.Event()
        cancel.set()
        for over in ({"cancel": cancel}, {"deadline": self._now()}):
            limits = replace(Limits(max_tokens=self.max_tokens), **over)
            rollouts = self.engine.rollout(self._prefix(), self._samples(3), limits)
            reasons = {rollout.finish_reason for rollout in rollouts}
            _expect(len(rollouts) == 3 and reasons == {"cancelled"}, f"{reasons} where {sorted(over)} was over")
            for rollout in rollouts:
                self._expect_text(rollout)

    def test_a_flight_that_is_cancelled_while_it_is_waited_for_ends(self) -> None:
        cancel = threading.Event()
        limits = Limits(max_tokens=self.max_tokens, cancel=cancel)
        with self._start(self._samples(4), limits) as flight:
            found = flight.wait(lambda _: cancel.set())
            while finished := flight.wait():
                found += finished
        _expect(len(found) == 4, f"{len(found)} of 4 responses were handed out")

    def test_progress_counts_the_tokens_that_are_drawn(self) -> None:
        seen: list[int] = []
        rollouts = self.engine.rollout(
            self._prefix(), self._samples(4), Limits(max_tokens=self.max_tokens), seen.append
        )
        drawn = sum(len(rollout.tokens) for rollout in rollouts)
        _expect(sum(seen) == drawn and min(seen) > 0, f"{seen} were reported of {drawn} tokens")

    def test_threads_get_what_they_get_alone(self) -> None:
        batches = [self._samples(3, first=10 * turn) for turn in range(6)]
        alone = [_ids(self._rollout(batch)) for batch in batches]
        found: dict[int, list[tuple[int, ...]]] = {}
        failures: list[BaseException] = []

        def ask(turn: int) -> None:
            try:
                found[turn] = _ids(self._rollout(batches[turn]))
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        threads = [threading.Thread(target=ask, args=(turn,), daemon=True) for turn in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_SECONDS)
        _expect(not failures, f"a thread failed: {failures[:1]}")
        _expect(len(found) == 6, f"{len(found)} of 6 threads were answered")
        if "deterministic" in self.engine.offers:
            _expect([found[turn] for turn in range(6)] == alone, "threads at once got other tokens than alone")

    def test_empty_prompts_are_refused(self) -> None:
        try:
            self.engine.prefill([])
        except PromptError:
            return
        _expect(False, "an empty prompt was taken")

    def test_kept_tokens_lead_the_response(self) -> None:
        first, second = self._samples(2)
        [whole] = self._rollout([first])
        proposal = replace(second, kept=whole.tokens.head(1))
        if not self._offered("kept", proposal):
            return
        [rollout] = self._rollout([proposal])
        _expect(rollout.kept_tokens == 1, f"kept_tokens is {rollout.kept_tokens}, and one was kept")
        _expect(rollout.tokens.ids[:1] == whole.tokens.ids[:1], "the kept token is not the response's first")
        for name in TOKEN_FIGURES:
            _expect(
                getattr(rollout.tokens, name)[0] == getattr(whole.tokens, name)[0], f"{name} of a kept token changed"
            )
        self._expect_text(rollout)
        [part] = self._rollout([replace(first, pause_after=1)])
        if not part.paused:  # it ended with its first token
            _expect(part.finish_reason in ("stop", "length"), f"{part.finish_reason} after pause_after=1")
        _expect(len(part.tokens) == 1, f"{len(part.tokens)} tokens after pause_after=1")

    def test_an_excluded_token_is_not_the_first_drawn(self) -> None:
        proposals = self._samples(6)
        token = self._rollout(proposals[:1])[0].tokens.ids[0]
        barred = [replace(proposal, excluded=(token,)) for proposal in proposals]
        if self._offered("excluded", barred[0]):
            for rollout in self._rollout(barred):
                _expect(rollout.tokens.ids[0] != token, f"token {token} was excluded and came first")

    def test_a_shift_steers_and_tells_by_how_many_nats(self) -> None:
        dim = self._dim()
        [plain] = self._samples(1)
        proposal = replace(plain, shift=np.linspace(-2.0, 2.0, dim, dtype=np.float32)[None])
        if self._offered("shift", proposal):
            [rollout] = self._rollout([proposal])
            nats = rollout.tokens.kl_to_base
            _expect(bool(np.isfinite(nats).all() and (nats >= 0).all() and nats.any()), f"kl_to_base is {nats}")
            [unsteered] = self._rollout([replace(proposal, horizon=0)])
            _expect(not unsteered.tokens.kl_to_base.any(), "horizon=0, and the response was steered")

    def test_numbers_that_are_not_finite_are_refused(self) -> None:
        [plain] = self._samples(1)
        bad = []
        if "noise" in self.engine.offers:
            bad += [replace(plain, scale=float("nan")), replace(plain, scale=float("inf"))]
        if "shift" in self.engine.offers:
            bad.append(replace(plain, shift=np.full((1, self._dim()), np.nan, dtype=np.float32)))
        for proposal in bad:
            _refused(partial(self._rollout, [proposal]), "numbers that are not finite")

    def test_noise_is_the_same_for_the_same_seed(self) -> None:
        [plain] = self._samples(1)
        proposal = replace(plain, scale=0.5, mean=(NoiseTerm(seed=3, spans=((4, 0.5),)),))
        if self._offered("noise", proposal):
            one, other = self._rollout([proposal, proposal])
            _expect(one.tokens.ids == other.tokens.ids, "equal proposals gave other tokens")
            _expect(bool(np.isfinite(one.tokens.mean_dot).all()), f"mean_dot is {one.tokens.mean_dot}")

    def test_a_grammar_holds_the_response(self) -> None:
        source, allowed = self.grammar
        proposals = [replace(proposal, grammar=source) for proposal in self._samples(6)]
        if self._offered("grammar", proposals[0]):
            texts = {rollout.text for rollout in self._rollout(proposals)}
            _expect(texts <= allowed, f"{texts - allowed} are not of the grammar {source!r}")
            bad = replace(proposals[0], grammar="start: %json {")
            _refused(lambda: self._rollout([bad]), "a grammar that can't be compiled")

    def test_what_is_measured_is_what_was_asked_for(self) -> None:
        [plain] = self._samples(1)
        _expect(not self._rollout([plain])[0].measured, "something was measured without being asked for")
        for measure in get_args(Measure):
            proposal = replace(plain, measures=frozenset({measure}))
            if self._offered(measure, proposal):
                measured = self._rollout([proposal])[0].measured
                _expect(measured.keys() == {measure}, f"{measure} was asked for, and {sorted(measured)} measured")
                _expect(bool(np.isfinite(measured[measure]).all()), f"{measure} is {measured[measure]}")

    def test_log_probabilities_of_next_tokens(self) -> None:
        tokens = list(self._rollout(self._samples(1))[0].tokens.ids[:1])
        prompt = self._prompt()
        if "next_token_log_probs" not in self.engine.offers:
            _refused(lambda: self.engine.log_probs(prompt, tokens), "log_probs, which is not offered,")
            return
        found = self.engine.log_probs(prompt, tokens)
        _expect(found.shape == (1,) and bool((found <= 0).all()), f"log_probs are {found}")
        [rollout] = self._rollout(self._samples(1))
        _expect(abs(float(found[0] - rollout.tokens.log_prob[0])) < 1e-3, "log_probs are not those of responses")

    def _now(self) -> float:
        """Return the time that deadlines are compared with."""
        clock: Callable[[], float] = getattr(self.engine, "clock", time.monotonic)
        return clock()

    def _prompt(self) -> list[int]:
        return self.engine.codec.encode(list(self.messages))

    def _prefix(self) -> Prefix:
        return self.engine.prefill(self._prompt())

    def _samples(self, count: int, first: int = 0) -> list[Proposal]:
        return [Proposal(seed=first + seed, sampling=self.samplings[0]) for seed in range(count)]

    def _start(self, proposals: Sequence[Proposal], limits: Limits | None = None) -> Flight:
        return self.engine.start(self._prefix(), proposals, limits or Limits(max_tokens=self.max_tokens))

    def _rollout(self, proposals: Sequence[Proposal], stop: tuple[str, ...] = ()) -> list[Rollout]:
        return self.engine.rollout(self._prefix(), proposals, Limits(max_tokens=self.max_tokens, stop=stop))

    def _offered(self, capability: Capability, proposal: Proposal) -> bool:
        """Return whether a capability is offered; if it isn't, the proposal must be refused."""
        if capability in self.engine.offers:
            return True
        _refused(lambda: self._rollout([proposal]), f"{capability}, which is not offered,")
        return False

    def _dim(self) -> int:
        if self.dim is not None:
            return self.dim
        if "bag" not in self.engine.offers:
            return 1
        [plain] = self._samples(1)
        return len(self._rollout([replace(plain, measures=frozenset({"bag"}))])[0].measured["bag"])

    def _expect_text(self, rollout: Rollout) -> None:
        text = self.engine.codec.tokenizer.decode(
            list(rollout.tokens.ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        _expect(text == rollout.text, f"the text is {rollout.text!r}, and its tokens spell {text!r}")


def _ids(rollouts: Sequence[Rollout]) -> list[tuple[int, ...]]:
    return [rollout.tokens.ids for rollout in rollouts]


def _refused(action: Callable[[], object], what: str) -> None:
    try:
        action()
    except ConfigurationError:
        return
    _expect(False, f"{what} was not refused with a ConfigurationError")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
