"""The request and answer shapes of other tools, so that editor plugins written for them work unchanged.

OpenAI `/v1/completions` (with `suffix`) and llama.cpp `/infill`, as structs, and the translation to and from
our own fill. Pure functions over values: it never knows HTTP, the queue or the model. Unlike our own
contract, fields that are not listed here are ignored: those tools send sampling settings that greedy decoding
has no use for. A listed field whose value cannot be honoured is an error.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from model.schema import DiffcoderError, FillRequest, FillResponse, Limits, Problem, Snippet, StopReason

# Ended because time or tokens ran out, not because the text was complete.
CUT: frozenset[StopReason] = frozenset({"budget", "deadline", "cancelled"})


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /v1/completions`. `prompt` is the text before the gap, `suffix` the text after it."""

    prompt: str | tuple[str, ...]
    suffix: str | None = None
    model: str | None = None
    max_tokens: int | None = 16
    temperature: float | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None
    stream: bool = False
    n: int | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    index: int = 0
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class CompletionUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionAnswer(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: tuple[CompletionChoice, ...]
    usage: CompletionUsage | None = None


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: str
    code: str


class OpenAIProblem(msgspec.Struct, frozen=True, kw_only=True):
    """The error shape that OpenAI's and llama.cpp's clients read."""

    error: OpenAIError


class InfillExtra(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    filename: str = ""


class Infill(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /infill`. The gap stands after `input_prefix` + `prompt` (the typed part of its line).

    `n_predict` 0 is those clients' way to warm the cache for a prompt that is about to come: it costs one
    token; -1 stands for no limit of theirs and takes the default.
    """

    input_prefix: str = ""
    input_suffix: str = ""
    prompt: str = ""
    input_extra: tuple[InfillExtra, ...] = ()
    n_predict: int = 128
    temperature: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False


class InfillTimings(msgspec.Struct, frozen=True, kw_only=True):
    prompt_n: int
    prompt_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float


class InfillAnswer(msgspec.Struct, frozen=True, kw_only=True):
    content: str
    stop: bool = True
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    truncated: bool = False
    stop_type: Literal["eos", "limit", "word"]
    timings: InfillTimings


def fill_of_completion(request: Completion) -> FillRequest:
    """Our request for theirs; raises DiffcoderError for what this engine cannot do."""
    prompt = request.prompt
    if not isinstance(prompt, str):
        if len(prompt) != 1:
            raise DiffcoderError("unsupported", f"prompt holds {len(prompt)} texts; send one a request.")
        prompt = prompt[0]
    for name, value in (("n", request.n), ("best_of", request.best_of)):
        if value not in (None, 1):
            raise DiffcoderError(
                "unsupported", f"{name} is {value}; this engine gives one completion a request."
            )
    if request.echo or request.logprobs:
        name = "echo" if request.echo else "logprobs"
        raise DiffcoderError(
            "unsupported", f"{name} is not supported; leave it out (`/v1/score` gives log-probabilities)."
        )
    stop = (request.stop,) if isinstance(request.stop, str) else request.stop or ()
    limits = Limits(
        max_tokens=16 if request.max_tokens is None else request.max_tokens,
        stop=stop,
        temperature=request.temperature or 0.0,
        seed=request.seed or 0,
    )
    return FillRequest(prefix=prompt, suffix=request.suffix or "", limits=limits, model=request.model or None)


def completion_of_fill(answer: FillResponse, number: int) -> CompletionAnswer:
    usage = answer.usage
    prompt_tokens = usage.prefill_tokens + usage.cached_tokens
    return CompletionAnswer(
        id=f"cmpl-{number}",
        created=int(time.time()),
        model=answer.model,
        choices=(
            CompletionChoice(
                text=answer.text, finish_reason="length" if answer.stop_reason in CUT else "stop"
            ),
        ),
        usage=CompletionUsage(
            prompt_tokens=prompt_tokens,
            completion_tokens=usage.tokens,
            total_tokens=prompt_tokens + usage.tokens,
        ),
    )


def fill_of_infill(request: Infill) -> FillRequest:
    return FillRequest(
        prefix=request.input_prefix + request.prompt,
        suffix=request.input_suffix,
        snippets=tuple(Snippet(path=extra.filename, text=extra.text) for extra in request.input_extra),
        limits=Limits(
            max_tokens=max(1, request.n_predict) if request.n_predict >= 0 else 128,
            stop=request.stop,
            temperature=max(0.0, request.temperature or 0.0),
            seed=max(0, request.seed or 0),
        ),
    )


def infill_of_fill(request: Infill, answer: FillResponse) -> InfillAnswer:
    usage = answer.usage
    decode_ms = usage.ms - usage.prefill_ms
    reason = answer.stop_reason
    return InfillAnswer(
        content="" if request.n_predict == 0 else answer.text,
        model=answer.model,
        tokens_predicted=usage.tokens,
        tokens_evaluated=usage.prefill_tokens + usage.cached_tokens,
        tokens_cached=usage.cached_tokens,
        stop_type="limit" if reason in CUT else "word" if reason == "stop_string" else "eos",
        timings=InfillTimings(
            prompt_n=usage.prefill_tokens,
            prompt_ms=usage.prefill_ms,
            prompt_per_second=_per_second(usage.prefill_tokens, usage.prefill_ms),
            predicted_n=usage.tokens,
            predicted_ms=decode_ms,
            predicted_per_second=_per_second(usage.tokens, decode_ms),
        ),
    )


def error_of(problem: Problem) -> OpenAIProblem:
    return OpenAIProblem(error=OpenAIError(message=problem.message, type=problem.code, code=problem.code))


def _per_second(count: int, ms: float) -> float:
    return count / ms * 1000 if ms > 0 else 0.0
