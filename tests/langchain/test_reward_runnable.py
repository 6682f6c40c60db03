"""The reward as a Runnable, and what can be made one: evaluators of other packages, classifiers, batch functions."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnablePassthrough

from aisp.errors import ConfigurationError, RewardError
from aisp.records import Candidate
from aisp.rewards import FunctionReward, Length
from aisp_langchain import AISPChatModel
from aisp_langchain.rewards import Preferences, Reward, as_reward, minimum, normalize, product, veto, when

ASKED = [{"role": "user", "content": "A tree?"}]


def candidate(text="an old oak", reference=None):
    return Candidate(messages=ASKED, text=text, reference=reference)


def words(outputs: AIMessage) -> float:
    return float(len(outputs.text.split()))


def test_the_result_has_key_score_comment_and_parts():
    reward = Reward(words, name="words") + Length(1, 3, name="short")
    result = reward.invoke({"inputs": "A tree?", "outputs": AIMessage("an old oak")})
    assert result == {
        "key": "sum",
        "score": 4.0,
        "comment": None,
        "metadata": {"parts": {"words": 3.0, "short": 1.0}, "vetoed": False, "error": None},
    }


@pytest.mark.parametrize(
    "outputs",
    [
        "an old oak",
        AIMessage("an old oak"),
        {"role": "assistant", "content": "an old oak"},
        {"output": "an old oak"},
        {"messages": [HumanMessage("A tree?"), AIMessage("an old oak")]},
        {"anything": "an old oak"},
    ],
)
def test_outputs_may_come_as_evaluators_get_them(outputs):
    assert Reward(words).invoke({"outputs": outputs})["score"] == 3.0


@pytest.mark.parametrize(
    "inputs",
    [
        "A tree?",
        [HumanMessage("A tree?")],
        {"question": "A tree?"},
        {"messages": [("user", "A tree?")]},
        ChatPromptTemplate.from_messages([("user", "A tree?")]).invoke({}),
    ],
)
def test_inputs_may_come_as_evaluators_get_them(inputs):
    def echo(prompt: str, reference_outputs: str) -> float:
        return float(prompt == "A tree?") + float(reference_outputs == "yew")

    assert Reward(echo).invoke({"inputs": inputs, "outputs": "x", "reference_outputs": "yew"})["score"] == 2.0


@pytest.mark.parametrize("given", [{"inputs": "x"}, {"outputs": "x", "answer": 3}, "text", {"outputs": 3}])
def test_what_is_no_candidate_is_an_error(given):
    with pytest.raises(ConfigurationError):
        Reward(words).invoke(given)


def test_a_batch_is_scored_as_one_batch():
    calls = []

    def rule(completions, **kwargs):
        calls.append(len(completions))
        return [float(len(completion[0]["content"])) for completion in completions]

    reward = Reward(rule)
    given = [{"outputs": "x" * n} for n in (1, 2, 3)]
    assert [result["score"] for result in reward.batch(given)] == [1.0, 2.0, 3.0]
    assert calls == [3]
    assert [result["score"] for result in asyncio.run(reward.abatch(given))] == [1.0, 2.0, 3.0]
    assert asyncio.run(reward.ainvoke(given[1]))["score"] == 2.0
    assert reward.batch([]) == []
    with pytest.raises(ConfigurationError, match="takes no budget"):
        reward.batch(given, budget=3)


def test_failures_of_a_batch_are_kept_apart_where_the_caller_asks():
    reward = Reward(lambda text: 1 / (len(text) - 2))
    given = [{"outputs": "x" * n} for n in (1, 2, 3)]
    with pytest.raises(RewardError):
        reward.batch(given)
    one, two, three = reward.batch(given, return_exceptions=True)
    assert (one["score"], three["score"]) == (-1.0, 1.0)
    assert isinstance(two, RewardError)


def test_the_algebra_is_that_of_the_engine():
    a, b = Reward(lambda text: 3.0, name="a"), Reward(lambda text: 5.0, name="b")

    def value(reward):
        return reward.invoke({"outputs": "x"})["score"]

    assert value(2 * a - 1 + b) == 10.0
    assert value(1 - a) == -2.0
    assert value(-a + b) == 2.0
    assert value(sum([a, b])) == 8.0
    assert value((a * 10).clip(0, 7)) == 7.0
    assert value(minimum(a, b, lambda text: 4.0)) == 3.0
    assert value(product(a, b)) == 15.0
    assert value(when(lambda text: text == "y", a) + b) == 5.0
    assert value(a + words) == 4.0
    gated = (a + veto(Length(4, 9))).invoke({"outputs": "x"})
    assert gated["metadata"]["vetoed"]
    assert gated["score"] is None, "what is vetoed is outside every mean"
    scores = [r["score"] for r in normalize(lambda text: len(text)).batch([{"outputs": "x"}, {"outputs": "xxx"}])]
    assert scores == [-1.0, 1.0]


def test_it_steers_and_evaluates(chat):
    reward = Reward(lambda outputs: -len(outputs.text), name="brief")
    message = chat(rewards=reward, budget=16).invoke("Hi")
    assert message.response_metadata["aisp"]["parts"] == {"brief": -len(message.text)}
    evaluator = reward.as_evaluator()
    assert evaluator.__name__ == "brief"
    assert evaluator(inputs="Hi", outputs=message) == {"key": "brief", "score": -len(message.text), "comment": None}
    assert as_reward(evaluator, name="again").score([candidate("oak")])[0].value == -3


def test_it_stands_in_a_chain():
    chain = RunnablePassthrough.assign(outputs=RunnableLambda(lambda x: AIMessage(x["inputs"] * 2))) | Reward(words)
    assert chain.invoke({"inputs": "one two "})["score"] == 4.0


def test_openevals_convention():
    def correct(*, inputs, outputs, reference_outputs, **kwargs):
        return {"key": "correct", "score": outputs.content == reference_outputs, "comment": "as asked"}

    def several(*, outputs, **kwargs):
        return [{"key": "old", "score": "old" in outputs.content}, {"key": "oak", "score": 0.5, "comment": "half"}]

    score = as_reward(correct).score([candidate(reference="an old oak")])[0]
    assert (score.value, score.comment) == (1.0, "as asked")
    score = as_reward(several).score([candidate()])[0]
    assert (score.value, score.parts, score.comment) == (0.75, {"old": 1.0, "oak": 0.5}, "half")


def test_the_real_langsmith_evaluators():
    from langsmith.evaluation import EvaluationResult, RunEvaluator, run_evaluator
    from langsmith.evaluation.evaluator import EvaluationResults

    class Exact(RunEvaluator):
        def evaluate_run(self, run, example=None, evaluator_run_id=None):
            return EvaluationResult(key="exact", score=run.outputs["output"] == example.outputs["output"])

    @run_evaluator
    def brevity(run, example=None):
        return {"key": "brevity", "score": -len(run.outputs["output"])}

    def both(run, example):
        return EvaluationResults(results=[EvaluationResult(key="a", score=1), EvaluationResult(key="b", score=0)])

    given = [candidate(reference="an old oak"), candidate("ash", reference="an old oak")]
    assert [score.value for score in as_reward(Exact()).score(given)] == [1.0, 0.0]
    assert [score.value for score in as_reward(brevity).score(given)] == [-10.0, -3.0]
    assert as_reward(both).score(given)[0].parts == {"a": 1.0, "b": 0.0}


def test_openevals_own_functions_compare_text(monkeypatch):
    """What openevals' `exact_match` and `levenshtein_distance` do with what they are given."""

    def exact_match(*, outputs, reference_outputs, **kwargs):
        return {"key": "equal", "score": json.dumps(outputs) == json.dumps(reference_outputs)}

    async def exact_match_async(*, outputs, reference_outputs, **kwargs):
        return exact_match(outputs=outputs, reference_outputs=reference_outputs)

    given = [candidate(reference="an old oak"), candidate("ash", reference="an old oak")]
    for function in (exact_match, exact_match_async):
        monkeypatch.setattr(function, "__module__", "openevals.exact")
        assert [score.value for score in as_reward(function).score(given)] == [1.0, 0.0]


