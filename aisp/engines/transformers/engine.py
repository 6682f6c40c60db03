"""The in-process engine: any transformers causal language model whose head can be split off."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from aisp.engines.base import Progress
from aisp.engines.grammar import Grammar, compile_grammar
from aisp.engines.transformers.batch import Parts
from aisp.engines.transformers.decoder import Decoder
from aisp.engines.transformers.head import Head
from aisp.engines.transformers.memory import free_bytes, out_of_memory
from aisp.engines.transformers.perturbation import Perturber
from aisp.engines.transformers.prefix_cache import PrefixTree
from aisp.engines.transformers.scheduler import Scheduler
from aisp.engines.transformers.sequence import CachedPrefix, Job
from aisp.errors import AISPError, ConfigurationError, EngineError, PromptError
from aisp.records import FloatArray, Limits, Prefix, Proposal, Rollout

_MEMORY_SHARE = 0.25
_MAX_ROWS = 256
_MEMORY_REMEDY = (
    "; memory ran out with half the rows as well. Give the engine less (batch_bytes, cache_bytes, max_rows), ask for "
    "fewer tokens, or load the model in bfloat16"
)


class TransformersEngine:
    """Draws responses from a transformers model in this process.

    The model is used as it is: no hook is left on it and its configuration is not touched.

    Args:
        model: A causal language model, in evaluation mode.
        tokenizer: Its tokenizer.
        eos_token_ids: Tokens that end a response.
        cache_bytes: Memory for keys and values of prompts and kept responses that no row is being decoded of. None
            takes a quarter of what is free. What doesn't fit is computed again when it is needed.
        batch_bytes: Memory for keys and values of the rows that are decoded at once, and of their prompts; more rows
            wait. None takes a quarter of what is free.
        max_rows: Rows that are decoded at once, at most.

    Raises:
        UnsupportedModelError: The model can't be split at its head, or its cache can't be decoded from.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        eos_token_ids: Sequence[int],
        cache_bytes: int | None = None,
        batch_bytes: int | None = None,
        max_rows: int = _MAX_ROWS,
    ) -> None:
        if model.training:
            raise ConfigurationError(
                "the model is in training mode, where dropout changes its logits; call model.eval() first"
            )
        self._config = model.config.get_text_config()
        head = Head(model, vocab_size=len(tokenizer))
        decoder = Decoder(model, head)
        share = int(free_bytes(decoder.device) * _MEMORY_SHARE)
        self._tree = PrefixTree(share if cache_bytes is None else cache_bytes)
        parts = Parts(
            decoder=decoder,
            head=head,
            perturber=Perturber(head.dim, head.device),
            tree=self._tree,
            tokenizer=tokenizer,
            eos_token_ids=frozenset(eos_token_ids),
        )
        self._parts = parts
        self._tokenizer = tokenizer
        self._token_bytes = sum(keys[:, :1].nbytes + values[:, :1].nbytes for keys, values in decoder.prefill([1])[0])
        tokens = max(1, (share if batch_bytes is None else batch_bytes) // self._token_bytes)
        self._scheduler = Scheduler(parts, max_rows, tokens)
        self._live: weakref.WeakValueDictionary[tuple[int, ...], CachedPrefix] = weakref.WeakValueDictionary()

    @property
    def context_length(self) -> int | None:
        """Tokens that prompt and response may have together; None where the model sets no limit."""
        limit = getattr(self._config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def token_bytes(self) -> int:
        """What the keys and values of a token take."""
        return self._token_bytes

    def prefill(self, token_ids: Sequence[int]) -> Prefix:
        """Run the prompt through the model, except for what it shares with an earlier one.

        Raises:
            PromptError: An empty prompt, a token outside the vocabulary, or a prompt that leaves no room for a
                response.
            EngineError: The forward pass failed.
        """
        tokens = tuple(token_ids)
        limit = self.context_length
        if not tokens:
            raise PromptError("the prompt has no tokens; give at least one message")
        if limit is not None and len(tokens) >= limit:
            raise PromptError(
                f"the prompt has {len(tokens)} tokens and the model's context holds {limit}, the response included; "
                "shorten the prompt (langchain_core.messages.trim_messages does)"
            )
        rows = self._parts.decoder.body.get_input_embeddings().weight.shape[0]
        strange = next((token for token in tokens if not 0 <= token < rows), None)
        if strange is not None:
            raise PromptError(
                f"token {strange} is not one of the model's {rows}; was the prompt encoded by another tokenizer?"
            )
        try:
            return self._scheduler.call(lambda: self._prefill(tokens))
        except AISPError:
            raise
        except Exception as error:
            raise EngineError(f"the prompt's forward pass failed: {error!r}") from error

    def log_probs(self, token_ids: Sequence[int], next_tokens: Sequence[int]) -> FloatArray:
        """Return the log-probabilities of some tokens behind a prompt, in nats, shape (len(next_tokens),).

        Raises:
            PromptError: As `prefill`.
            EngineError: The forward pass failed.
        """
        prefix = self.prefill(token_ids)
        if not isinstance(prefix, CachedPrefix):
            raise EngineError(f"prefill returned a {type(prefix).__name__}")
        with torch.inference_mode():
            head = self._parts.head
            logits = head.finish(head.raw(prefix.pre_logit[None]))[0]
            chosen = torch.log_softmax(logits, -1)[torch.tensor(list(next_tokens), device=logits.device)]
        return np.asarray(chosen.double().cpu())

    def rollout(
        self, prefix: Prefix, proposals: Sequence[Proposal], limits: Limits, progress: Progress | None = None
    ) -> list[Rollout]:
        """Draw one response a proposal; concurrent calls share the batch.

        Raises:
            ConfigurationError: Kept tokens that leave no room for a new one, a grammar that can't be compiled, or one
                whose shortest response is too long.
            EngineError: Decoding failed.
        """
        if not isinstance(prefix, CachedPrefix):
            raise ConfigurationError(
                f"the prefix is a {type(prefix).__name__}; expected what this engine's prefill returned"
            )
        limits = self._within_context(prefix, limits)
        for proposal in proposals:
            if len(proposal.kept) >= limits.max_tokens:
                raise ConfigurationError(
                    f"a proposal keeps {len(proposal.kept)} tokens, and a response may have {limits.max_tokens} "
                    "in all; keep fewer"
                )
        job = Job(prefix, proposals, limits, self._tokenizer, self._grammars(proposals, limits))
        reported = 0

        def report() -> None:
            nonlocal reported
            if progress is not None and job.generated > reported:
                new, reported = job.generated - reported, job.generated
                progress(new)

        self._scheduler.run(job, report)
        if job.error is not None:
            remedy = _MEMORY_REMEDY if out_of_memory(job.error) else ""
            raise EngineError(f"decoding failed: {job.error!r}{remedy}") from job.error
        return [rollout for rollout in job.results if rollout is not None]

    def _prefill(self, tokens: tuple[int, ...]) -> CachedPrefix:
        live = self._live.get(tokens)
        if live is not None:
            return live
        known, past = self._tree.match(tokens[:-1])
        kv, pre_logit = self._parts.decoder.prefill(tokens[known:], past)
        self._tree.insert(tokens, kv)
        prefix = CachedPrefix(token_ids=tokens, pre_logit=pre_logit.to(self._parts.head.device))
        self._live[tokens] = prefix
        return prefix

    def _grammars(self, proposals: Sequence[Proposal], limits: Limits) -> dict[str, Grammar]:
        """Compile what the proposals are held to."""
        grammars: dict[str, Grammar] = {}
        for source in dict.fromkeys(proposal.grammar for proposal in proposals):
            if source is not None:
                grammars[source] = compile_grammar(self._tokenizer, source, sorted(self._parts.eos_token_ids))
                grammars[source].check_room(limits.max_tokens)
        return grammars

    def _within_context(self, prefix: Prefix, limits: Limits) -> Limits:
        """Shorten the response to what the context still holds."""
        if self.context_length is None:
            return limits
        room = self.context_length - len(prefix.token_ids)
        return limits if limits.max_tokens <= room else limits.with_max_tokens(room)
