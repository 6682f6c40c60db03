"""The engine in this process: any transformers causal language model whose head can be split off."""

from __future__ import annotations

import weakref
from collections import abc
from typing import Any, TypeVar

import numpy as np
import torch

from aisp.engines.base import DEFAULT_WIDTH, Engine, Flight
from aisp.engines.grammar import compile_grammar
from aisp.engines.proposals import ALL_CAPABILITIES, check_offered, check_proposal
from aisp.engines.transformers.batch import Parts
from aisp.engines.transformers.cuda_graphs import GraphBackend
from aisp.engines.transformers.decoder import Decoder
from aisp.engines.transformers.flight import BatchFlight
from aisp.engines.transformers.head import Head
from aisp.engines.transformers.memory import free_bytes
from aisp.engines.transformers.perturbation import Perturber
from aisp.engines.transformers.prefix_cache import PrefixCache
from aisp.engines.transformers.scheduler import Scheduler
from aisp.engines.transformers.sequence import CachedPrefix, RolloutCall, Sequence
from aisp.engines.transformers.shutdown import end_at_exit
from aisp.engines.transformers.stats import EngineStats
from aisp.errors import AISPError, ConfigurationError, EngineError, PromptError
from aisp.models.codec import ChatCodec
from aisp.records import Capability, FloatArray, Limits, Prefix, Proposal

T = TypeVar("T")

# Of what is free once the model is loaded, for the batch and for the prefix cache each: half of it is left to what a
# step computes (logits of the whole batch, a grammar's copies of them) and to reward models on the same device.
_MEMORY_SHARE = 0.25
# More rows are hardly cheaper each: on an H200 with the shape of Qwen2.5-7B a step takes 10.7 ms at 1 row, 13.6 at 128
# and 18.9 at 256.
_MAX_SEQUENCES = 256

# On an H200 a step of Qwen2.5-7B's shape takes 10.7 ms with one row, 13.2 with 32 and 13.6 with 128.
_CUDA_WIDTH = 64


