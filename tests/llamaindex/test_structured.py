"""Structured answers as they stream, and evaluators that are given what was retrieved."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult, FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import TextNode
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from aisp.records import Candidate
from aisp_llamaindex import AISPLLM
from aisp_llamaindex.messages import to_openai_tools
from aisp_llamaindex.rewards import EvaluatorReward, contexts_of, question_of
from aisp_llamaindex.structured import StructuredOutputError, to_completion

ASKED = [ChatMessage(role="user", content="Name a tree.")]
ASKED_DICTS = [{"role": "user", "content": "Name a tree."}]


class Retrieved(BaseEvaluator):
    """Scores how many words of the contexts are in the response, as a faithfulness evaluator would."""

    def _update_prompts(self, prompts: Any) -> None: ...

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    async def aevaluate(self, query=None, response=None, contexts=None, reference=None, **kwargs):
        if contexts is None:
            raise ValueError("contexts must be provided")
        known = " ".join(contexts).split()
        return EvaluationResult(
            score=float(sum(word in known for word in response.split())), feedback=f"{query}|{reference}"
        )


class TestContexts:
    """Evaluators of what was retrieved failed for want of contexts."""

    prompt = (
        "Context information is below.\n---------------------\nthe elm is tall\n---------------------\n"
        "Given the context information and not prior knowledge, answer the query.\nQuery: Which tree?\nAnswer: "
    )

    @pytest.fixture(autouse=True)
    def _trees(self, engine):
        engine.texts = ("ash", "elm")

    @pytest.mark.parametrize(
        "reference", [{"contexts": ["an elm"]}, ["an elm"], {"contexts": [TextNode(text="an elm")]}]
    )
    def test_they_are_given_with_the_call(self, llm, reference):
        response = llm(rewards=Retrieved(), budget=8).chat(ASKED, reference=reference)
        assert response.message.content == "elm"

    def test_they_are_read_off_the_prompt_of_a_query_engine(self, llm):
        response = llm(rewards=Retrieved(), budget=8).complete(self.prompt)
        assert response.text == "elm"
        candidate = Candidate(messages=[{"role": "user", "content": self.prompt}], text="elm")
        assert (contexts_of(candidate), question_of(candidate)) == (["the elm is tall"], "Which tree?")

    def test_they_may_belong_to_the_reward(self, llm):
        for contexts in (["an elm"], lambda candidate: ["an elm"]):
            reward = EvaluatorReward(Retrieved(), contexts=contexts)
            assert llm(rewards=reward, budget=8).chat(ASKED).message.content == "elm"

    def test_what_is_compared_with_is_given_too(self):
        candidate = Candidate(messages=ASKED_DICTS, text="elm", reference={"contexts": ["x"], "reference": "an elm"})
        assert EvaluatorReward(Retrieved()).score([candidate])[0].comment == "Name a tree.|an elm"

    @pytest.mark.parametrize("evaluator", [FaithfulnessEvaluator, RelevancyEvaluator])
    def test_llamaindexes_own_evaluators_judge(self, evaluator):
        judge = MockLLM(max_tokens=None)
        candidate = Candidate(messages=[{"role": "user", "content": self.prompt}], text="yes")
        assert EvaluatorReward(evaluator(llm=judge)).score([candidate])[0].value in (0.0, 1.0)


class Song(BaseModel):
    """A song."""

    title: str
    year: int | None = None


class TestStructuredStreams:
    """Streamed objects had no fields."""

    @pytest.fixture
    def song(self, engine, tiny):
        engine.texts = ('{"title": "rain in the woods", "year": 1970}',)
        return AISPLLM(model=tiny, seed=1)

    def test_objects_fill_and_the_last_is_complete(self, song):
        objects = list(song.stream_structured_predict(Song, PromptTemplate("A song of {x}"), x="rain"))
        assert objects[-1] == Song(title="rain in the woods", year=1970)
        assert all(one.title for one in objects)
        assert len(objects) > 1

    async def test_so_do_awaited_ones(self, song):
        stream = await song.astream_structured_predict(Song, PromptTemplate("A song of {x}"), x="rain")
        assert [one async for one in stream][-1] == Song(title="rain in the woods", year=1970)

    @pytest.mark.filterwarnings("ignore:The `json` method is deprecated")  # LlamaIndex's own
    def test_a_structured_llm_streams_them(self, song):
        assert list(song.as_structured_llm(Song).stream_chat(ASKED))[-1].raw.year == 1970

    @pytest.mark.parametrize("text", ['{"title": "rain in', '{"year": 3}'])
    def test_what_was_cut_or_breaks_the_class_is_an_error(self, song, engine, text):
        engine.texts = (text,)
        with pytest.raises(StructuredOutputError) as raised:
            list(song.stream_structured_predict(Song, PromptTemplate("A song of {x}"), x="rain"))
        assert raised.value.finish_reason == "stop"

    def test_pieces_of_a_completion_have_deltas(self, llm, engine):
        engine.texts = ("a tall tree",)
        pieces = [to_completion(piece) for piece in llm().stream_chat(ASKED)]
        assert "".join(piece.delta for piece in pieces) == pieces[-1].text == "a tall tree"
        assert pieces[-1].raw["finish_reason"] == "stop"

    def test_a_class_that_leads_into_itself_is_a_tools_schema(self):
        class Node(BaseModel):
            """A node."""

            kids: list[Node] = []

        tool = FunctionTool.from_defaults(lambda kids: None, name="Node", fn_schema=Node)
        parameters = to_openai_tools([tool])[0]["function"]["parameters"]
        assert parameters["$defs"]["Node"]["properties"]["kids"]["items"] == {"$ref": "#/$defs/Node"}