async def test_async_langsmith_evaluators_work_on_a_loop_too():
    from langsmith.evaluation import run_evaluator

    @run_evaluator
    async def brevity(run, example=None):
        return {"key": "brevity", "score": -len(run.outputs["output"])}

    reward = as_reward(brevity)
    assert [score.value for score in await reward.ascore([candidate(), candidate("ash")])] == [-10.0, -3.0]
    assert [score.value for score in reward.score([candidate(), candidate("ash")])] == [-10.0, -3.0]


def test_langsmith_runs_what_as_evaluator_returns():
    from langsmith.evaluation import run_evaluator

    def length(text: str, prompt: str) -> float:
        return float(len(text) + 100 * len(prompt))

    evaluator = run_evaluator((Reward(length) + veto(Length(1, 3))).as_evaluator())
    for text, score, comment in (("an old oak", 710, None), ("an old oak in a deep dark wood", None, "vetoed")):
        given = {"inputs": {"question": "A tree?"}, "outputs": {"output": text}, "id": uuid4(), "trace_id": uuid4()}
        run = SimpleNamespace(**given, session_id=None)
        example = SimpleNamespace(inputs=run.inputs, outputs={}, attachments=None, metadata=None)
        result = evaluator.evaluate_run(run, example)
        assert (result.key, result.score, result.comment) == ("sum", score, comment)