class TransformersEngine(Engine):
    """Draws responses from a transformers model in this process.

    The model is used as it is: no hook is left on it and its configuration is not touched.

    Args:
        model: A causal language model, in evaluation mode.
        codec: Its tokenizer and chat template.
        cache_bytes: Memory for keys and values of prompts and kept responses that are not being decoded. None takes a
            quarter of what is free. What doesn't fit is computed again when it is needed.
        batch_bytes: Memory for keys and values of the responses that are decoded at once, and of their prompts; more
            responses wait. None takes a quarter of what is free.
        max_sequences: Responses that are decoded at once, at most.
        graphs: How decode steps are captured and replayed. None captures on CUDA, and nowhere else.

    Raises:
        ConfigurationError: The model is in training mode.
        UnsupportedModelError: The model can't be split at its head, or its cache can't be decoded from.
    """

    def __init__(
        self,
        model: Any,
        codec: ChatCodec,
        *,
        cache_bytes: int | None = None,
        batch_bytes: int | None = None,
        max_sequences: int = _MAX_SEQUENCES,
        graphs: GraphBackend | None = None,
    ) -> None:
        if model.training:
            raise ConfigurationError(
                "the model is in training mode, where dropout changes its logits; call model.eval() first"
            )
        self._codec = codec
        head = Head(model, vocab_size=len(codec.tokenizer))
        decoder = Decoder(model, head, graphs)
        share = int(free_bytes(decoder.device) * _MEMORY_SHARE)
        self._parts = Parts(
            decoder=decoder,
            head=head,
            perturber=Perturber(head.dim, head.device),
            prefix_cache=PrefixCache(share if cache_bytes is None else cache_bytes),
            tokenizer=codec.tokenizer,
            eos_token_ids=frozenset(codec.eos_token_ids),
        )
        self._token_bytes = sum(keys[:, :1].nbytes + values[:, :1].nbytes for keys, values in decoder.prefill([1])[0])
        tokens = max(1, (share if batch_bytes is None else batch_bytes) // self._token_bytes)
        self._scheduler = Scheduler(self._parts, max_sequences, tokens)
        self._live: weakref.WeakValueDictionary[tuple[int, ...], CachedPrefix] = weakref.WeakValueDictionary()
        decoder.reset_counts()
        end_at_exit(self._scheduler)

    @property
    def codec(self) -> ChatCodec:
        return self._codec

    @property
    def offers(self) -> frozenset[Capability]:
        readable = getattr(self._codec.tokenizer, "is_fast", False)  # the grammar compiler reads no other tokenizers
        return ALL_CAPABILITIES if readable else ALL_CAPABILITIES - {"grammar"}

    @property
    def width(self) -> int:
        return _CUDA_WIDTH if self._parts.decoder.device.type == "cuda" else DEFAULT_WIDTH

    @property
    def token_bytes(self) -> int:
        """What the keys and values of a token take."""
        return self._token_bytes

    def stats(self) -> EngineStats:
        """Return what the engine holds and has done, as of now."""
        scheduler, decoder, cache = self._scheduler, self._parts.decoder, self._parts.prefix_cache
        captured = decoder.captured
        return EngineStats(
            decoding=scheduler.decoding,
            waiting=scheduler.waiting,
            driven=scheduler.driven,
            max_sequences=scheduler.max_sequences,
            batch_bytes=scheduler.batch_bytes,
            prefix_cache_tokens=cache.tokens,
            prefix_cache_bytes=cache.bytes,
            prefills=decoder.prefills,
            prefilled_tokens=decoder.prefilled_tokens,
            steps=decoder.steps,
            graphs=0 if captured is None else captured.graphs,
            graph_generations=0 if captured is None else captured.generations,
            replayed_steps=0 if captured is None else captured.replayed,
            shares_prompts=decoder.sharing,
        )

    def prefill(self, token_ids: abc.Sequence[int]) -> Prefix:
        """Run the prompt through the model, except for what it shares with an earlier one.

        Raises:
            PromptError: An empty prompt, a token outside the vocabulary, or a prompt that leaves no room for a
                response.
            EngineError: The forward pass failed.
        """
        return self._prefill(token_ids)

    def log_probs(self, token_ids: abc.Sequence[int], next_tokens: abc.Sequence[int]) -> FloatArray:
        """Return the log-probabilities of some tokens behind a prompt, in nats, shape (len(next_tokens),).

        Raises:
            ConfigurationError: A token that the model doesn't have.
            PromptError: As `prefill`.
            EngineError: The forward pass failed.
        """
        head = self._parts.head
        strange = next((token for token in next_tokens if not 0 <= token < head.vocab_size), None)
        if strange is not None:
            raise ConfigurationError(f"token {strange} is not one of the model's {head.vocab_size}")
        prefix = self._prefill(token_ids)

        def measure() -> FloatArray:
            logits = head.finish(head.raw(prefix.pre_logit[None]))[0]
            chosen = torch.log_softmax(logits, -1)[torch.tensor(list(next_tokens), device=logits.device)]
            return np.asarray(chosen.double().cpu())

        return self._between_steps(measure, "the head")

    def start(self, prefix: Prefix, proposals: abc.Sequence[Proposal], limits: Limits) -> Flight:
        """Begin to draw one response a proposal; flights of all threads share the batch.

        Raises:
            ConfigurationError: A prefix of another engine, numbers that are not finite or of another shape, kept tokens
                that leave no room for a new one, a grammar that can't be compiled, or one whose shortest response is
                too long.
        """
        if not isinstance(prefix, CachedPrefix):
            raise ConfigurationError(
                f"the prefix is a {type(prefix).__name__}; expected what this engine's prefill returned"
            )
        self._scheduler.check_running()
        call = RolloutCall(prefix, self._fit_to_context(prefix, limits), self._codec.tokenizer)
        flight = BatchFlight(self._scheduler, call, self._sequences)
        flight.add(proposals)
        return flight

    def close(self) -> None:
        """Free what the engine holds: its prefix cache, its batch and its graphs.

        Flights that are under way end as "cancelled". The engine, which others may share, can be used again.
        """
        self._scheduler.cancel_all()
        self._scheduler.call(self._parts.free)
        self._scheduler.tidy()

    def _prefill(self, token_ids: abc.Sequence[int]) -> CachedPrefix:
        tokens = tuple(token_ids)
        self._check_prompt(tokens)
        return self._between_steps(lambda: self._prefix(tokens), "the prompt's forward pass")

    def _between_steps(self, function: abc.Callable[[], T], what: str) -> T:
        """Run what needs the model on the thread that decodes, and return what it returns."""
        try:
            return self._scheduler.call(function)
        except AISPError:
            raise
        except Exception as error:
            raise EngineError(f"{what} failed: {error!r}") from error

    def _check_prompt(self, tokens: tuple[int, ...]) -> None:
        limit = self.context_length
        if not tokens:
            raise PromptError("the prompt has no tokens; give at least one message")
        if limit is not None and len(tokens) >= limit:
            raise PromptError(
                f"the prompt has {len(tokens)} tokens and the model's context holds {limit}, the response included; "
                "shorten the prompt (langchain_core.messages.trim_messages does)"
            )
        rows = self._parts.decoder.vocab_size
        strange = next((token for token in tokens if not 0 <= token < rows), None)
        if strange is not None:
            raise PromptError(
                f"token {strange} is not one of the model's {rows}; was the prompt encoded by another tokenizer?"
            )

    def _prefix(self, tokens: tuple[int, ...]) -> CachedPrefix:
        live = self._live.get(tokens)
        if live is not None:
            return live
        known, past = self._parts.prefix_cache.match(tokens[:-1])
        kv, pre_logit = self._parts.decoder.prefill(tokens[known:], past)
        self._parts.prefix_cache.insert(tokens, kv)
        prefix = CachedPrefix(token_ids=tokens, pre_logit=pre_logit.to(self._parts.head.device))
        self._live[tokens] = prefix
        return prefix

    def _sequences(self, call: RolloutCall, first: int, proposals: abc.Sequence[Proposal]) -> list[Sequence]:
        """Check proposals, and turn them into sequences of a call; the first has this place in its flight."""
        check_offered(self, proposals)
        head = self._parts.head
        for proposal in proposals:
            check_proposal(proposal, call.limits.max_tokens, self._parts.decoder.vocab_size, head.dim)
        grammars = {}
        for source in dict.fromkeys(proposal.grammar for proposal in proposals):
            if source is not None:
                grammar = compile_grammar(self._codec.tokenizer, source, sorted(self._parts.eos_token_ids))
                grammar.check_room(call.limits.max_tokens)
                grammars[source] = grammar
        return [
            Sequence(call, first + place, proposal, None if proposal.grammar is None else grammars[proposal.grammar])
            for place, proposal in enumerate(proposals)
        ]

    def _fit_to_context(self, prefix: Prefix, limits: Limits) -> Limits:
        """Shorten the response to what the context still holds."""
        if self.context_length is None:
            return limits
        room = self.context_length - len(prefix.token_ids)
        return limits if limits.max_tokens <= room else limits.with_max_tokens(room)
