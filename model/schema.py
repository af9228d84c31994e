"""The contract between the engine and everything that talks to it: requests, answers, events and errors.

Plain msgspec structs, JSON on the wire; no torch, no I/O, so that the language server can import it.
Text is Unicode; lines end as the caller wrote them; line numbers are 1-based; durations are milliseconds.
Unknown fields are errors: a misspelt limit must not be ignored in silence.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PROTOCOL_VERSION = 1
SESSION_HEADER = "diffcoder-session"

Rule = Literal["sequential", "confidence", "entropy_bound", "top_k"]
Verify = Literal["ar", "none"]
StopReason = Literal[
    "end_token", "stop_string", "dedent", "suffix", "line", "budget", "deadline", "cancelled", "repetition"
]


class Snippet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text from another file that may help: `path` is shown to the model, `text` is the excerpt."""

    path: str
    text: str


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far and in which manner to generate. Every field has a working default.

    `rule` and `threshold` choose what a forward commits in a noisy block (`threshold` is the probability
    for `confidence`, gamma in nats for `entropy_bound`, tokens a step for `top_k`; None takes the
    profile's). `verify` "ar" returns the greedy autoregressive tokens of the frozen base.
    """

    max_tokens: int = 128
    rule: Rule | None = None
    threshold: float | None = None
    verify: Verify | None = None
    stop: tuple[str, ...] = ()
    single_line: bool = False
    temperature: float = 0.0
    seed: int = 0
    deadline_ms: float | None = None


class FillRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/fill`: write the text that stands between `prefix` and `suffix`."""

    prefix: str
    suffix: str = ""
    language: str | None = None
    path: str | None = None
    snippets: tuple[Snippet, ...] = ()
    limits: Limits = Limits()
    model: str | None = None
    stream: bool = False


class Diagnostic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A complaint about the selection, from any language server; `line` is 1-based in `before`."""

    line: int
    message: str


class EditRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/edit`: rewrite lines `start`..`end` (1-based, inclusive) of `before` as `instruction` says."""

    before: str
    start: int
    end: int
    instruction: str
    language: str | None = None
    path: str | None = None
    snippets: tuple[Snippet, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()
    limits: Limits = Limits(max_tokens=1024)
    model: str | None = None
    stream: bool = False


class ScoreRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/score`: log-probability of each token of `text`.

    `mode` "ar" conditions on what stands to the left; "diffusion" on that and on the rest of the token's block.
    """

    text: str
    prefix: str = ""
    suffix: str = ""
    mode: Literal["ar", "diffusion"] = "ar"
    model: str | None = None


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer cost. `forwards` counts every forward of the decoder but those that only read the prompt, which
    `prefill_tokens` and `prefill_ms` tell of."""

    tokens: int
    forwards: int
    prefill_tokens: int
    cached_tokens: int
    ms: float
    prefill_ms: float


class FillResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`confidence`: mean probability of the returned tokens, 0..1 (1.0 for an empty text)."""

    text: str
    confidence: float
    stop_reason: StopReason
    usage: Usage
    model: str


class EditResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`replacement` is the new text of the selected lines, `text` the whole file after the edit."""

    text: str
    replacement: str
    confidence: float
    stop_reason: StopReason
    usage: Usage
    model: str


class TokenScore(msgspec.Struct, frozen=True):
    """One token: its text, its first character's index in the scored text, its log-probability in nats."""

    text: str
    start: int
    logprob: float


class ScoreResponse(msgspec.Struct, frozen=True, kw_only=True):
    tokens: tuple[TokenScore, ...]
    usage: Usage
    model: str


class Draft(msgspec.Struct, frozen=True, kw_only=True, tag="draft"):
    """Stream event: the text committed so far, then the block in work, None for a place still masked."""

    text: str
    block: tuple[str | None, ...]
    forwards: int


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One registry entry as a client sees it; `bytes` is the download, `state` what is on this disk."""

    name: str
    title: str
    licence: str
    bytes: int
    state: Literal["ready", "missing", "partial", "loaded"]
    verify: Verify
    block: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is proven by a forward at start; `running` and `waiting` count requests."""

    state: Literal["loading", "ready", "stopping"]
    model: str
    version: str
    protocol: int
    pid: int
    running: int
    waiting: int
    uptime_s: float
    rss_bytes: int
    tokens: int
    forwards: int
    ms_per_forward: dict[str, float] = {}


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where an engine listens, as it writes it for its clients into a file that only its user can read.

    `address` is "unix:PATH" or "http://127.0.0.1:PORT" with the bearer `token` it wants. `problem` is why an
    engine that was starting could not. Readers ignore unknown fields: it may be another version's file.
    """

    pid: int
    model: str
    protocol: int
    address: str
    token: str | None = None
    problem: Problem | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Every failure: a stable `code` for programs and one sentence that says what to do."""

    code: str
    message: str


class DiffcoderError(Exception):
    """A failure that the user can act on. `message` is one sentence; nothing else is shown."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(message)
        self.code, self.message, self.status = code, message, status

    def problem(self) -> Problem:
        return Problem(code=self.code, message=self.message)
