"""The engine's queue and its one worker: requests in, answers or errors out, in a fair order, cancellable.

It takes a function that loads a generator and runs it on one thread of its own, one request at a time. What
waits is bounded, has a deadline counted from its arrival, and can be cancelled: while it waits it then never
starts, while it runs it ends between two forwards. A request that fails answers with its error; the loop
never sees it.

It never knows HTTP, sockets, tokens, tensors, models or text: it looks only at a request's limits and sizes.
No torch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from model.schema import (
    DiffcoderError,
    Draft,
    EditRequest,
    EditResponse,
    FillRequest,
    FillResponse,
    Limits,
    ScoreRequest,
    ScoreResponse,
)

log = logging.getLogger("diffcoder.engine")

Request = FillRequest | EditRequest | ScoreRequest
Response = FillResponse | EditResponse | ScoreResponse
Kind = Literal["fill", "edit", "score"]
State = Literal["loading", "ready", "stopping"]
OnDraft = Callable[[Draft], None]

KIND_OF: dict[type, Kind] = {FillRequest: "fill", EditRequest: "edit", ScoreRequest: "score"}

# An edit or a score counts as having arrived this much later than a fill: somebody is typing beside a fill.
# Being a delay and not a rank, it lets no stream of fills keep an edit waiting for ever.
PATIENCE_S: dict[Kind, float] = {"fill": 0.0, "edit": 2.0, "score": 2.0}

MAX_WAITING = 64
MAX_SECONDS = 600.0
MAX_CHARS = 4_000_000
MAX_SCORE_CHARS = 200_000
MAX_TOKENS = 8192
MAX_SNIPPETS = 256
MAX_STOPS = 16
MAX_STOP_CHARS = 256

# The forward that proves an engine ready is a real request of its own.
PROOF = FillRequest(prefix="def add(a, b):\n    return a", limits=Limits(max_tokens=4, single_line=True))


class Cost(Protocol):
    """Milliseconds of a forward by its rows, as measured when the generator was loaded."""

    @property
    def ms(self) -> Mapping[int, float]: ...


class Generator(Protocol):
    """What the worker drives: blocking, one call at a time (`model.generator.Generator`)."""

    @property
    def cost(self) -> Cost: ...
    def fill(
        self, request: FillRequest, on_draft: OnDraft | None = None, cancelled: Callable[[], bool] = ...
    ) -> FillResponse: ...
    def edit(
        self, request: EditRequest, on_draft: OnDraft | None = None, cancelled: Callable[[], bool] = ...
    ) -> EditResponse: ...
    def score(self, request: ScoreRequest) -> ScoreResponse: ...


def check(request: Request) -> None:
    """Refuse what no answer can be given to, before it takes a place in the queue. Sizes are characters."""
    if isinstance(request, ScoreRequest):
        _at_most("text", len(request.text) + len(request.prefix) + len(request.suffix), MAX_SCORE_CHARS)
        return
    if isinstance(request, FillRequest):
        size = len(request.prefix) + len(request.suffix)
    else:
        size = len(request.before) + len(request.instruction)
        size += sum(len(diagnostic.message) for diagnostic in request.diagnostics)
    size += sum(len(snippet.text) + len(snippet.path) for snippet in request.snippets)
    _at_most("text", size, MAX_CHARS)
    _at_most("snippets", len(request.snippets), MAX_SNIPPETS)
    limits = request.limits
    _in_range("max_tokens", limits.max_tokens, 1, MAX_TOKENS)
    _in_range("temperature", limits.temperature, 0, 10)
    _in_range("seed", limits.seed, 0, 2**63 - 1)
    if limits.threshold is not None:
        _in_range("threshold", limits.threshold, 0, 1000)
    if limits.deadline_ms is not None:
        _in_range("deadline_ms", limits.deadline_ms, 1, MAX_SECONDS * 1000)
    _at_most("stop strings", len(limits.stop), MAX_STOPS)
    for stop in limits.stop:
        _in_range("the length of a stop string", len(stop), 1, MAX_STOP_CHARS)


def _at_most(what: str, got: int, limit: int) -> None:
    if got > limit:
        unit = " characters" if what == "text" else ""
        raise DiffcoderError(
            "too_large", f"The request holds {got:,}{unit or ' ' + what}; send at most {limit:,}.", 413
        )


def _in_range(name: str, got: float, low: float, high: float) -> None:
    if not low <= got <= high:  # NaN fails this too
        raise DiffcoderError("bad_request", f"{name} is {got}; it must be from {low} to {high:g}.")


@dataclass(eq=False)
class Ticket:
    """One accepted request on its way through the engine. Times are seconds of the engine's clock."""

    request: Request
    kind: Kind
    arrived: float
    deadline: float
    session: str | None = None
    on_draft: OnDraft | None = None
    cancelled: bool = False
    reason: DiffcoderError | None = None
    future: Future[Response] = field(default_factory=Future)

    @property
    def order(self) -> float:
        return self.arrived + PATIENCE_S[self.kind]


