"""The chat model of `aisp_langchain` within LlamaIndex's own adapter for LangChain."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage

from aisp.rewards import FunctionReward
from aisp_langchain import AISPChatModel

adapter = pytest.importorskip("llama_index.llms.langchain", reason="needs llama-index-llms-langchain")

# Those of the adapter: it imports langchain-community, which is no longer kept up, and uses a method of pydantic 1.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The `schema` method is deprecated"),
]

ASKED = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="Name a tree.")]


@pytest.fixture
def llm(engine, tiny):
    engine.texts = ("a tall elm", "an ash")
    longest = FunctionReward(lambda text: float(len(text)), name="long")
    return adapter.LangChainLLM(llm=AISPChatModel(model=tiny, seed=1, rewards=longest, budget=16, strategy="best_of_n"))


def test_chat(llm):
    assert llm.chat(ASKED).message.content == "a tall elm"


def test_stream_chat(llm):
    pieces = list(llm.stream_chat(ASKED))
    assert "".join(piece.delta for piece in pieces) == "a tall elm"
    assert len(pieces) > 3


def test_complete(llm):
    assert llm.complete("Name a tree.").text == "a tall elm"


def test_stream_complete(llm):
    pieces = list(llm.stream_complete("Name a tree."))
    assert pieces[-1].text == "a tall elm"
    assert len(pieces) > 2


async def test_async(llm):
    assert (await llm.achat(ASKED)).message.content == "a tall elm"
    assert (await llm.acomplete("Name a tree.")).text == "a tall elm"
