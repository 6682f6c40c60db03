"""Models of rewards: found before anything is generated, and never with code of their own."""

from __future__ import annotations

import builtins
import io
import json
import sys

import pytest
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from aisp.errors import AISPError, ConfigurationError, ModelNotFoundError, RewardError, UnsupportedModelError
from aisp.records import Candidate
from aisp.rewards import (
    Classifier,
    Coherence,
    FunctionReward,
    Length,
    LocalJudge,
    Sentiment,
    minimum,
    veto,
    when,
)
from aisp.testing import tiny_tokenizer

KINDS = {
    "classifier": Classifier,
    "encoder": Coherence,
    "judge": lambda source: LocalJudge("Is it kind?", model=str(source)),
}
CANDIDATES = [Candidate(messages=[{"role": "user", "content": "Hi"}], text="hello")]


@pytest.fixture
def folder(tmp_path):
    """A classifier's folder with labels of its own."""
    config = BertConfig(
        vocab_size=len(tiny_tokenizer()),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def with_code(tmp_path, monkeypatch):
    """A folder whose config names code that leaves a mark; standard input would say yes to anything."""
    mark = tmp_path / "ran"
    classes = {
        "AutoConfig": "conf.OddConfig",
        "AutoModelForSequenceClassification": "conf.Odd",
        "AutoModel": "conf.Odd",
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "odd", "auto_map": classes}))
    code = "from transformers import PretrainedConfig\nclass OddConfig(PretrainedConfig):\n    model_type = 'odd'\n"
    (tmp_path / "conf.py").write_text(f"open({str(mark)!r}, 'w').close()\n{code}class Odd: pass\n")
    (tmp_path / "model.safetensors").write_bytes(b"")
    tiny_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "source", ["/no/such/folder", "./nowhere", "no such name", "nobody-at-all/nothing-of-that-name"]
)
def test_a_model_that_is_not_there_is_found_before_it_is_needed(kind, source, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    reward = KINDS[kind](source)
    for whole in (reward, reward.session(), 0.5 * reward + Length(1, 3), minimum(Length(1, 2), veto(reward))):
        with pytest.raises(ModelNotFoundError, match=source):
            whole.check()
    with pytest.raises(ModelNotFoundError):
        when(lambda candidate: True, reward.clip(0, 1)).check()


@pytest.mark.parametrize("kind", KINDS)
def test_nor_is_a_folder_without_weights_a_model(kind, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        KINDS[kind](tmp_path).check()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        KINDS[kind](tmp_path).check()


def test_an_embedded_model_that_was_not_fetched_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("AISP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("aisp.models.embedded.is_fetched", lambda name: False)
    monkeypatch.setattr("aisp.models.files.cache_dir", lambda: tmp_path)
    with pytest.raises(ModelNotFoundError, match="aisp model fetch"):
        LocalJudge("Is it kind?", model="smollm2-135m").check()


def test_a_config_that_is_not_json_is_an_error_of_ours(tmp_path):
    for content in ("{", "[" * 100_000, "[]", "\xff"):
        (tmp_path / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(AISPError):
            Classifier(tmp_path).check()


def test_a_label_that_the_model_does_not_have_is_found_without_its_weights(folder):
    (folder / "model.safetensors").write_bytes(b"not weights")
    Classifier(folder, label="good").check()
    with pytest.raises(ConfigurationError, match="label is 'kind'; the model has bad, good"):
        Classifier(folder, label="kind").check()


def test_rewards_that_lack_nothing_pass(folder):
    reward = Classifier(folder)
    for fine in (reward, Length(1, 2), FunctionReward(len), Sentiment(), reward + Sentiment()):
        fine.check()
    reward.score(CANDIDATES)
    reward.check()


def test_a_package_that_is_missing_is_found(monkeypatch):
    real = builtins.__import__

    def without_vader(name, *args, **kwargs):
        if name.startswith("vaderSentiment"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(
        "aisp.rewards.sentiment._analyser", __import__("aisp.rewards.sentiment").rewards.sentiment._analyser.__wrapped__
    )
    monkeypatch.setattr(builtins, "__import__", without_vader)
    with pytest.raises(ConfigurationError, match="pip install"):
        (Sentiment() + Length(1, 2)).check()


@pytest.mark.parametrize("kind", [Classifier, Coherence])
def test_code_that_a_checkpoint_brings_is_refused_without_a_question(kind, with_code, capsys):
    # transformers asks on standard input where it isn't told, and a "y" there ran the checkpoint's code.
    with pytest.raises(UnsupportedModelError, match=r"brings code of its own.*trust_remote_code is off"):
        kind(with_code).check()
    with pytest.raises(RewardError, match="trust_remote_code is off"):
        kind(with_code).score(CANDIDATES)
    assert not (with_code / "ran").exists()
    assert sys.stdin.tell() == 0, "nothing was read"
    assert "Do you wish to run" not in capsys.readouterr().out


def test_a_judges_model_does_not_run_code_either(with_code):
    with pytest.raises(RewardError, match="trust_remote_code"):
        LocalJudge("Is it kind?", model=str(with_code)).score(CANDIDATES)
    assert not (with_code / "ran").exists()


def test_transformers_is_told_each_time(folder, monkeypatch):
    told = []
    for auto in (AutoConfig, AutoTokenizer, AutoModel, AutoModelForSequenceClassification):
        real = auto.from_pretrained

        def spy(*args, _real=real, _name=auto.__name__, **kwargs):
            told.append((_name, kwargs.get("trust_remote_code")))
            return _real(*args, **kwargs)

        monkeypatch.setattr(auto, "from_pretrained", spy)
    Classifier(folder).load()
    Coherence(folder).score(CANDIDATES)
    asked_by_us = [entry for entry in told if entry[0] != "AutoConfig"]
    assert {name for name, _ in asked_by_us} == {"AutoTokenizer", "AutoModel", "AutoModelForSequenceClassification"}
    assert {trusted for _, trusted in asked_by_us} == {False}