class Queue:
    """The tickets that wait, and who is next. Not thread-safe: the engine calls it with its lock held."""

    def __init__(self, limit: int):
        self.limit = limit
        self._waiting: list[Ticket] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, ticket: Ticket) -> None:
        if len(self._waiting) >= self.limit:
            raise DiffcoderError(
                "busy", f"The engine has {self.limit} requests waiting; try again later.", 503
            )
        self._waiting.append(ticket)

    def pop(self) -> Ticket | None:
        """The earliest by arrival, with edits and scores moved back by their patience; None when empty."""
        if not self._waiting:
            return None
        ticket = min(self._waiting, key=lambda ticket: ticket.order)
        self._waiting.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> bool:
        """Whether the ticket was waiting; if so it no longer is."""
        if ticket not in self._waiting:
            return False
        self._waiting.remove(ticket)
        return True

    def superseded_by(self, kind: Kind, session: str | None) -> list[Ticket]:
        """The waiting requests that a new one of this kind and session makes pointless."""
        if session is None:
            return []
        return [ticket for ticket in self._waiting if (ticket.kind, ticket.session) == (kind, session)]

    def all(self) -> list[Ticket]:
        return list(self._waiting)


@dataclass(frozen=True)
class Stats:
    """A consistent look at the engine. `requests` counts by (kind, outcome); sums run since the start."""

    state: State
    running: int
    waiting: int
    uptime_s: float
    idle_s: float
    requests: dict[tuple[str, str], int]
    tokens: int
    forwards: int
    prefill_tokens: int
    cached_tokens: int
    busy_s: float
    wait_s: float


