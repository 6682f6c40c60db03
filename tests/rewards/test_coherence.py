"""Coherence: the cosine of sentence embeddings, and what a text loses that is too long."""

from __future__ import annotations

import pytest
import torch
from transformers import BertModel

from aisp.errors import ConfigurationError, RewardError
from aisp.rewards import Coherence
from aisp.rewards.spec import parse_reward
from aisp.testing import tiny_tokenizer
from tests.rewards.test_classifier import bert_of, candidates_of


def saved_encoder(folder):
    model = bert_of(BertModel, 0)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return saved_encoder(folder), folder


def embedding_of(model, text, pooling):
    with torch.inference_mode():
        states = model(**tiny_tokenizer()(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state[0]
    return states[0] if pooling == "first" else states.mean(0)


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_it_is_the_cosine_of_the_texts_embeddings_whatever_the_batch(encoder, pooling):
    model, folder = encoder
    texts = ["fine", "a bad one for the day", "fine", "How are you?"]
    expected = [
        torch.cosine_similarity(*(embedding_of(model, text, pooling) for text in (prompt, "How are you?")), dim=0)
        for prompt in texts
    ]
    for batch_tokens in (1, 8192):
        reward = Coherence(folder, pooling=pooling, batch_tokens=batch_tokens)
        values = [score.value for score in reward.score(candidates_of(*texts))]
        assert values == pytest.approx([float(cosine) for cosine in expected], abs=1e-4)
        assert values[3] == pytest.approx(1.0, abs=1e-4), "the prompt itself"
        assert values[0] != pytest.approx(values[1], abs=1e-2)


def test_what_is_too_long_loses_its_end_and_says_so(encoder):
    reward = Coherence(encoder[1])
    with pytest.warns(UserWarning, match=r"only the first \d+ of 800 characters of the response were read"):
        [score] = reward.score(candidates_of("day " * 200, prompt="one " * 150))
    assert "of 600 characters of the prompt were read; only the first" in score.comment
    assert reward.score(candidates_of("day"))[0].comment is None


def test_it_is_named_on_the_command_line(encoder):
    assert parse_reward(f"coherence:{encoder[1]}:first").pooling == "first"
    assert parse_reward(f"coherence:{encoder[1]}").score(candidates_of("x"))[0].usable


def test_what_it_can_not_use_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="pooling is 'max'"):
        Coherence("model", pooling="max")
    with pytest.raises(RewardError, match="no sentence encoder"):
        Coherence(tmp_path).score(candidates_of("x"))
