"""The queue and its worker: who runs next, what never starts, what an error or a cancellation leaves behind.

A generator whose forwards the test lets through one by one takes the model's place: the order of events is
the test's own, and nothing here sleeps.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.drafters import CostCurve
from model.engine import MAX_WAITING, PATIENCE_S, PROOF, Engine, Queue, Ticket, check
from model.schema import (
    DiffcoderError,
    Draft,
    EditRequest,
    FillRequest,
    FillResponse,
    Limits,
    ScoreRequest,
    ScoreResponse,
    Snippet,
    Usage,
)

SECONDS = 30.0


def fill(prefix: str = "x", **limits: object) -> FillRequest:
    return FillRequest(prefix=prefix, limits=Limits(**limits))  # type: ignore[arg-type]


def edit(instruction: str = "do") -> EditRequest:
    return EditRequest(before="a\n", start=1, end=1, instruction=instruction)


class Gated:
    """Generates `max_tokens` words, one a forward; each forward waits until the test calls `let`."""

    cost = CostCurve({1: 30.0})

    def __init__(self) -> None:
        self.started: list[str] = []
        self.limits: list[Limits] = []
        self.begun = threading.Semaphore(0)
        self._permits = threading.Semaphore(0)

    def let(self, forwards: int) -> None:
        self._permits.release(forwards)

    def wait_begun(self) -> None:
        assert self.begun.acquire(timeout=SECONDS)

    def fill(
        self,
        request: FillRequest,
        on_draft: Callable[[Draft], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> FillResponse:
        if request is PROOF:
            return self._response("", 1, "end_token")
        self.started.append(request.prefix)
        self.limits.append(request.limits)
        self.begun.release()
        if request.prefix == "bug":
            raise RuntimeError("an index out of range")
        if request.prefix == "mistake":
            raise DiffcoderError("bad_gap", "There is no gap; choose one.", 422)
        text = ""
        for number in range(request.limits.max_tokens):
            if cancelled():
                return self._response(text, number, "cancelled")
            assert self._permits.acquire(timeout=SECONDS)
            text += f"{number} "
            if on_draft is not None:
                on_draft(Draft(text=text, block=(), forwards=number + 1))
        return self._response(text, request.limits.max_tokens, "budget")

    def edit(self, request: EditRequest, on_draft=None, cancelled=lambda: False):  # type: ignore[no-untyped-def]
        return self.fill(FillRequest(prefix=request.instruction, limits=Limits(max_tokens=1)))

    def score(self, request: ScoreRequest) -> ScoreResponse:
        self.started.append(request.text)
        return ScoreResponse(tokens=(), usage=self._response("", 1, "budget").usage, model="gated")

    def _response(self, text: str, forwards: int, reason: str) -> FillResponse:
        usage = Usage(
            tokens=forwards, forwards=forwards, prefill_tokens=7, cached_tokens=3, ms=1.0, prefill_ms=1.0
        )
        return FillResponse(text=text, confidence=1.0, stop_reason=reason, usage=usage, model="gated")  # type: ignore[arg-type]


@pytest.fixture
def gated() -> Gated:
    return Gated()


@pytest.fixture
def engine(gated: Gated) -> Iterator[Engine]:
    engine = Engine(lambda: gated)
    engine.start()
    yield engine
    gated.let(50_000)
    engine.abort()
    assert engine.join(SECONDS)


def code_of(ticket: Ticket) -> str:
    with pytest.raises(DiffcoderError) as caught:
        ticket.future.result(SECONDS)
    return caught.value.code


def outcomes(engine: Engine) -> dict[str, int]:
    totals: dict[str, int] = {}
    for (_, outcome), count in engine.stats().requests.items():
        totals[outcome] = totals.get(outcome, 0) + count
    return totals


# Order


@given(
    st.lists(st.tuples(st.sampled_from(["fill", "edit", "score"]), st.integers(0, 20)), max_size=MAX_WAITING)
)
def test_nobody_waits_behind_more_than_their_patience(arrivals: list[tuple[str, int]]) -> None:
    queue = Queue(MAX_WAITING)
    for kind, arrived in arrivals:
        queue.push(Ticket(fill(), kind, arrived, arrived + 600))  # type: ignore[arg-type]
    order = [queue.pop() for _ in arrivals]
    assert queue.pop() is None
    longest = max(PATIENCE_S.values())
    for earlier, later in itertools.pairwise(order):
        assert earlier is not None
        assert later is not None
        assert earlier.arrived - later.arrived <= longest
        if earlier.kind == later.kind:
            assert earlier.arrived <= later.arrived
        if earlier.kind != "fill" and later.kind == "fill":
            assert later.arrived >= earlier.arrived + longest


def test_a_fill_overtakes_an_edit_that_has_just_come(engine: Engine, gated: Gated) -> None:
    running = engine.submit(fill("running", max_tokens=1))
    gated.wait_begun()
    edits = [engine.submit(edit(f"edit{number}")) for number in range(2)]
    last = engine.submit(fill("typed", max_tokens=1))
    gated.let(4)
    for ticket in (running, *edits, last):
        ticket.future.result(SECONDS)
    assert gated.started == ["running", "typed", "edit0", "edit1"]


def test_a_full_queue_refuses_with_a_time_to_come_back(gated: Gated) -> None:
    engine = Engine(lambda: gated, max_waiting=2)
    engine.start()
    running = engine.submit(fill(max_tokens=1))
    gated.wait_begun()
    waiting = [engine.submit(fill(max_tokens=1)) for _ in range(2)]
    with pytest.raises(DiffcoderError) as caught:
        engine.submit(fill())
    assert (caught.value.code, caught.value.status) == ("busy", 503)
    assert 1 <= engine.retry_after_s() <= 60
    gated.let(3)
    for ticket in (running, *waiting):
        assert ticket.future.result(SECONDS).stop_reason == "budget"  # type: ignore[union-attr]
    assert outcomes(engine) == {"answered": 3, "refused": 1}
    engine.drain()
    assert engine.join(SECONDS)


# Cancellation


def test_a_cancelled_waiting_request_never_starts(engine: Engine, gated: Gated) -> None:
    running = engine.submit(fill("running", max_tokens=1))
    gated.wait_begun()
    waiting = engine.submit(fill("waiting", max_tokens=1))
    after = engine.submit(fill("after", max_tokens=1))
    engine.cancel(waiting)
    assert code_of(waiting) == "cancelled"
    gated.let(2)
    running.future.result(SECONDS)
    after.future.result(SECONDS)
    assert gated.started == ["running", "after"]


def test_a_cancelled_running_request_ends_between_two_forwards(engine: Engine, gated: Gated) -> None:
    drafts: list[Draft] = []
    ticket = engine.submit(fill("running", max_tokens=50), on_draft=drafts.append)
    gated.wait_begun()
    gated.let(1)
    engine.cancel(ticket)
    gated.let(1)
    assert code_of(ticket) == "cancelled"
    assert len(drafts) <= 2
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert engine.submit(fill("next", max_tokens=0 + 1)).future is not None
    gated.wait_begun()


def test_cancelling_what_has_ended_changes_nothing(engine: Engine, gated: Gated) -> None:
    gated.let(1)
    ticket = engine.submit(fill(max_tokens=1))
    answer = ticket.future.result(SECONDS)
    engine.cancel(ticket)
    engine.expire(ticket)
    assert ticket.future.result() is answer


def test_a_newer_request_of_a_session_takes_the_place_of_the_older_ones(engine: Engine, gated: Gated) -> None:
    running = engine.submit(fill("one", max_tokens=9), session="editor")
    gated.wait_begun()
    waiting = engine.submit(fill("two", max_tokens=1), session="editor")
    stranger = engine.submit(fill("other", max_tokens=1), session="another editor")
    task = engine.submit(edit("edit"), session="editor")
    newest = engine.submit(fill("three", max_tokens=1), session="editor")
    assert code_of(waiting) == "superseded"
    gated.let(20)
    assert code_of(running) == "superseded"
    for ticket in (stranger, task, newest):
        ticket.future.result(SECONDS)
    assert gated.started == ["one", "other", "three", "edit"]


def test_superseding_makes_room_in_a_full_queue(gated: Gated) -> None:
    engine = Engine(lambda: gated, max_waiting=1)
    engine.start()
    running = engine.submit(fill("running", max_tokens=1))
    gated.wait_begun()
    old = engine.submit(fill("old", max_tokens=1), session="s")
    new = engine.submit(fill("new", max_tokens=1), session="s")
    assert code_of(old) == "superseded"
    gated.let(2)
    running.future.result(SECONDS)
    new.future.result(SECONDS)
    engine.drain()
    assert engine.join(SECONDS)


def test_a_thousand_requests_cancelled_at_random_leave_nothing_running(gated: Gated) -> None:
    engine = Engine(lambda: gated, max_waiting=1000)
    engine.start()
    gated.let(50_000)
    undisturbed = engine.submit(fill("survivor", max_tokens=20)).future.result(SECONDS)
    answers: list[object] = []

    def client(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(125):
            survives = number % 10 == 0
            ticket = engine.submit(fill("survivor" if survives else "cancelled", max_tokens=20))
            if survives:
                answers.append(ticket.future.result(SECONDS))
            else:
                threading.Timer(chance.random() / 100, engine.cancel, [ticket]).start()

    clients = [threading.Thread(target=client, args=[seed]) for seed in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join(SECONDS)
    engine.drain()
    assert engine.join(SECONDS)
    stats = engine.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert sum(stats.requests.values()) == 1001
    assert answers == [undisturbed] * 104


# Deadlines


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_deadline_counts_from_arrival(gated: Gated) -> None:
    clock = Clock()
    engine = Engine(lambda: gated, clock=clock)
    engine.start()
    running = engine.submit(fill("running", max_tokens=1))
    gated.wait_begun()
    waiting = engine.submit(fill("waiting", max_tokens=1, deadline_ms=1000))
    late = engine.submit(fill("late", max_tokens=1, deadline_ms=500))
    dropped = engine.submit(fill("dropped", max_tokens=1, deadline_ms=500))
    clock.now += 0.75
    engine.expire(dropped)
    assert code_of(dropped) == "deadline"
    gated.let(2)
    running.future.result(SECONDS)
    waiting.future.result(SECONDS)
    assert code_of(late) == "deadline"
    assert gated.started == ["running", "waiting"]
    assert gated.limits[1].deadline_ms == pytest.approx(250)
    assert outcomes(engine) == {"answered": 2, "expired": 2}
    engine.drain()
    assert engine.join(SECONDS)


def test_a_request_without_a_deadline_gets_the_engines(engine: Engine, gated: Gated) -> None:
    gated.let(1)
    engine.submit(fill(max_tokens=1)).future.result(SECONDS)
    deadline = gated.limits[0].deadline_ms
    assert deadline is not None
    assert 0 < deadline <= 600_000


# Failure


def test_a_failing_request_answers_with_its_error_and_the_next_one_runs(engine: Engine, gated: Gated) -> None:
    bug, mistake = engine.submit(fill("bug")), engine.submit(fill("mistake"))
    good = engine.submit(fill("good", max_tokens=1))
    gated.let(1)
    assert code_of(bug) == "internal"
    assert code_of(mistake) == "bad_gap"
    assert good.future.result(SECONDS).stop_reason == "budget"  # type: ignore[union-attr]
    assert outcomes(engine) == {"failed": 2, "answered": 1}


@pytest.mark.parametrize("error", [DiffcoderError("model_missing", "Pull it."), RuntimeError("broken\nfile")])
def test_a_load_that_fails_answers_everybody_with_the_reason(error: Exception) -> None:
    may_load = threading.Event()

    def load() -> Gated:
        assert may_load.wait(SECONDS)
        raise error

    engine = Engine(load)
    engine.start()
    early = engine.submit(fill())
    may_load.set()
    assert engine.join(SECONDS)
    expected = error.code if isinstance(error, DiffcoderError) else "engine_start"
    assert code_of(early) == expected
    with pytest.raises(DiffcoderError) as caught:
        engine.submit(fill())
    assert (caught.value.code, caught.value.status) == (expected, 503)
    assert "\n" not in caught.value.message
    assert engine.stats().state == "stopping"


def test_ready_means_that_a_forward_has_run() -> None:
    class Broken(Gated):
        def fill(self, request: FillRequest, on_draft=None, cancelled=lambda: False) -> FillResponse:  # type: ignore[no-untyped-def]
            raise RuntimeError("illegal instruction")

    engine = Engine(Broken)
    engine.start()
    assert engine.join(SECONDS)
    assert engine.problem is not None
    assert "illegal instruction" in engine.problem.message


# Ending


def test_a_drained_engine_finishes_what_it_accepted_and_refuses_the_rest(
    engine: Engine, gated: Gated
) -> None:
    running = engine.submit(fill("running", max_tokens=1))
    gated.wait_begun()
    waiting = engine.submit(fill("waiting", max_tokens=1))
    engine.drain()
    with pytest.raises(DiffcoderError) as caught:
        engine.submit(fill("late"))
    assert (caught.value.code, caught.value.status) == ("stopping", 503)
    gated.let(2)
    assert running.future.result(SECONDS) is not None
    assert waiting.future.result(SECONDS) is not None
    assert engine.join(SECONDS)


def test_an_aborted_engine_ends_at_the_next_forward(engine: Engine, gated: Gated) -> None:
    running = engine.submit(fill("running", max_tokens=99))
    gated.wait_begun()
    waiting = engine.submit(fill("waiting", max_tokens=1))
    engine.abort()
    assert code_of(waiting) == "stopping"
    gated.let(1)
    assert code_of(running) == "stopping"
    assert engine.join(SECONDS)


def test_idle_time_counts_from_the_last_answer(gated: Gated) -> None:
    clock = Clock()
    engine = Engine(lambda: gated, clock=clock)
    engine.start()
    ticket = engine.submit(fill(max_tokens=1))
    gated.wait_begun()
    clock.now += 50
    assert engine.stats().idle_s == 0
    gated.let(1)
    ticket.future.result(SECONDS)
    clock.now += 7
    assert engine.stats().idle_s == 7
    engine.drain()
    assert engine.join(SECONDS)


def test_the_sums_add_up_what_answers_cost(engine: Engine, gated: Gated) -> None:
    gated.let(5)
    engine.submit(fill(max_tokens=2)).future.result(SECONDS)
    engine.submit(fill(max_tokens=3)).future.result(SECONDS)
    engine.submit(ScoreRequest(text="x")).future.result(SECONDS)
    stats = engine.stats()
    assert (stats.tokens, stats.forwards, stats.prefill_tokens, stats.cached_tokens) == (6, 6, 21, 9)


# Limits


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (fill("x" * 4_000_001), 413),
        (FillRequest(prefix="", snippets=(Snippet("a", "x" * 4_000_000),)), 413),
        (FillRequest(prefix="", snippets=(Snippet("a", "x"),) * 257), 413),
        (EditRequest(before="x" * 4_000_001, start=1, end=1, instruction=""), 413),
        (ScoreRequest(text="x" * 200_001), 413),
        (fill(stop=("x",) * 17), 413),
        (fill(stop=("",)), 400),
        (fill(stop=("x" * 257,)), 400),
        (fill(max_tokens=0), 400),
        (fill(max_tokens=2**63), 400),
        (fill(temperature=-1.0), 400),
        (fill(temperature=float("nan")), 400),
        (fill(temperature=float("inf")), 400),
        (fill(threshold=float("nan")), 400),
        (fill(seed=-1), 400),
        (fill(seed=2**63), 400),
        (fill(deadline_ms=0.0), 400),
        (fill(deadline_ms=1e12), 400),
    ],
)
def test_what_cannot_be_answered_is_refused_before_it_waits(request_: FillRequest, status: int) -> None:
    with pytest.raises(DiffcoderError) as caught:
        check(request_)
    assert caught.value.status == status
    assert caught.value.message.endswith(".")