class Engine:
    """Runs requests on one generator. Every method may be called from any thread; none waits for a model.

    `load` makes the generator, on the worker's thread, since it takes seconds; requests that come meanwhile
    wait. If it fails, `problem` says why, every request gets that answer, and the engine never becomes ready.
    `ms_per_forward` (by rows) is empty until then.
    """

    def __init__(
        self,
        load: Callable[[], Generator],
        *,
        max_waiting: int = MAX_WAITING,
        max_seconds: float = MAX_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.problem: DiffcoderError | None = None
        self.ms_per_forward: Mapping[int, float] = {}
        self._load = load
        self._max_seconds = max_seconds
        self._clock = clock
        self._wake = threading.Condition()
        self._queue = Queue(max_waiting)
        self._running: Ticket | None = None
        self._state: State = "loading"
        self._started = self._last_use = clock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._sums: Counter[str] = Counter()
        self._busy_s = self._wait_s = 0.0
        self._thread = threading.Thread(target=self._work, name="engine-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self, request: Request, *, session: str | None = None, on_draft: OnDraft | None = None
    ) -> Ticket:
        """Put a request into the queue; its answer or error arrives in the ticket's `future`.

        A newer request of the same kind and session supersedes the older ones, waiting or running. `on_draft`
        is called on the worker's thread. Raises DiffcoderError when the request or the queue allows no
        answer.
        """
        kind = KIND_OF[type(request)]
        try:
            check(request)
        except DiffcoderError:
            with self._wake:
                self._requests[kind, "refused"] += 1
            raise
        now = self._clock()
        seconds = self._max_seconds
        if not isinstance(request, ScoreRequest) and request.limits.deadline_ms is not None:
            seconds = min(seconds, request.limits.deadline_ms / 1000)
        ticket = Ticket(request, kind, now, now + seconds, session, on_draft)
        ticket.future.set_running_or_notify_cancel()  # nobody but the engine may end it
        with self._wake:
            try:
                if self.problem is not None:
                    raise _copy(self.problem)
                if self._state == "stopping":
                    raise DiffcoderError("stopping", "The engine is stopping; start it again.", 503)
                for old in self._queue.superseded_by(kind, session):
                    self._end(old, _superseded())
                self._queue.push(ticket)
            except DiffcoderError:
                self._requests[kind, "refused"] += 1
                raise
            running = self._running
            if (
                running is not None
                and session is not None
                and (running.kind, running.session) == (kind, session)
            ):
                self._interrupt(running, _superseded())
            self._last_use = now
            self._wake.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Its caller has gone: a waiting ticket ends now and never starts, a running one after a forward."""
        with self._wake:
            self._end(ticket, DiffcoderError("cancelled", "The request was cancelled.", 499))

    def expire(self, ticket: Ticket) -> None:
        """Its deadline has come. A running ticket knows its deadline itself; a waiting one ends here."""
        with self._wake:
            if self._queue.remove(ticket):
                self._finish(ticket, _expired(), "expired")

    def drain(self) -> None:
        """Refuse new work, finish what was accepted, then let the worker end."""
        with self._wake:
            self._state = "stopping"
            self._wake.notify_all()

    def abort(self) -> None:
        """`drain`, but what was accepted is cancelled."""
        self.drain()
        with self._wake:
            for ticket in self._queue.all():
                self._end(ticket, _stopped())
            if self._running is not None:
                self._interrupt(self._running, _stopped())

    @property
    def finished(self) -> bool:
        """Whether the worker has ended: drained, or failed to load."""
        return not self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return self.finished

    def stats(self) -> Stats:
        with self._wake:
            now = self._clock()
            busy = self._running is not None or len(self._queue) > 0 or self._state == "loading"
            return Stats(
                state=self._state,
                running=int(self._running is not None),
                waiting=len(self._queue),
                uptime_s=now - self._started,
                idle_s=0.0 if busy else now - self._last_use,
                requests=dict(self._requests),
                tokens=self._sums["tokens"],
                forwards=self._sums["forwards"],
                prefill_tokens=self._sums["prefill_tokens"],
                cached_tokens=self._sums["cached_tokens"],
                busy_s=self._busy_s,
                wait_s=self._wait_s,
            )

    def retry_after_s(self) -> int:
        """When a refused caller may hope for a place: the time half of the queue takes, 1..60 seconds."""
        with self._wake:
            answered = sum(count for (_, outcome), count in self._requests.items() if outcome == "answered")
            seconds = len(self._queue) / 2 * self._busy_s / max(1, answered)
        return round(min(60.0, max(1.0, seconds)))

    def _end(self, ticket: Ticket, reason: DiffcoderError) -> None:
        if self._queue.remove(ticket):
            self._finish(ticket, reason, reason.code)
        elif ticket is self._running:
            self._interrupt(ticket, reason)

    def _interrupt(self, ticket: Ticket, reason: DiffcoderError) -> None:
        if not ticket.cancelled:
            ticket.reason, ticket.cancelled = reason, True

    def _finish(self, ticket: Ticket, outcome: Response | DiffcoderError, name: str) -> None:
        self._requests[ticket.kind, name] += 1
        self._last_use = self._clock()
        ticket.on_draft = None
        if isinstance(outcome, DiffcoderError):
            ticket.future.set_exception(outcome)
        else:
            ticket.future.set_result(outcome)

    def _work(self) -> None:
        try:
            generator = self._load()
            generator.fill(PROOF)
        except Exception as error:
            self._fail(error)
            return
        self.ms_per_forward = generator.cost.ms
        with self._wake:
            self._last_use = self._clock()
            if self._state == "loading":
                self._state = "ready"
        log.info("ready after %.1f s", self._last_use - self._started)
        while (ticket := self._next()) is not None:
            self._run(generator, ticket)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, DiffcoderError):
            log.error("cannot start: %s", error.message)
        else:
            log.exception("cannot start")
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            error = DiffcoderError(
                "engine_start",
                f"The engine could not load its model ({reason}); `diffcoder doctor` looks into it.",
            )
        error.status = 503
        with self._wake:
            self.problem, self._state = error, "stopping"
            for ticket in self._queue.all():
                self._end(ticket, _copy(error))

    def _next(self) -> Ticket | None:
        """The next ticket to run, waiting for one; None when the engine is drained."""
        with self._wake:
            while (ticket := self._queue.pop()) is None:
                if self._state == "stopping":
                    return None
                self._wake.wait()
            self._running = ticket
            return ticket

    def _run(self, generator: Generator, ticket: Ticket) -> None:
        started = self._clock()
        outcome: Response | DiffcoderError
        if started >= ticket.deadline:
            outcome, name = _expired(), "expired"
        else:
            try:
                outcome, name = _answer(generator, ticket, ticket.deadline - started), "answered"
            except DiffcoderError as error:
                outcome, name = error, "failed"
            except Exception as error:
                log.exception("a %s request failed", ticket.kind)
                text = f"The engine failed on it ({type(error).__name__}); see `diffcoder engine logs`."
                outcome, name = DiffcoderError("internal", text, 500), "failed"
        ended = self._clock()
        with self._wake:
            self._running = None
            self._busy_s += ended - started
            self._wait_s += started - ticket.arrived
            if not isinstance(outcome, DiffcoderError):
                usage = outcome.usage
                for name_of in ("tokens", "forwards", "prefill_tokens", "cached_tokens"):
                    self._sums[name_of] += getattr(usage, name_of)
                if ticket.reason is not None and getattr(outcome, "stop_reason", None) == "cancelled":
                    outcome, name = ticket.reason, ticket.reason.code
            self._finish(ticket, outcome, name)
        log.info(
            "%s %s: waited %.0f ms, ran %.0f ms",
            ticket.kind,
            name,
            (started - ticket.arrived) * 1000,
            (ended - started) * 1000,
        )


def _answer(generator: Generator, ticket: Ticket, seconds_left: float) -> Response:
    request = ticket.request
    if isinstance(request, ScoreRequest):
        return generator.score(request)
    limits = msgspec.structs.replace(request.limits, deadline_ms=seconds_left * 1000)
    request = msgspec.structs.replace(request, limits=limits)
    if isinstance(request, FillRequest):
        return generator.fill(request, ticket.on_draft, lambda: ticket.cancelled)
    return generator.edit(request, ticket.on_draft, lambda: ticket.cancelled)


def _copy(error: DiffcoderError) -> DiffcoderError:
    """An exception of its own for each caller: raising one twice would pile up tracebacks in it."""
    return DiffcoderError(error.code, error.message, error.status)


def _stopped() -> DiffcoderError:
    return DiffcoderError("stopping", "The engine was stopped before it could answer; ask again.", 503)


def _superseded() -> DiffcoderError:
    return DiffcoderError("superseded", "A newer request of the same session took this one's place.", 409)


def _expired() -> DiffcoderError:
    return DiffcoderError(
        "deadline", "The engine was busy until this request's deadline; allow more time or ask again.", 503
    )
