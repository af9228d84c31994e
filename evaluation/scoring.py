"""Scores many answers at once: a few rooms in parallel, verdicts in order, Ctrl-C ends cleanly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from evaluation.sandbox import Sandbox
from evaluation.task import Item, Task
from evaluation.verdicts import Verdict
from model.schema import DiffcoderError


@dataclass(frozen=True)
class Answer:
    """One completion to score. `item` is None for a task id that the task does not have."""

    task_id: str
    sample: int
    item: Item | None
    completion: str


def score_one(task: Task, answer: Answer, sandbox: Sandbox) -> Verdict:
    """A verdict, whatever the completion does: only a sandbox or a judge that fails ends the whole."""
    if answer.item is None:
        return Verdict(False, f"{task.name} has no task_id {answer.task_id!r}", 0.0)
    lacking = task.missing(answer.item)
    if lacking:
        return Verdict(False, f"not scored: {lacking}", 0.0)
    try:
        return task.score(answer.item, answer.completion, sandbox)
    except DiffcoderError as error:
        if error.code != "judge_failed":
            raise
        raise DiffcoderError(
            error.code, f"{answer.task_id} of {task.name}: {error.message} Is the data as published?"
        ) from error
    except Exception as error:  # a benchmark row or a completion that our own code stumbles over
        return Verdict(False, f"could not be scored: {type(error).__name__}: {error}"[:300], 0.0)


def score_all(
    task: Task,
    answers: Iterable[Answer],
    sandbox: Sandbox,
    workers: int | None = None,
    done: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Answer, Verdict]]:
    """Verdicts in the order of the answers, `workers` at a time (one a core by default)."""
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)

    def work(answer: Answer) -> Verdict:
        verdict = score_one(task, answer, sandbox)
        done()
        return verdict

    waiting: list[tuple[Answer, Future[Verdict]]] = []
    finished = False
    try:
        waiting = [(answer, pool.submit(work, answer)) for answer in answers]
        while waiting:
            answer, future = waiting.pop(0)
            yield answer, future.result()
        finished = True
    finally:
        if not finished:  # interrupted: what runs now is ended, what waits never starts
            pool.shutdown(wait=False, cancel_futures=True)
            sandbox.stop_all()
        pool.shutdown()
