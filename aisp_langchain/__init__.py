"""LangChain chat models whose answers are searched for by reward; see `AISPChatModel`.

Importing this package loads no weights.
"""

from __future__ import annotations

from aisp_langchain._guard import check as _check

_check()

from aisp.version import __version__  # noqa: E402 - nothing else may load before the check
from aisp_langchain.chat_model import AISPChatModel  # noqa: E402
from aisp_langchain.rewards import as_reward  # noqa: E402

__all__ = ["AISPChatModel", "__version__", "as_reward"]
