"""Fixtures and switches of every test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before transformers is imported, which reads them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

if TYPE_CHECKING:
    from aisp.models import LoadedModel


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """A two-layer llama with random weights; see `aisp.testing`."""
    from aisp.testing import tiny_loaded_model

    return tiny_loaded_model()


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """The tiny models' tokenizer. Don't change it: build your own where a test must."""
    from aisp import testing

    return testing.tiny_tokenizer()


@pytest.fixture(scope="session")
def smollm() -> LoadedModel:
    """The embedded model in float32 on the CPU, where the same seed gives the same tokens everywhere."""
    from aisp import models
    from aisp.errors import ModelNotFoundError

    try:
        return models.load(models.DEFAULT_MODEL, dtype="float32", device="cpu")
    except ModelNotFoundError as error:
        pytest.skip(f"the embedded model is not fetched: {error}")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of small reward models that lies beside the repository on some machines."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "models"
    if not folder.is_dir():
        pytest.skip(
            f"there is no {folder.parent.name}/{folder.name} beside the repository, which holds the reward models"
        )
    return folder
