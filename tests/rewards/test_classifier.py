"""Sequence classifiers as rewards: outputs, truncation, batches; and the real ones where they are."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from aisp.errors import ConfigurationError, ModelNotFoundError, RewardError
from aisp.records import Candidate
from aisp.rewards import Classifier
from aisp.rewards.encoding import padded_batches
from aisp.testing import tiny_model, tiny_tokenizer


def model_of(labels):
    return bert_of(BertForSequenceClassification, labels, num_labels=labels)


def bert_of(kind, seed, **own):
    """A tiny random BERT of the tiny tokenizer's vocabulary."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=64,
            initializer_range=1.0,
            **own,
        )
        return kind(config).eval()


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
    prompt = "x" * 37 + "yzw"
    [score] = reward.score(candidates_of("response.", prompt=prompt))
    unread = 40 - (24 - len(tokenizer("response.")["input_ids"]))
    assert score.comment == f"the first {unread} characters of the prompt were not read"
    expected = logits_of(model, prompt[unread:], "response.")
    assert score.value == pytest.approx(float(expected[0]), abs=1e-4)
    with pytest.warns(UserWarning, match="only the first 24 of 30 characters"):
        [score] = reward.score(candidates_of("y" * 30, prompt=prompt))
    assert score.comment.endswith("; only the first 24 of 30 characters of the response were read")
    assert score.value == pytest.approx(float(logits_of(model, "", "y" * 24)[0]), abs=1e-4)


def test_batches_are_bounded_in_tokens_and_their_size_changes_nothing():
    lengths = [5, 1, 9, 2, 2, 30, 4]
    batches = padded_batches(lengths, 12)
    assert sorted(row for rows in batches for row in rows) == list(range(7))
    assert all(len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= 12 for rows in batches)
    model, texts = model_of(2), [f"{'the day ' * n}is good" for n in range(8)]
    scores = [
        [s.value for s in Classifier(model, tokenizer=tiny_tokenizer(), batch_tokens=n).score(candidates_of(*texts))]
        for n in (1, 8192)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_model_never_sees_more_than_a_batch_however_many_candidates_there_are():
    model, seen = model_of(2), []
    model.register_forward_pre_hook(lambda _, args, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True)
    texts = [f"{'the day ' * (n % 9)}is good {n}" for n in range(600)]
    scores = Classifier(model, tokenizer=tiny_tokenizer(), batch_tokens=256).score(candidates_of(*texts))
    assert len(scores) == 600
    assert max(seen) <= 256
    assert len(seen) < 100, "and not one by one"


def reward_model(**config):
    """A preference model as they come: a decoder whose last token's state a scalar head reads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        fields = {"vocab_size": len(tiny_tokenizer()), "hidden_size": 16, "num_hidden_layers": 1}
        fields |= {"num_attention_heads": 2, "intermediate_size": 16, "num_labels": 1, "initializer_range": 1.0}
        return LlamaForSequenceClassification(LlamaConfig(**{**fields, **config})).eval()


CONVERSATION = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "How are you?"}]


@pytest.mark.parametrize("pad", [None, 0, 5], ids=["no padding token", "the tokenizer's", "one of its own"])
def test_preference_models_read_the_conversation_to_its_last_token(pad):
    model, tokenizer = reward_model(pad_token_id=pad), tiny_tokenizer()
    texts = ["fine", "not good and not bad", "you", ""]
    scores = Classifier(model, tokenizer=tokenizer, input="chat").score(
        [Candidate(messages=CONVERSATION, text=text) for text in texts]
    )
    for text, score in zip(texts, scores, strict=True):
        turns = [*CONVERSATION, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
        with torch.inference_mode():
            expected = model.score(model.model(input_ids=ids).last_hidden_state[0, -1])
        assert score.value == pytest.approx(float(expected[0]), abs=1e-4)
        assert score.comment is None


def test_a_conversation_that_is_too_long_loses_its_oldest_tokens_and_then_the_responses_end():
    model, tokenizer = reward_model(pad_token_id=0), tiny_tokenizer()
    said = [Candidate(messages=CONVERSATION, text="you are good")]
    turns = [*CONVERSATION, {"role": "assistant", "content": "you are good"}]
    ids = tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
    [score] = Classifier(model, tokenizer=tokenizer, input="chat", max_length=len(ids) - 7).score(said)
    assert score.comment == "the first 7 tokens of the conversation were not read"
    with torch.inference_mode():
        assert score.value == pytest.approx(float(model(torch.tensor([ids[7:]])).logits), abs=1e-4)
    long = Candidate(messages=CONVERSATION, text="y" * 60)
    with pytest.warns(UserWarning, match="of 60 characters"):
        [score] = Classifier(model, tokenizer=tokenizer, input="chat", max_length=30).score([long])
    tail = len(tokenizer("<|im_end|>\n")["input_ids"])
    assert score.comment.endswith(f"; only the first {30 - tail} of 60 characters of the response were read")
    with torch.inference_mode():
        read = tokenizer("y" * (30 - tail) + "<|im_end|>\n", return_tensors="pt")["input_ids"]
        assert score.value == pytest.approx(float(model(read).logits), abs=1e-4)


def test_a_named_model_has_a_dtype_of_its_own_and_a_loaded_one_keeps_its_own(tmp_path):
    model_of(2).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    half = Classifier(tmp_path, dtype="bfloat16", device="cpu", name="half")
    assert half.score(candidates_of("good"))[0].value == pytest.approx(
        Classifier(tmp_path, name="whole").score(candidates_of("good"))[0].value, rel=0.1
    )
    assert half.load()[0].dtype == torch.bfloat16
    for options in ({"device": "cpu"}, {"dtype": "float32"}):
        with pytest.raises(ConfigurationError, match="loaded already"):
            Classifier(model_of(2), tokenizer=tiny_tokenizer(), **options)
    with pytest.raises(ConfigurationError, match="int8"):
        Classifier(tmp_path, dtype="int8")


def test_a_checkpoint_without_a_classification_head_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path) is not None
    with pytest.raises(RewardError, match=r"has no score\.weight; expected one that was trained to classify"):
        Classifier(tmp_path, name="headless").score(candidates_of("a"))


def test_a_chat_needs_a_template():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="no chat template"):
        Classifier(reward_model(pad_token_id=0), tokenizer=tokenizer, input="chat")


def test_reasoning_is_not_read():
    reward = Classifier(model_of(2), tokenizer=tiny_tokenizer())
    one, other = reward.score([Candidate(messages=[], text="good", reasoning=r) for r in (None, "bad bad bad")])
    assert one.value == other.value


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