def test_trl_batch_functions_get_conversations():
    seen = {}

    def length(prompts, completions, **kwargs):
        seen.update(prompts=prompts, completions=completions)
        return [len(completion[0]["content"]) for completion in completions]

    assert [s.value for s in as_reward(length).score([candidate("oak"), candidate("ash tree")])] == [3.0, 8.0]
    assert seen["prompts"][0] == ASKED
    assert seen["completions"][1] == [{"role": "assistant", "content": "ash tree"}]
    with pytest.raises(ConfigurationError, match="solution"):
        as_reward(lambda completions, solution: [0.0])

    async def patient(completions, **kwargs):
        return [len(completion[0]["content"]) for completion in completions]

    assert [s.value for s in as_reward(patient).score([candidate("oak"), candidate("ash tree")])] == [3.0, 8.0]
    with pytest.raises(RewardError, match="returned None"):
        as_reward(lambda completions: [None for _ in completions]).score([candidate("oak")])


def test_cross_encoders_get_pairs():
    class CrossEncoder:
        def predict(self, pairs):
            return [len(prompt) + 10 * len(text) for prompt, text in pairs]

    class Several(CrossEncoder):
        config = SimpleNamespace(num_labels=3)

    with pytest.raises(ConfigurationError, match="of 3 labels"):
        as_reward(Several())
    reward = as_reward(CrossEncoder())
    assert reward.name == "crossencoder"
    assert [s.value for s in reward.score([candidate("oak"), candidate("elms")])] == [37.0, 47.0]


def test_checkpoints_and_pipelines_are_classifiers(shared_models):
    from transformers import pipeline

    folder = shared_models / "sentiment_minilm"
    texts = [candidate("I love this, it is wonderful."), candidate("This is awful, I hate it.")]
    by_path = [s.value for s in as_reward(folder, name="mood").score(texts)]
    piped = as_reward(pipeline("text-classification", model=str(folder), device="cpu", dtype="float32"))
    assert by_path[0] > 0 > by_path[1]
    assert [s.value for s in piped.score(texts)] == pytest.approx(by_path, abs=1e-4)
    assert as_reward(str(folder)).fingerprint == as_reward(str(folder)).fingerprint


