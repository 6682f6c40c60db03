"""Where models come from: named, found, brought, converted, and loaded once a process.

    name --load--> hub id | folder | GGUF file | embedded | given object
                      |       |         |          |           |
                 snapshot     |     conversion <- fetch        |
                      +---> checkpoint <--+                    |
                                |                              |
                           LoadedModel <-----------------------+

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from aisp.models.embedded import DEFAULT_MODEL, EMBEDDED, EmbeddedModel, fetch, is_fetched
from aisp.models.loaded import LoadedModel
from aisp.models.registry import check_name, load, unload

__all__ = [
    "DEFAULT_MODEL",
    "EMBEDDED",
    "EmbeddedModel",
    "LoadedModel",
    "check_name",
    "fetch",
    "is_fetched",
    "load",
    "unload",
]
