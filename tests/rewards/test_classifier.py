"""Sequence classifiers as rewards: outputs, truncation, batches; and the real ones where they are."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from aisp.errors import ConfigurationError, ModelNotFoundError, RewardError
from aisp.records import Candidate
from aisp.rewards import Classifier
from aisp.rewards.classifier import _batches
from aisp.testing import tiny_tokenizer


def model_of(labels):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(labels)
        config = BertConfig(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            num_labels=labels,
            initializer_range=1.0,
        )
        return BertForSequenceClassification(config).eval()


def candidates_of(*texts, prompt="How are you?"):
    return [Candidate(messages=[{"role": "user", "content": prompt}], text=text) for text in texts]


def logits_of(model, *texts):
    inputs = tiny_tokenizer()(*texts, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        return model(**inputs).logits[0]


@pytest.mark.parametrize(
    ("labels", "options", "expected"),
    [
        (1, {}, lambda x: x[0]),
        (1, {"output": "probability"}, lambda x: x[0].sigmoid()),
        (2, {}, lambda x: x[1] - x[0]),
        (3, {"label": 0}, lambda x: x[0] - x[1:].logsumexp(-1)),
        (3, {"label": "LABEL_1", "output": "logit"}, lambda x: x[1]),
        (3, {"output": "probability"}, lambda x: x.softmax(-1)[2]),
        (3, {"output": "expected"}, lambda x: x.softmax(-1) @ torch.arange(3.0)),
    ],
)
def test_outputs(labels, options, expected):
    model = model_of(labels)
    reward = Classifier(model, tokenizer=tiny_tokenizer(), **options)
    texts = ["good", "a bad one for the day", ""]
    scores = reward.score(candidates_of(*texts))
    for text, score in zip(texts, scores, strict=True):
        if text:
            assert score.value == pytest.approx(float(expected(logits_of(model, text))), abs=1e-4)


def test_pairs_read_the_last_user_message_and_the_response():
    model = model_of(1)
    reward = Classifier(model, tokenizer=tiny_tokenizer(), input="pair")
    [score] = reward.score(candidates_of("fine"))
    assert score.value == pytest.approx(float(logits_of(model, "How are you?", "fine")[0]), abs=1e-4)


def test_what_is_too_long_loses_its_prompt_first_and_then_says_so():
    model = model_of(1)
    tokenizer = tiny_tokenizer()
    reward = Classifier(model, tokenizer=tokenizer, input="pair", max_length=24)
    prompt = "x" * 40
    [score] = reward.score(candidates_of("response.", prompt=prompt))
    assert score.comment is None
    expected = logits_of(model, "x" * (24 - len(tokenizer("response.")["input_ids"])), "response.")
    assert score.value == pytest.approx(float(expected[0]), abs=1e-4)
    with pytest.warns(UserWarning, match="only the first 24 of 30 characters"):
        [score] = reward.score(candidates_of("y" * 30, prompt=prompt))
    assert score.comment == "only the first 24 of 30 characters of the response were read"


def test_batches_are_bounded_in_tokens_and_their_size_changes_nothing():
    lengths = [5, 1, 9, 2, 2, 30, 4]
    batches = _batches(lengths, 12)
    assert sorted(row for rows in batches for row in rows) == list(range(7))
    assert all(len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= 12 for rows in batches)
    model, texts = model_of(2), [f"{'the day ' * n}is good" for n in range(8)]
    scores = [
        [s.value for s in Classifier(model, tokenizer=tiny_tokenizer(), batch_tokens=n).score(candidates_of(*texts))]
        for n in (1, 8192)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_label_or_output_that_the_model_has_not_is_an_error():
    with pytest.raises(ConfigurationError, match="LABEL_0, LABEL_1"):
        Classifier(model_of(2), tokenizer=tiny_tokenizer(), label="HAPPY")
    with pytest.raises(ConfigurationError, match="one logit"):
        Classifier(model_of(1), tokenizer=tiny_tokenizer(), output="margin")


def test_nothing_is_loaded_before_it_is_needed_and_a_missing_checkpoint_is_named(tmp_path):
    reward = Classifier(tmp_path / "nothing")
    assert reward.name == "nothing"
    with pytest.raises((RewardError, ModelNotFoundError), match="nothing"):
        reward.score(candidates_of("a"))


@pytest.mark.real
def test_real_models_prefer_what_they_should(shared_models):
    sentiment = Classifier(shared_models / "sentiment_minilm")
    kind, cold = sentiment.score(candidates_of("I love this film.", "I hate this film."))
    assert kind.value > 0 > cold.value
    relevance = Classifier(shared_models / "relevance_cross_encoder_minilm", input="pair")
    near, far = relevance.score(
        candidates_of("Knead flour and water, then bake it.", "The moon is far.", prompt="How do I bake bread?")
    )
    assert near.value > far.value + 3
    harmless = Classifier(shared_models / "hh_harmless_reward_minilm", input="pair")
    assert all(-10 < score.value < 10 for score in harmless.score(candidates_of("I can't help with that.", "Sure!")))
