"""What LangChain's agents may expect of a model, told without loading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from langchain_core.language_models import ModelProfile

from aisp.models.embedded import EMBEDDED


def profile_of(model: Any, name: str, max_tokens: int | None) -> ModelProfile:
    """Return the profile of a model.

    Args:
        model: A name or a loaded model. The context's length is known of the latter, of the embedded models, and of
            checkpoint folders.
        name: What it is called.
        max_tokens: Of its answers; None leaves that out.
    """
    profile = ModelProfile(
        name=name,
        open_weights=True,
        text_inputs=True,
        text_outputs=True,
        image_inputs=False,
        image_url_inputs=False,
        pdf_inputs=False,
        audio_inputs=False,
        video_inputs=False,
        image_tool_message=False,
        pdf_tool_message=False,
        image_outputs=False,
        audio_outputs=False,
        video_outputs=False,
        tool_calling=True,
        tool_choice=True,
        tool_call_streaming=True,
        structured_output=True,
        temperature=True,
    )
    context = _context_length(model)
    if context is not None:
        profile["max_input_tokens"] = context
    if max_tokens is not None:
        profile["max_output_tokens"] = max_tokens
    return profile


def _context_length(model: Any) -> int | None:
    if not isinstance(model, str):
        length = getattr(model, "context_length", None)
        return None if length is None else int(length)
    if model in EMBEDDED:
        return EMBEDDED[model].context_length
    config = Path(model).expanduser() / "config.json"
    if not config.is_file():
        return None
    length = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
    return None if length is None else int(length)
