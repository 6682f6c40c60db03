"""Checkpoints in safetensors format: found by folder or hub id, and loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aisp.errors import ModelNotFoundError, UnsupportedModelError
from aisp.models.loaded import check_placement
from aisp.models.quiet import no_progress_bars

if TYPE_CHECKING:
    import torch

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_OLD_HUB_ID = re.compile(r"[\w.-]+", re.ASCII)  # of a model that is older than the hub's owners, as gpt2
_ADAPTER = "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
_UNWANTED = ["*/*", "consolidated*"]  # other formats of the same weights lie in folders, or are called so


def download(hub_id: str, revision: str | None, *, with_code: bool) -> Path:
    """Return the folder of a hub id's snapshot: from the hub's cache where it is there and offline, else from the hub.

    Pickled weights are left where they are, and so is code, unless it was asked for.

    Raises:
        ModelNotFoundError: There is no such model, or it can't be had from here.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [*_WANTED, "*.py"] if with_code else _WANTED
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=_UNWANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise ModelNotFoundError(
            f"the model {hub_id!r}{at} can't be had from the hub: {error}. Look at the spelling, at the network and "
            "HF_HUB_OFFLINE, and whether it asks for a licence to be accepted (hf auth login); or name a local folder"
        ) from error


def read_config(source: str) -> dict[str, Any]:
    """Return what `config.json` of a checkpoint says; of a hub id, that file alone is downloaded where it isn't cached.

    Args:
        source: A folder or a hub id. An adapter has `adapter_config.json` in its place.

    Raises:
        ModelNotFoundError: There is no such checkpoint, or it can't be had from here.
        UnsupportedModelError: The file isn't JSON.
    """
    path = _config_file(source)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnsupportedModelError(f"{path} can't be read as JSON: {error}; expected a checkpoint's config") from error
    if not isinstance(config, dict):
        raise UnsupportedModelError(f"{path} holds a {type(config).__name__}; expected a mapping")
    return config


def _config_file(source: str) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        found = next((folder / name for name in ("config.json", _ADAPTER) if (folder / name).is_file()), None)
        if found is None:
            raise ModelNotFoundError(f"there is no config.json in the folder {source!r}; expected a checkpoint")
        return found
    if not (HUB_ID.fullmatch(source) or _OLD_HUB_ID.fullmatch(source)) or source.startswith("."):
        raise ModelNotFoundError(f"there is no folder {source!r}, and it isn't a hub id (owner/name) either")
    from huggingface_hub import hf_hub_download  # a quarter of a second, which a folder doesn't need
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        try:
            return Path(hf_hub_download(source, "config.json"))
        except EntryNotFoundError:
            return Path(hf_hub_download(source, _ADAPTER))
    except (HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError) as error:
        raise ModelNotFoundError(
            f"the checkpoint {source!r} can't be had from the hub: {error}. Look at the spelling, at the network and "
            "HF_HUB_OFFLINE; or name a local folder"
        ) from error


def load_model(folder: Path, name: str, *, dtype: torch.dtype, device: torch.device, **options: Any) -> Any:
    """Load a checkpoint's model, in evaluation mode and without gradients. An adapter is merged into its base model.

    Args:
        folder: Holds `config.json` and safetensors, or an adapter.
        name: For messages.
        dtype: Of the weights; where they are quantised, of what is computed with them.
        device: Where it goes, unless `device_map` says.
        **options: `trust_remote_code`, `device_map`.

    Raises:
        ModelNotFoundError: The folder holds no model, or its base model is not there.
        UnsupportedModelError: A model that transformers can't load here, or not from safetensors alone.
    """
    if (folder / _ADAPTER).is_file():
        model = _load_adapter(folder, name, dtype=dtype, device=device, **options)
    else:
        check_folder(folder, name)
        model = _load_weights(folder, name, dtype=dtype, **options)
        if options.get("device_map") is None and not getattr(model, "is_quantized", False):
            model = model.to(device)
    check_placement(name, model)
    return model.eval().requires_grad_(False)


def load_tokenizer(source: Path | str, name: str, *, trust_remote_code: bool) -> Any:
    """Load a tokenizer from a folder.

    Raises:
        UnsupportedModelError: There is none, or transformers can't load it.
    """
    from transformers import AutoTokenizer

    try:
        # Split control tokens would leave the model without turns; text that spells them is split by `ChatEncoder`.
        return AutoTokenizer.from_pretrained(
            str(source), local_files_only=True, trust_remote_code=trust_remote_code, split_special_tokens=False
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(
            f"the tokenizer of {name} can't be loaded: {error}. Give one, as load(..., tokenizer=...)"
        ) from error


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder without a checkpoint in safetensors format; an adapter is one.

    Raises:
        ModelNotFoundError: There is none.
        UnsupportedModelError: Its weights are pickles.
    """
    if (folder / _ADAPTER).is_file():
        return
    if not (folder / "config.json").is_file():
        raise ModelNotFoundError(
            f"{name} holds no model: there is neither config.json nor {_ADAPTER} in {folder}; expected a checkpoint "
            "folder as save_pretrained writes it"
        )
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UnsupportedModelError(
            f"{name} has its weights only as pickles ({', '.join(pickles[:3])}), which can run code when they are "
            "read; expected safetensors. Where you trust them, convert them once: "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
        )
    raise ModelNotFoundError(
        f"{name} has no weights in safetensors format in {folder}; expected model.safetensors. If it is a hub id whose "
        "weights are pickles only, choose a revision or a copy with safetensors"
    )


def _load_weights(folder: Path, name: str, *, dtype: torch.dtype, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM  # typed as if it always returned a model alone
    try:
        with no_progress_bars():
            model, info = auto.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **{key: value for key, value in options.items() if value is not None},
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"transformers can't load {name} as a causal language model here: {error}. A quantised checkpoint needs "
            "the package of its method (and often a GPU); a model with code of its own needs trust_remote_code=True, "
            "for which you have to trust its authors"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would fill them with random numbers and a warning.
        raise UnsupportedModelError(
            f"the checkpoint {name} lacks {len(missing)} weights of a {type(model).__name__} "
            f"({', '.join(missing[:3])}); it holds another kind of model, as a classifier "
            "or an encoder. Choose a causal language model"
        )
    return model


def _load_adapter(folder: Path, name: str, **options: Any) -> Any:
    """Load the base model that an adapter names and merge the adapter into it: the same logits, at the base's speed."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise UnsupportedModelError(
            f"{name} is an adapter, which needs the package peft: pip install 'aisp-langchain[peft]'; or merge it into "
            "its base model and save that"
        ) from error
    base = find_base(folder, name)
    model = load_model(base, str(base), **options)
    try:
        merged = PeftModel.from_pretrained(model, str(folder), is_trainable=False).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"the adapter {name} can't be merged into {base}: {error}. Expected one of peft's that can (LoRA and its "
            "kin), as safetensors"
        ) from error
    return merged


def find_base(folder: Path, name: str) -> Path:
    """Return the folder of an adapter's base model: one on this machine, since the user named no other.

    Raises:
        ModelNotFoundError: It is not on this machine.
    """
    from huggingface_hub import snapshot_download

    config = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
    base = str(config.get("base_model_name_or_path"))
    for local in (Path(base).expanduser(), folder / base):
        if local.is_dir():
            return local
    try:
        return Path(snapshot_download(base, local_files_only=True))
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"{name} is an adapter of {base!r}, which is not on this machine; load that once by its name (or: hf "
            f"download {base}), then the adapter"
        ) from error
