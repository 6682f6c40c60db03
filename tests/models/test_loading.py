"""Names, folders, hub ids and objects become one shared model each."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from aisp import models, testing
from aisp.errors import ConfigurationError, ModelNotFoundError, UnsupportedModelError
from aisp.models import checkpoint, devices, registry


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts without loaded models, and takes none away from the others."""
    monkeypatch.setattr(registry, "_models", {})
    monkeypatch.setattr(registry, "_loaded", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint"
    testing.tiny_model(seed=3).save_pretrained(made)
    testing.tiny_tokenizer().save_pretrained(made)
    return made


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(torch.arange(3, 20)[None]).logits
    return out


def test_a_folder_is_loaded_once(folder: Path) -> None:
    loaded = models.load(folder, dtype="float32")
    assert models.load(str(folder), dtype="float32") is loaded
    assert models.load(folder / ".." / folder.name, dtype="float32", device="cpu") is loaded
    assert torch.equal(logits(loaded.model), logits(testing.tiny_model(seed=3)))
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.eos_token_ids == (2,)
    assert loaded.context_length == 512


def test_another_dtype_is_another_model(folder: Path) -> None:
    half = models.load(folder, dtype=torch.bfloat16)
    assert half is models.load(folder, dtype="bfloat16")
    assert half is not models.load(folder, dtype="float32")
    assert half.model.dtype == torch.bfloat16


def test_another_tokenizer_shares_the_weights(folder: Path) -> None:
    own, other = models.load(folder), models.load(folder, tokenizer=testing.tiny_tokenizer())
    assert own is not other
    assert own.model is other.model


def test_threads_that_ask_at_once_load_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []
    load_model, barrier = checkpoint.load_model, threading.Barrier(6)

    def counted(where: Path, *args: Any, **options: Any) -> Any:
        calls.append(where)
        return load_model(where, *args, **options)

    def ask(_: int) -> models.LoadedModel:
        barrier.wait()
        return models.load(folder)

    monkeypatch.setattr(checkpoint, "load_model", counted)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, range(6)))
    assert len({id(loaded) for loaded in found}) == 1
    assert calls == [folder]


def test_a_failed_load_is_tried_again(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "elsewhere")
    with pytest.raises(ModelNotFoundError, match="no weights in safetensors"):
        models.load(folder)
    (folder / "elsewhere").rename(weights)
    assert models.load(folder).name == str(folder)


def test_unload_forgets(folder: Path) -> None:
    before = models.load(folder)
    models.unload()
    assert models.load(folder) is not before


def test_a_given_model_stays_as_it_is() -> None:
    model, tokenizer = testing.tiny_model(), testing.tiny_tokenizer()
    model.requires_grad_(True)
    config = model.config.to_json_string()
    loaded = models.load(model, tokenizer=tokenizer)
    assert models.load(model, tokenizer=tokenizer) is loaded
    assert models.load(loaded) is loaded
    assert loaded.model is model
    assert loaded.tokenizer is tokenizer
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.config.to_json_string() == config
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_given_model_is_not_kept_alive() -> None:
    before = len(registry._given)
    loaded = testing.tiny_loaded_model()
    assert len(registry._given) == before + 1
    del loaded
    assert len(registry._given) == before


def test_a_given_model_in_training_mode_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"call model.eval\(\)"):
        models.load(testing.tiny_model().train(), tokenizer=testing.tiny_tokenizer())


def test_settings_that_contradict(folder: Path) -> None:
    model = testing.tiny_model()
    with pytest.raises(ConfigurationError, match="dtype was given as well"):
        models.load(model, tokenizer=testing.tiny_tokenizer(), dtype="float32")
    with pytest.raises(ConfigurationError, match="needs its tokenizer"):
        models.load(model)
    with pytest.raises(ConfigurationError, match="model is a int"):
        models.load(7)
    with pytest.raises(ConfigurationError, match="give one of them"):
        models.load(folder, device="cpu", device_map="auto")
    with pytest.raises(ConfigurationError, match="is no hub id"):
        models.load(folder, revision="main")
    with pytest.raises(TypeError, match="dtpye"):
        models.load(folder, dtpye="float32")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["smollm2", "./nowhere", "nowhere.gguf", "a/b/c", "there/is-no.gguf", ""])
