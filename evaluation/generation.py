"""Asks a model for the answers of a task, one by one, and keeps each as it comes.

The model runs in this process (`model.generator`); the seed of a sample depends on nothing but the run's
seed, the problem and the sample's number, so the order and the batch change nothing.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from evaluation.runs import Completion, Run, Settings, seed_of
from evaluation.task import Chat, Continuation, Item, Request, Style, Task
from model import loading
from model.drafters import PromptLookup
from model.generator import SPARE, Generator, _confidence, _reason, _Text, never
from model.layout import Mark, Piece
from model.profiles import Profile
from model.schema import (
    DiffcoderError,
    EditRequest,
    EditResponse,
    FillRequest,
    FillResponse,
    Limits,
    StopReason,
)
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


def with_settings(limits: Limits, settings: Settings, seed: int) -> Limits:
    changes: dict[str, Any] = {
        "rule": settings.rule,
        "threshold": settings.threshold,
        "verify": settings.verify,
        "temperature": settings.temperature,
        "seed": seed,
    }
    if settings.max_tokens is not None:
        changes["max_tokens"] = settings.max_tokens
    return msgspec.structs.replace(limits, **changes)


def ask(
    model: ChatGenerator, request: Request, settings: Settings, seed: int
) -> tuple[str, FillResponse | EditResponse]:
    """The model's text for one request, and its response."""
    if isinstance(request, Chat):
        limits = with_settings(Limits(max_tokens=request.max_tokens, stop=request.stop), settings, seed)
        spoken = model.chat(request, limits)
        return spoken.text, spoken
    if isinstance(request, Continuation):
        limits = with_settings(Limits(max_tokens=request.max_tokens, stop=request.stop), settings, seed)
        continued = model.continue_text(request, limits)
        return continued.text, continued
    request = msgspec.structs.replace(request, limits=with_settings(request.limits, settings, seed))
    if isinstance(request, EditRequest):
        edited = model.edit(request)
        return edited.text, edited
    filled = model.fill(request)
    return filled.text, filled


def generate(
    model: ChatGenerator,
    task: Task,
    items: Iterable[Item],
    settings: Settings,
    run: Run,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Every missing completion of the run, appended to it. A problem the model refuses counts as an empty
    answer."""
    have = run.completions()
    style: Style = "chat" if settings.style == "chat" else "completion"
    for item in items:
        for sample in range(settings.samples):
            if (item.id, sample) not in have:
                run.add(complete(model, task, item, settings, style, sample))
            done()


def complete(
    model: ChatGenerator, task: Task, item: Item, settings: Settings, style: Style, sample: int
) -> Completion:
    request = task.request(item, style)
    if getattr(task, "true_length", False) and isinstance(request, FillRequest):
        length = max(1, model.count_tokens(item.row["canonical_solution"]))
        request = msgspec.structs.replace(
            request, limits=msgspec.structs.replace(request.limits, max_tokens=length)
        )
    started = time.monotonic()
    try:
        text, response = ask(model, request, settings, seed_of(settings.seed, item.id, sample))
    except DiffcoderError as error:
        if error.code != "too_long":
            raise  # it would be so for every problem
        return Completion(
            task_id=item.id,
            sample=sample,
            completion="",
            text="",
            tokens=0,
            forwards=0,
            ms=(time.monotonic() - started) * 1000,
            prefill_ms=0.0,
            prefill_tokens=0,
            stop_reason=f"refused: {error.code}",
            confidence=0.0,
        )
    usage = response.usage
    return Completion(
        task_id=item.id,
        sample=sample,
        completion=task.extract(item, text, style),
        text=text,
        tokens=usage.tokens,
        forwards=usage.forwards,
        ms=usage.ms,
        prefill_ms=usage.prefill_ms,
        prefill_tokens=usage.prefill_tokens,
        stop_reason=response.stop_reason,
        confidence=response.confidence,
        measures=task.model_measures(model, item) if sample == 0 else {},
    )


class ChatGenerator(Generator):
    """The engine's generator, and what only benchmarks need: chat, plain continuation, token counts."""

    def chat(self, request: Chat, limits: Limits) -> FillResponse:
        """The assistant's answer to one message, after the request's `opening`, which is given."""
        pieces = chat_pieces(self.profile, request.user, request.system, request.opening)
        return self.write_on(pieces, limits)

    def continue_text(self, request: Continuation, limits: Limits) -> FillResponse:
        begin: list[Piece] = [Mark(self.profile.begin)] if self.profile.begin else []
        return self.write_on([*begin, request.prompt], limits)

    def write_on(self, pieces: Sequence[Piece], limits: Limits) -> FillResponse:
        """What follows `pieces`, cut at the stop strings and by nothing else; of a long prompt the end is kept."""
        started = time.monotonic()
        ids = self._encode(pieces)[-(self._window - min(limits.max_tokens, self._longest) - SPARE) :]
        text = _Text(self, b"", Stops("", "", limits.stop))

        def until(tokens: list[int]) -> StopReason | None:
            reason = text.until(tokens)
            return reason if reason == "stop_string" else None

        run = self._run(limits, until, None, never, b"", text, started)
        usage = self._generate(ids, run, limits, PromptLookup(ids, order=3), started)
        answer, kept = text.result(run)
        return FillResponse(
            text=answer,
            confidence=_confidence(run.probabilities[:kept]),
            stop_reason=_reason(run),
            usage=usage,
            model=self.name,
        )

    def count_tokens(self, text: str) -> int:
        return len(self._encode([text]))


def chat_pieces(profile: Profile, user: str, system: str | None, opening: str) -> list[Piece]:
    """One turn in the family's chat form, with the maker's own default system message."""
    if profile.chat == "chatml":
        start, end = Mark("<|im_start|>"), Mark("<|im_end|>")
        system = system or DEFAULT_SYSTEM.get(profile.name, DEFAULT_SYSTEM["qwen-coder"])
        first: list[Piece] = [start, f"system\n{system}", end, "\n", start, f"user\n{user}", end, "\n", start]
        return [*first, f"assistant\n{opening}"]
    if profile.chat == "seed":
        begin, stop = Mark("<[begin▁of▁sentence]>"), Mark("<[end▁of▁sentence]>")
        system = system or DEFAULT_SYSTEM["seed-coder"]
        return [
            begin,
            f"system\n{system}\n\n",
            stop,
            begin,
            f"user\n{user}",
            stop,
            begin,
            f"assistant\n{opening}",
        ]
    raise DiffcoderError("unsupported_model", "This model does not chat: leave --style at completion.")


def load(name: str, adapter: str | None, threads: int | None) -> ChatGenerator:
    """The model in this process; an adapter by path takes the place of the shipped one, "base" leaves it away:
    the autoregressive twin."""
    if adapter == "base":
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        loaded = dataclasses.replace(loading.load(name), adapter=None, draft_head=None)
        return ChatGenerator(loaded)
    generator = ChatGenerator.load(name, threads=threads, adapter=Path(adapter) if adapter else None)
    assert isinstance(generator, ChatGenerator)
    return generator
