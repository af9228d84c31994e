"""The engine's generator as benchmarks need it: chat, plain continuation, and the same numbers in every run.

How many forwards a text takes depends on what a forward is said to cost and on what the engine has learnt of its
drafts. Here the first is one fixed curve, the second begins anew with every request, and the prompt is read
before the counting begins; so counts do not depend on the machine's load, on the order of the problems, on what is
cached, or on the batch. Where the clock is asked for, `plan` may be "measured", what forwards cost here, as the engine
does it; or "none": nothing is drafted, a token takes a forward. `load` is the way to one.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from evaluation.batch import Batch, SharedDecoder, SharedLinear
from evaluation.runs import Planning
from evaluation.task import Chat, Continuation
from model import layout, loading, sampler
from model.decoder import KVCache
from model.drafters import REFERENCE_COST, Beliefs, CostCurve, PromptLookup, TextDrafter
from model.filling import Filling
from model.generator import SPARE, Generator, never
from model.layout import Piece
from model.loading import Loaded
from model.prefix_cache import PrefixCache
from model.profiles import Profile
from model.sampler import Run
from model.schema import DiffcoderError, FillResponse, Limits, StopReason, Usage
from model.stops import Stops

# What the makers' chat templates say when a conversation brings no system message.
DEFAULT_SYSTEM = {
    "qwen-coder": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "smollm": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "seed-coder": (
        "You are an AI programming assistant, utilizing the Seed-Coder model, developed by ByteDance Seed, "
        "and you only answer questions related to computer science. For politically sensitive questions, "
        "security and privacy issues, and other non-computer science questions, you will refuse to answer."
    ),
}


class ChatGenerator(Generator):
    """`Generator` with `chat`, `continue_text` and token counts; see above for what else differs."""

    def __init__(self, loaded: Loaded, plan: Planning = "reference"):
        if plan == "none":
            loaded = without_adapter(loaded)
        self.loaded, self.plan = loaded, plan
        super().__init__(loaded)
        # One buffer: problems come in an order that makes the last one the best to go on from, and members are many.
        self._cache = PrefixCache(loaded.decoder.config, self._window, 1)

    def _measure(self) -> CostCurve:
        return super()._measure() if self.plan == "measured" else CostCurve(REFERENCE_COST)

    def members(self, count: int) -> tuple[Batch, list[ChatGenerator]]:
        """Generators of the same model whose forwards are computed together, each for a thread of its own."""
        batch = Batch(self.loaded.decoder)
        decoder = SharedDecoder(self.loaded.decoder, batch)
        head = self.loaded.draft_head and SharedLinear(self.loaded.draft_head, batch)
        parts = dataclasses.replace(self.loaded, decoder=decoder, draft_head=head)
        return batch, [ChatGenerator(parts, self.plan) for _ in range(count)]

    def _generate(
        self,
        ids: list[int],
        run: Run,
        limits: Limits,
        lookup: TextDrafter | None,
        started: float,
        finish: Callable[[KVCache], None] | None = None,
    ) -> Usage:
        """As the engine does it, after the prompt was read: its forwards are not counted, its time is told apart."""
        if self.plan == "none":
            lookup = None
        cache, cached = self._lend(ids)
        new = len(ids) - cached
        end = len(ids) - 1
        end -= end % self.network.block if self.network.aligned else 0
        reading = Run(max_tokens=1, ends=frozenset(), deadline=run.deadline)
        sampler.prefill(self.network, cache, ids[cached:end], reading)
        self._cache.give(cache, ids)
        self._beliefs = Beliefs(self.cost)
        usage = super()._generate(ids, run, limits, lookup, started, finish)
        return msgspec.structs.replace(usage, prefill_tokens=new, cached_tokens=cached)

    def chat(self, request: Chat, limits: Limits) -> FillResponse:
        """The assistant's answer to one message, after the request's `opening`, which is given."""
        pieces = chat_pieces(self.profile, request.user, request.system, request.opening)
        return self.write_on(pieces, limits)

    def continue_text(self, request: Continuation, limits: Limits) -> FillResponse:
        return self.write_on([*layout.begun(self.profile), request.prompt], limits)

    def write_on(self, pieces: Sequence[Piece], limits: Limits) -> FillResponse:
        """What follows `pieces`, cut at the stop strings and by nothing else; of a long prompt the end is kept."""
        started = time.monotonic()
        ids = self.encode(pieces)[-(self._window - min(limits.max_tokens, self._longest) - SPARE) :]
        text = Filling(self.tokens.bytes, b"", Stops("", "", limits.stop))

        def until(tokens: list[int]) -> StopReason | None:
            reason = text.until(tokens)
            return reason if reason == "stop_string" else None

        run = self._run(limits, until, None, never, b"", text, started)
        usage = self._generate(ids, run, limits, PromptLookup(ids, order=3), started)
        return self._filled(text, run, usage)

    def count_tokens(self, text: str) -> int:
        return len(self.encode([text]))


def chat_pieces(profile: Profile, user: str, system: str | None, opening: str) -> list[Piece]:
    """One turn in the family's chat form, with the maker's own default system message."""
    if profile.chat == "none":
        raise DiffcoderError("unsupported_model", "This model does not chat: leave --style at completion.")
    if profile.chat == "chatml":
        system = system or DEFAULT_SYSTEM.get(profile.name, DEFAULT_SYSTEM["qwen-coder"])
    else:
        system = (system or DEFAULT_SYSTEM["seed-coder"]) + "\n"
    return [
        *layout.turn(profile, "system", system),
        *layout.turn(profile, "user", user),
        *layout.opened(profile, opening),
    ]


@functools.lru_cache(1)
def load(
    name: str, form: loading.Form, adapter: str | None, threads: int | None, plan: Planning = "reference"
) -> ChatGenerator:
    """The model in this process; an adapter by path takes the place of the shipped one, "base" leaves it away:
    the autoregressive twin. The last one stays in memory for whoever asks again."""
    torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
    if adapter == "base":
        return ChatGenerator(without_adapter(loading.load(name, form=form)), plan)
    return ChatGenerator(loading.load(name, form=form, adapter=Path(adapter) if adapter else None), plan)


def without_adapter(loaded: Loaded) -> Loaded:
    return dataclasses.replace(loaded, adapter=None, draft_head=None)