def test_a_name_that_leads_nowhere(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="leads to no model"):
        models.load(name)


def test_a_hub_id_that_cannot_be_had_offline() -> None:
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE"):
        models.load("nobody/no-such-model")


def test_a_hub_id_is_loaded_from_the_hubs_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = models.load("somebody/tiny", dtype="float32")
    assert loaded.name == "somebody/tiny"
    assert torch.equal(logits(loaded.model), logits(testing.tiny_model(seed=3)))


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UnsupportedModelError, match=r"pickles \(pytorch_model.bin\).*save_pretrained"):
        models.load(folder)


def test_missing_weights_are_refused_rather_than_made_up(tmp_path: Path) -> None:
    model = testing.tiny_model("qwen2")
    weights = {name: value for name, value in model.state_dict().items() if "layers.1" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    testing.tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"lacks \d+ weights of a Qwen2ForCausalLM"):
        models.load(tmp_path)


def test_a_classifier_is_no_language_model(shared_models: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="another kind of model"):
        models.load(shared_models / "sentiment_minilm")


def test_code_in_a_checkpoint_is_not_run_unasked(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    marker = folder / "ran"
    (folder / "modeling_own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    caplog.set_level(logging.ERROR)
    with pytest.raises(UnsupportedModelError, match="trust_remote_code=True"):
        models.load(folder)
    assert not marker.exists()


def test_a_quantised_body_whose_method_is_not_installed(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="package of its method"):
        models.load(folder)


def test_no_tokenizer_is_an_error_that_says_how_to_give_one(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UnsupportedModelError, match=r"load\(\.\.\., tokenizer=\.\.\.\)"):
        models.load(folder)
    assert models.load(folder, tokenizer=testing.tiny_tokenizer()).encode([{"role": "user", "content": "Hi"}])


def test_a_device_map_onto_one_device_works(folder: Path) -> None:
    pytest.importorskip("accelerate")
    mapped = models.load(folder, device_map={"": "cpu"}, dtype="float32")
    assert torch.equal(logits(mapped.model), logits(testing.tiny_model(seed=3)))


def test_a_model_that_is_partly_elsewhere_is_refused(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    model.model.layers[1].to("meta")
    with pytest.raises(UnsupportedModelError, match="expected one device"):
        models.load(model, tokenizer=testing.tiny_tokenizer())


def test_a_model_whose_weights_are_nowhere_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="spread over meta"):
        models.load(testing.tiny_model().to("meta"), tokenizer=testing.tiny_tokenizer())


def test_a_checkpoint_that_wants_control_tokens_split_does_not_get_its_way(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"split_special_tokens": True}))
    assert models.load(folder).encode([{"role": "user", "content": "Hi<|im_end|>"}]).count(2) == 1


def test_an_adapter_is_merged_into_its_base(folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tuned = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    )
    tuned.save_pretrained(tmp_path / "adapter")
    testing.tiny_tokenizer().save_pretrained(tmp_path / "adapter")
    loaded = models.load(tmp_path / "adapter", dtype="float32")
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())
    torch.testing.assert_close(logits(loaded.model), logits(tuned.eval()), rtol=0, atol=1e-5)
    assert not torch.allclose(logits(loaded.model), logits(testing.tiny_model(seed=3)), atol=1e-2)


def test_an_adapter_whose_base_is_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/base"}')
    with pytest.raises(ModelNotFoundError, match="adapter of 'nobody/base', which is not on this machine"):
        models.load(tmp_path)


@pytest.mark.parametrize("dtype", ["int8", "float3", torch.int64, 7])
def test_a_dtype_that_is_none(dtype: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected a floating-point dtype"):
        devices.resolve_dtype(dtype, torch.device("cpu"))


@pytest.mark.parametrize("device", ["cuda:99", "nowhere"])
def test_a_device_that_is_none(device: str) -> None:
    with pytest.raises(ConfigurationError, match="device is"):
        devices.resolve_device(device)


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_f": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_the_cpus_dtype_follows_its_hardware(
    able: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert devices.resolve_dtype(None, torch.device("cpu")) == expected
    assert devices.resolve_dtype("float16", torch.device("cpu")) == torch.float16


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_cudas_dtype_follows_its_hardware(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.resolve_dtype(None, torch.device("cuda", 0)) == expected
