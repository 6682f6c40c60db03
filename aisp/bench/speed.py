"""`aisp bench speed`: our decode against `model.generate`, alternating in one run, on the same work.

Each scenario has two sides that draw the same number of responses of the same number of tokens, with the same model, in
the same process. They take turns, so that a machine whose speed drifts slows both; reported are the median ratio of
neighbours, and the spread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from aisp.bench.memory import PeakMemory
from aisp.bench.roofline import bandwidth, read_bytes, wait
from aisp.engines.transformers.engine import TransformersEngine
from aisp.errors import ConfigurationError
from aisp.models.loaded import wrap
from aisp.records import Limits, Proposal, Rollout, Sampling

SAMPLING = Sampling(temperature=0.8)
SHORT, LONG = 40, 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Two sides of one piece of work.

    Args:
        name: What `--scenario` calls it.
        what: In words: ours against theirs.
        ours: Does the work our way; returns the forward tokens it took.
        theirs: Does the same work the other way.
        least_bytes: What our side has to read at least; None where nobody counted.
    """

    name: str
    what: str
    ours: Callable[[int], int]
    theirs: Callable[[int], int]
    least_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a scenario measured. Times in seconds; memory in bytes above what was held before.

    `floor_seconds` is what reading the weights and the cache takes at the bandwidth that was measured, on CUDA; else
    None.
    """

    name: str
    what: str
    ratio: float
    ratio_low: float
    ratio_high: float
    ours_seconds: float
    theirs_seconds: float
    ours_forward_tokens: int
    theirs_forward_tokens: int
    ours_peak_bytes: int
    theirs_peak_bytes: int
    repetitions: int
    floor_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """The scenarios, on one model.

    Args:
        model: A causal language model, in evaluation mode.
        tokenizer: Its tokenizer.
        new_tokens: Tokens of a response.
        eos_token_ids: For the one scenario whose responses may end early; in the others none does.
    """

    def __init__(self, model: Any, tokenizer: Any, *, new_tokens: int = 64, eos_token_ids: Sequence[int] = ()) -> None:
        self.model, self.tokenizer, self.new_tokens = model, tokenizer, new_tokens
        self.eos_token_ids = tuple(eos_token_ids)
        self.vocab = min(len(tokenizer), model.get_input_embeddings().weight.shape[0])
        codec = wrap("bench", model, tokenizer).codec
        self.engine = TransformersEngine(model, replace(codec, eos_token_ids=()))
        device = self.model.device
        self.bytes_per_second = bandwidth(device) if device.type == "cuda" else None
        self.ending = TransformersEngine(model, replace(codec, eos_token_ids=self.eos_token_ids))

    def scenarios(self) -> list[Scenario]:
        """Return every scenario, the quick ones first."""
        found = [self._best_of_n(SHORT, n) for n in (8, 32, 128)]
        found += [self._early_ends(32), self._kept(), self._concurrent(), self._turn()]
        return found + [self._best_of_n(LONG, n) for n in (8, 32, 128)]

    def prompt(self, length: int, seed: int) -> list[int]:
        """Return random token ids: a prompt that no earlier one begins with."""
        generator = torch.Generator().manual_seed(10_007 * seed + length)
        return torch.randint(min(100, self.vocab // 2), self.vocab, (length,), generator=generator).tolist()

    def generate(self, prompt: Sequence[int], n: int, *, ends: bool = False) -> int:
        """Draw n responses as people do today; return the tokens that the body was run over."""
        ids = torch.tensor([list(prompt)], device=self.model.device)
        least = {} if ends else {"min_new_tokens": self.new_tokens, "eos_token_id": None}
        out = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=SAMPLING.temperature,
            top_k=0,
            top_p=1.0,
            num_return_sequences=n,
            max_new_tokens=self.new_tokens,
            pad_token_id=0,
            **({"eos_token_id": list(self.eos_token_ids)} if ends else least),
        )
        return n * len(prompt) + n * (int(out.shape[1]) - len(prompt) - 1)

    def rollout(self, prompt: Sequence[int], proposals: Sequence[Proposal], *, ends: bool = False) -> list[Rollout]:
        """Draw responses our way."""
        engine = self.ending if ends else self.engine
        return engine.rollout(engine.prefill(prompt), proposals, Limits(max_tokens=self.new_tokens))

    def _best_of_n(self, length: int, n: int) -> Scenario:
        kind = "short" if length == SHORT else "long"

        def ours(turn: int) -> int:
            rollouts = self.rollout(self.prompt(length, turn), samples(n, turn))
            return length + sum(rollout.forward_tokens for rollout in rollouts)

        what = f"best-of-n, {length}-token prompt, n = {n}, against generate"
        return Scenario(
            name=f"{kind}-{n}",
            what=what,
            ours=ours,
            theirs=lambda turn: self.generate(self.prompt(length, turn), n),
            least_bytes=read_bytes(self.model, self.engine.token_bytes, length, n, self.new_tokens),
        )

    def _early_ends(self, n: int) -> Scenario:
        def ours(turn: int) -> int:
            rollouts = self.rollout(self.prompt(SHORT, turn), samples(n, turn), ends=True)
            return SHORT + sum(rollout.forward_tokens for rollout in rollouts)

        return Scenario(
            name="early-ends",
            what=f"the same at n = {n} where responses may end early",
            ours=ours,
            theirs=lambda turn: self.generate(self.prompt(SHORT, turn), n, ends=True),
        )

    def _kept(self, rounds: int = 8, n: int = 16) -> Scenario:
        def ours(turn: int) -> int:
            prompt, total = self.prompt(SHORT, turn), SHORT
            earlier: list[Rollout] = []
            for index in range(rounds):
                drawn = samples(n, turn * rounds + index, retain=True)
                if earlier:
                    half = self.new_tokens // 2
                    drawn = [
                        Proposal(seed=p.seed, sampling=SAMPLING, retain=True, kept=r.tokens.head(half))
                        for p, r in zip(drawn, earlier, strict=True)
                    ]
                earlier = self.rollout(prompt, drawn)
                total += sum(rollout.forward_tokens for rollout in earlier)
            return total

        return Scenario(
            name="kept",
            what=f"{rounds} rounds of {n} that keep half of an earlier response, against {rounds} generate calls",
            ours=ours,
            theirs=lambda turn: sum(self.generate(self.prompt(SHORT, turn), n) for _ in range(rounds)),
        )

    def _concurrent(self, requests: int = 8, n: int = 8) -> Scenario:
        def one(seed: int) -> int:
            rollouts = self.rollout(self.prompt(SHORT, seed), samples(n, seed))
            return SHORT + sum(rollout.forward_tokens for rollout in rollouts)

        def together(turn: int) -> int:
            with ThreadPoolExecutor(requests - 1) as pool:
                others = [pool.submit(one, turn * requests + i) for i in range(1, requests)]
                return one(turn * requests) + sum(other.result() for other in others)

        return Scenario(
            name="concurrent",
            what=f"{requests} requests of n = {n} at once, against the same one after the other",
            ours=together,
            theirs=lambda turn: sum(one((turn + 1000) * requests + i) for i in range(requests)),
        )

    def _turn(self) -> Scenario:
        def first(turn: int) -> int:
            self.engine.prefill(self.prompt(LONG, turn))
            return LONG

        def second(turn: int) -> int:
            history = self.prompt(LONG, turn + 500)
            self.engine.prefill([*history, *self.prompt(SHORT, turn)])
            return SHORT

        return Scenario(
            name="second-turn",
            what=f"time to the first decode step of a second turn ({LONG}-token history), against the first turn",
            ours=second,
            theirs=first,
        )


def samples(n: int, turn: int, *, retain: bool = False) -> list[Proposal]:
    """Return proposals of plain samples, seeded by the repetition."""
    return [Proposal(seed=turn * 100_000 + row, sampling=SAMPLING, retain=retain) for row in range(n)]


def measure(bench: Bench, scenario: Scenario, repetitions: int, tell: Callable[[], None] = lambda: None) -> Result:
    """Run both sides in turn, after one warm-up of each, and compare neighbours.

    Args:
        bench: Whose scenario it is.
        scenario: What to run.
        repetitions: Of each side.
        tell: Called after each run of a side.
    """
    if repetitions < 1:
        raise ConfigurationError(f"repetitions is {repetitions}; expected at least 1")
    sides: dict[str, list[tuple[float, int, int]]] = {"ours": [], "theirs": []}
    for turn in range(repetitions):
        if scenario.name == "second-turn":
            bench.engine.prefill(bench.prompt(LONG, turn + 500))
        for side, work in (("ours", scenario.ours), ("theirs", scenario.theirs)):
            with PeakMemory(bench.model.device) as memory:
                started = time.perf_counter()
                tokens = work(turn)
                wait(bench.model.device)
                seconds = time.perf_counter() - started
            sides[side].append((seconds, tokens, memory.bytes))
            tell()
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(sides["ours"], sides["theirs"], strict=True)]
    return Result(
        name=scenario.name,
        what=scenario.what,
        ratio=statistics.median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        ours_seconds=statistics.median(run[0] for run in sides["ours"]),
        theirs_seconds=statistics.median(run[0] for run in sides["theirs"]),
        ours_forward_tokens=sides["ours"][-1][1],
        theirs_forward_tokens=sides["theirs"][-1][1],
        ours_peak_bytes=max(run[2] for run in sides["ours"]),
        theirs_peak_bytes=max(run[2] for run in sides["theirs"]),
        repetitions=repetitions,
        floor_seconds=_floor(bench, scenario),
    )


def _floor(bench: Bench, scenario: Scenario) -> float | None:
    if bench.bytes_per_second is None or scenario.least_bytes is None:
        return None
    return scenario.least_bytes / bench.bytes_per_second


def random_model(config: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Build a model of a shape, with random weights, from a configuration's folder or file."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        shape = AutoConfig.from_pretrained(config)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"--random-weights {config}: {error}; expected a folder or file with a config.json"
        ) from error
    build: Any = AutoModelForCausalLM
    with torch.device(device):
        return build.from_config(shape, dtype=dtype).eval().requires_grad_(False)
