"""A LlamaIndex LLM whose answers are searched for by reward; see `AISPLLM`.

It stands beside `aisp_langchain` and imports none of it, as users of the one framework seldom want the other. Importing
it loads no weights.
"""

from __future__ import annotations

try:
    import llama_index.core as _core
except ImportError as error:
    raise ImportError(
        "aisp_llamaindex needs llama-index-core; install it: pip install 'aisp-langchain[llamaindex]'",
        name="llama_index",
    ) from error

from aisp.version import __version__
from aisp_llamaindex.llm import AISPLLM
from aisp_llamaindex.rewards import as_reward

del _core

__all__ = ["AISPLLM", "__version__", "as_reward"]
