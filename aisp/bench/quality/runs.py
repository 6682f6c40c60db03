"""Runs of the benchmark, each a JSONL row that is never made twice.

pool    plain samples of a prompt: texts, lengths, log-probabilities, how they read, seconds
search  what a strategy found for a prompt and a seed, response by response
scores  what a reward says of a pool, or one that is not optimised of a search's best responses

Rows of another `_FORMAT` are not looked at, and what they hold is done again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from aisp.bench.quality.reading import columns, reading
from aisp.bench.rivals import Selection
from aisp.bench.samples import draw_plain
from aisp.errors import AllCandidatesExcludedError, ConfigurationError
from aisp.jsonl import ResultFile, result_key
from aisp.models import LoadedModel
from aisp.records import Candidate, Message, Sampling
from aisp.rewards import Reward
from aisp.search.events import SearchStep
from aisp.search.guard import is_plain
from aisp.search.trace import Response, Round, best_of
from aisp.service import Service
from aisp.settings import SearchSettings
from aisp.strategies.base import SearchContext

Row = dict[str, Any]
_FORMAT = 3  # of pools and searches; 2: how the answers read; 3: seconds and plain samples of searches without rounds


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What is compared with what.

    Args:
        model: The model.
        prompts: Each as messages.
        reward: What is optimised.
        held_out: Rewards that are not, by name: what they say of the answers is reported.
        gold: Names of those among them that stand for what is meant: another measure of the same quality.
        strategies: Settings by the name in the report.
        rules: Selection rules by the name in the report, over the plain samples of the baseline.
        plain: How the pools' samples are drawn, by the name in the report.
        pool_size: Plain samples a prompt.
        pool_seed: Of the pools: another one has other samples.
        budget: Responses a search.
        seeds: One search each.
        max_tokens: Of a response.
        results: Where rows are kept.
        concurrency: Prompts in flight at once, pools and searches alike. Seconds are those of a request alone where it
            is 1.

    Raises:
        ConfigurationError: A gold that is not held out, or that is what is optimised; a pool of one, which has no
            others to be judged by.
    """

    model: LoadedModel
    prompts: Sequence[Sequence[Message]]
    reward: Reward
    strategies: Mapping[str, SearchSettings]
    plain: Mapping[str, Sampling]
    pool_size: int
    budget: int
    max_tokens: int
    results: ResultFile
    held_out: Mapping[str, Reward] = field(default_factory=dict)
    gold: Sequence[str] = ()
    rules: Mapping[str, Selection] = field(default_factory=dict)
    seeds: Sequence[int] = (1,)
    pool_seed: int = 0
    concurrency: int = 8

    def __post_init__(self) -> None:
        check_gold(self.reward, self.held_out, self.gold)
        if self.pool_size < 2:
            raise ConfigurationError(
                f"the pool has {self.pool_size} sample; expected at least 2, since each is judged by the others"
            )

    def tasks(self) -> list[Callable[[], None]]:
        """Return what is still to be done, pools first."""
        return [*self._missing(self._pools()), *self._missing(self._searches())]

    def run(self, advance: Callable[[], None]) -> None:
        """Do it, `concurrency` at a time, then score it likewise; `advance` is called as each task ends.

        Seconds are a run's own, with as many others in flight on either side: a slow reward is shared in searches, and
        so it is over pools. That it has to be loaded first is in no run's.
        """
        self._together(list(self._missing(self._pools())), advance)
        searches, scores = list(self._missing(self._searches())), list(self._missing(self._scores()))
        if searches or scores:
            self._load()
        self._together(searches, advance)
        self._together(scores, lambda: None)

    def _load(self) -> None:
        """Draw and score one response, so that model and reward are there before any clock starts."""
        settings = SearchSettings(strategy="best_of_n", budget=1, max_tokens=self.max_tokens)
        with contextlib.suppress(AllCandidatesExcludedError):
            Service(self.model, self.reward, settings).run(self.prompts[0], seed=0).alignment  # noqa: B018 - it runs

    def _together(self, tasks: Sequence[Callable[[], None]], advance: Callable[[], None]) -> None:
        with ThreadPoolExecutor(self.concurrency) as threads:
            try:
                for done in as_completed([threads.submit(task) for task in tasks]):
                    done.result()
                    advance()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def pool(self, plain: str, prompt: int) -> Row:
        """Return a prompt's pool of plain samples."""
        return self.results.done[self._pool_key(plain, prompt)]

    def scores(self, plain: str, prompt: int, reward: Reward) -> list[float]:
        """Return what a reward says of a pool; NaN for what is vetoed."""
        return _numbers(self.results.done[self._scores_key(plain, prompt, reward)]["values"])

    def found_scores(self, strategy: str, prompt: int, seed: int, reward: Reward) -> list[float]:
        """Return what a reward that is not optimised says of each best response of a search; NaN for what is vetoed."""
        key = result_key("scores", self._search_key(strategy, prompt, seed), reward.fingerprint)
        return _numbers(self.results.done[key]["values"])

    def scoring_seconds(self, plain: str, prompt: int, reward: Reward) -> float:
        """Return how long a reward took over a pool."""
        return float(self.results.done[self._scores_key(plain, prompt, reward)]["seconds"])

    def search(self, strategy: str, prompt: int, seed: int) -> Row:
        """Return what a strategy found."""
        return self.results.done[self._search_key(strategy, prompt, seed)]

    def begins_plainly(self, strategy: str, plain: str) -> bool:
        """Return whether a strategy's first round is plain samples of the kind that a pool is of."""
        settings = self._settings(strategy)
        plan, own = settings.make_plan(rewarded=True), settings.make_strategy(rewarded=True)
        state = own.init(
            SearchContext(
                root_seed=0,
                budget=plan.budget,
                num_samples=plan.num_samples,
                max_tokens=self.max_tokens,
                partial=self.reward.partial,
            )
        )
        return all(proposal.is_plain(self.plain[plain]) for proposal in own.propose(state, plan.num_samples))

    def _missing(self, tasks: Iterator[tuple[str, Callable[[], Row]]]) -> Iterator[Callable[[], None]]:
        for key, make in tasks:
            if key not in self.results.done:
                yield lambda key=key, make=make: self.results.write(key, make())  # type: ignore[misc]

    def _pools(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        for plain in self.plain:
            for prompt in range(len(self.prompts)):
                yield self._pool_key(plain, prompt), lambda p=plain, i=prompt: self._draw_pool(p, i)  # type: ignore[misc]

    def _searches(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        for seed in self.seeds:
            for prompt in range(len(self.prompts)):
                for name in self.strategies:
                    key = self._search_key(name, prompt, seed)
                    yield key, lambda n=name, i=prompt, s=seed: self._search(n, i, s)  # type: ignore[misc]

    def _scores(self) -> Iterator[tuple[str, Callable[[], Row]]]:
        for plain in self.plain:
            for prompt in range(len(self.prompts)):
                for reward in (self.reward, *self.held_out.values()):
                    key = self._scores_key(plain, prompt, reward)
                    yield key, lambda p=plain, i=prompt, r=reward: self._score_pool(p, i, r)  # type: ignore[misc]
        for seed in self.seeds:
            for prompt in range(len(self.prompts)):
                for name in self.strategies:
                    for reward in self.held_out.values():
                        key = result_key("scores", self._search_key(name, prompt, seed), reward.fingerprint)
                        yield key, lambda n=name, i=prompt, s=seed, r=reward: self._score_found(n, i, s, r)  # type: ignore[misc]

    def _about(self, prompt: int) -> tuple[Any, ...]:
        return (self.model.name, str(self.model.model.dtype), list(self.prompts[prompt]), self.max_tokens)

    def _pool_key(self, plain: str, prompt: int) -> str:
        other = (self.pool_seed,) if self.pool_seed else ()
        return result_key("pool", _FORMAT, *self._about(prompt), repr(self.plain[plain]), self.pool_size, *other)

    def _scores_key(self, plain: str, prompt: int, reward: Reward) -> str:
        return result_key("scores", self._pool_key(plain, prompt), reward.fingerprint)

    def _search_key(self, name: str, prompt: int, seed: int) -> str:
        settings = self.strategies[name].model_dump(exclude_none=True)
        about = (*self._about(prompt), settings, self.reward.fingerprint, self.budget, seed)
        return result_key("search", _FORMAT, *about)

    def _draw_pool(self, plain: str, prompt: int) -> Row:
        started = time.monotonic()
        drawn = draw_plain(
            Service(self.model),
            self.prompts[prompt],
            samples=self.pool_size,
            max_tokens=self.max_tokens,
            sampling=self.plain[plain],
            seed=self.pool_seed,
        )
        candidates, rollouts = zip(*drawn, strict=True)
        return {
            "kind": "pool",
            "plain": plain,
            "prompt": prompt,
            "seed": self.pool_seed,
            "seconds": time.monotonic() - started,
            "texts": [candidate.text for candidate in candidates],
            "tokens": [len(rollout.tokens) for rollout in rollouts],
            "forward_tokens": [rollout.forward_tokens for rollout in rollouts],
            "log_probs": [float(rollout.tokens.log_prob.sum()) for rollout in rollouts],
            "reading": columns([reading(rollout.tokens) for rollout in rollouts]),
        }

    def _score_pool(self, plain: str, prompt: int, reward: Reward) -> Row:
        return self._scored(prompt, self.pool(plain, prompt)["texts"], reward)

    def _score_found(self, name: str, prompt: int, seed: int, reward: Reward) -> Row:
        return self._scored(prompt, [step["text"] for step in self.search(name, prompt, seed)["best"]], reward)

    def _scored(self, prompt: int, texts: Sequence[str], reward: Reward) -> Row:
        candidates = [Candidate(messages=self.prompts[prompt], text=text) for text in texts]
        started, scores = time.monotonic(), reward.session().score(candidates) if candidates else []
        return {
            "kind": "scores",
            "reward": reward.name,
            "prompt": prompt,
            "seconds": time.monotonic() - started,
            "values": [score.value if score.usable else None for score in scores],
        }

    def _search(self, name: str, prompt: int, seed: int) -> Row:
        run = Service(self.model, self.reward, self._settings(name)).run(self.prompts[prompt], seed=seed)
        started = time.monotonic()
        rounds: list[Round] = []
        with contextlib.suppress(AllCandidatesExcludedError):  # the report tells of runs without an answer
            rounds.extend(event.round for event in run if isinstance(event, SearchStep))
            rounds[:] = run.alignment.rounds  # as they were judged in the end
        responses = [response for round_ in rounds for response in round_.responses]
        best: Response | None = None
        steps: list[tuple[int, Response]] = []
        for drawn, response in enumerate(responses, start=1):
            if (better := best_of([response], best)) is not best and better is not None:
                best = better
                steps.append((drawn, better))
        return {
            "kind": "search",
            "strategy": name,
            "prompt": prompt,
            "seed": seed,
            "seconds": time.monotonic() - started,
            "forward_tokens": [response.rollout.forward_tokens for response in responses],
            "seconds_at": [response.seconds for response in responses],
            "plain": _leading_plain(responses),
            "ess": [round_.ess for round_ in rounds],
            "distinct": len({response.text for response in responses}),
            "vetoed": sum(response.score.vetoed for response in responses),
            "rounds": [
                {"responses": len(r.responses), "mean_reward": r.mean_reward, "seconds": r.seconds} for r in rounds
            ],
            "best": [
                {
                    "drawn": drawn,
                    "reward": response.reward,
                    "text": response.text,
                    "tokens": len(response.rollout.tokens),
                    "log_prob": response.log_prob,
                    "kl_to_base": response.kl_to_base,
                    "reading": reading(response.rollout.tokens),
                }
                for drawn, response in steps
            ],
        }

    def _settings(self, name: str) -> SearchSettings:
        return self.strategies[name].model_copy(update={"budget": self.budget, "max_tokens": self.max_tokens})


def check_gold(reward: Reward, held_out: Mapping[str, Reward], gold: Sequence[str]) -> None:
    """Refuse a gold that is not held out, or that is what is optimised.

    Raises:
        ConfigurationError: One that is.
    """
    for name in gold:
        if name not in held_out:
            raise ConfigurationError(
                f"gold is {name!r}; expected a held-out reward: {', '.join(held_out) or 'there is none'}"
            )
        if held_out[name].fingerprint == reward.fingerprint:
            raise ConfigurationError(f"{name} is what is optimised; expected as gold another measure of it")


def _numbers(values: Sequence[float | None]) -> list[float]:
    """Return numbers as JSON has them: NaN for null."""
    return [float("nan") if value is None else value for value in values]


def _leading_plain(responses: Sequence[Response]) -> int:
    """Return how many plain samples ended before anything else did."""
    return sum(1 for _ in takewhile(is_plain, responses))