@pytest.mark.parametrize("source", ["/no/such/folder", "./none", Path("none/at/all")])
def test_a_path_that_leads_nowhere_is_an_error_when_built(source, tmp_path):
    with pytest.raises(ConfigurationError, match="no folder"):
        as_reward(source)
    with pytest.raises(ConfigurationError, match=r"config\.json"):
        as_reward(tmp_path)
    assert as_reward("some-one/some-classifier").name == "some-classifier", "a hub id is looked up when it is needed"


class TestPreferences:
    reward = Length(1, 3, name="short") + FunctionReward(lambda text: len(text), name="long")

    def test_weights_by_name(self):
        score = Preferences(weights={"short": 0, "long": 2.0}).apply(self.reward).score([candidate("an oak")])[0]
        assert score.value == 12.0
        assert score.parts == {"short": 1.0, "long": 6.0}

    @pytest.mark.parametrize("text", ["weights:\n  short: 0\n  long: 2\n", "{short: 0, long: 2.0}"])
    def test_yaml(self, text, tmp_path):
        file = tmp_path / "user.yaml"
        file.write_text(text, encoding="utf-8")
        for source in (text, file, str(file)):
            assert Preferences.from_yaml(source).weights == {"short": 0.0, "long": 2.0}

    @pytest.mark.parametrize("text", ["[1, 2]", "short: much", "short: .nan", "a: b: c", "weights: {a: 1}\nother: 3"])
    def test_what_is_no_preference_is_an_error(self, text):
        with pytest.raises(ConfigurationError):
            Preferences.from_yaml(text)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ConfigurationError, match="can't be read"):
            Preferences.from_yaml(tmp_path / "none.yaml")

    def test_unknown_names_say_what_there_is(self):
        with pytest.raises(ConfigurationError, match="no part is called polite; this reward has long, short"):
            Preferences(weights={"polite": 1.0}).apply(self.reward)
        with pytest.raises(ConfigurationError, match="give rewards"):
            Preferences(weights={"polite": 1.0}).apply(None)

    def test_users_of_one_model_differ_in_one_batch(self, chat):
        brief = FunctionReward(lambda text: -len(text), name="brief", version="1")
        wordy = FunctionReward(lambda text: len(text), name="wordy", version="1")
        llm = chat(rewards=brief + wordy, budget=16, seed=1)
        wants = {"brief": 1.0, "wordy": 0.0}, Preferences(weights={"brief": 0.0, "wordy": 1.0})
        with ThreadPoolExecutor() as threads:
            ann, bob = threads.map(lambda preferences: llm.invoke("Hi", preferences=preferences), wants)
        assert len(ann.text) < len(bob.text)
        with pytest.raises(ConfigurationError, match="polite"):
            llm.invoke("Hi", preferences={"polite": 1.0})

    def test_who_shares_a_batch_changes_nothing(self, tiny):
        """The same with a real engine, whose decode batch holds the rows of both users."""
        brief = FunctionReward(lambda text: -len(text), name="brief", version="1")
        wordy = FunctionReward(lambda text: len(text), name="wordy", version="1")
        llm = AISPChatModel(model=tiny, rewards=brief + wordy, budget=8, num_samples=4, seed=1, max_tokens=8)
        both = RunnableParallel(
            ann=llm.bind(preferences={"brief": 1.0, "wordy": 0.0}),
            bob=llm.bind(preferences={"brief": 0.0, "wordy": 1.0}),
        )
        together = both.invoke("Hi")
        alone = {name: bound.invoke("Hi") for name, bound in both.steps__.items()}
        assert {name: message.text for name, message in together.items()} == {
            name: message.text for name, message in alone.items()
        }
        assert len(together["ann"].text) < len(together["bob"].text)

    def test_in_the_chat_model_a_reward_runnable_is_unwrapped(self):
        llm = AISPChatModel(rewards=Reward(words) * 2)
        assert not isinstance(llm.rewards, Reward)
