"""A strategy of your own in 30 lines, and how it compares with the default.

Run it with `python cookbook/14_your_own_strategy.py`; it takes about a minute on two cores.

A strategy decides what is drawn next, given what was drawn and scored so far. It is three functions of a frozen state,
and knows neither the model nor the reward:

    init(context)                              the state before the first round
    propose(state, n)                          at most n proposals: data that tells an engine how to write a response
    update(state, proposals, rollouts, scores) the state after some responses, and what a reader may want to know

`aisp.testing.StrategyContract` has the tests that every strategy must pass; subclass it and give `strategy`.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import aisp
from aisp.noise import row_seed
from aisp.records import NO_TOKENS, Proposal, Sampling, Tokens
from aisp.rewards import Length, Sentiment
from aisp.strategies import Info, SearchContext

WARM = Sampling(temperature=0.8)


@dataclass(frozen=True)
class State:
    context: SearchContext
    round_index: int = 0
    best: Tokens = NO_TOKENS
    reward: float = float("-inf")


# Hill climbing: keep the first half of the best response so far, and write the rest anew.
@dataclass(frozen=True)
class HalfKept:
    share: float = 0.5  # an option: strategy_options={"share": 0.75}, or HalfKept(share=0.75)
    sampling: Sampling = WARM  # the request's temperature, top_p and top_k replace this one's

    name = "half_kept"
    needs = frozenset({"kept"})  # an engine that can't keep tokens is refused before anything is drawn

    def init(self, context):
        return State(context)

    def propose(self, state, n):
        kept = state.best.head(int(self.share * len(state.best)))
        seeds = [row_seed(state.context.root_seed, state.round_index, row) for row in range(n)]
        return tuple(Proposal(seed=seed, sampling=self.sampling, kept=kept, retain=True) for seed in seeds)

    def update(self, state, proposals, rollouts, scores):
        for rollout, score in zip(rollouts, scores, strict=True):
            if score.usable and score.value > state.reward:
                state = replace(state, best=rollout.tokens, reward=score.value)
        return replace(state, round_index=state.round_index + 1), Info()


def main():
    reward = Sentiment(measure="balance") + 0.5 * Length(8, 20)
    ask = "Tell me how your holiday by the sea was."

    # As an object it goes wherever a strategy's name does: aisp.align, AISPChatModel(strategy=HalfKept()), AISPLLM.
    found = aisp.align(
        ask, rewards=reward, strategy=HalfKept(share=0.6), budget=16, num_samples=8, max_tokens=16, seed=1
    )
    print(f"{found.strategy}: {found.best.reward:.3f}  {found.text}\n")

    # In words it is "module:Class", with options behind it, as on the command line:
    #   aisp bench quality --strategy 14_your_own_strategy:HalfKept:share=0.75 --strategy tilted_restart ...
    # Every strategy answers the same prompts with the same budget, and best-of-n chooses from plain samples of them.
    # Two prompts show how it is done; take dozens, and a larger budget, before you believe the table.
    from aisp.cli.app import app

    here = Path(__file__)
    sys.path.append(str(here.parent))
    with tempfile.TemporaryDirectory() as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("Tell me about your holiday by the sea.\nDescribe a walk in the woods.\n")
        options = ["--budget", "16", "--pool", "16", "--num-samples", "8", "--max-tokens", "16"]
        for strategy in ("tilted_restart", f"{here.stem}:HalfKept:share=0.75"):
            options += ["--strategy", strategy]
        words = ["--prompts", str(prompts), "--reward", "sentiment:balance", "--out", folder, *options]
        app(["bench", "quality", *words], standalone_mode=False)


if __name__ == "__main__":
    main()
