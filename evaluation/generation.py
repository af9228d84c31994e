"""Asks a model for the answers of a task and keeps each as it comes.

The model runs in this process (`evaluation.chat_generator`); the seed of a sample depends on nothing but the run's
seed, the problem and the sample's number. Neither the order nor the batch nor what else is asked changes a
text or the number of its forwards.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from itertools import groupby
from typing import Any

import msgspec
import torch

from evaluation.batch import Stopped
from evaluation.chat_generator import ChatGenerator
from evaluation.runs import Completion, Run, Settings, seed_of
from evaluation.task import Chat, Continuation, Item, Request, Style, Task
from model.schema import DiffcoderError, EditRequest, EditResponse, FillRequest, FillResponse, Limits


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
    runs: Sequence[Run],
    batch: int = 1,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Every missing completion of the runs, appended to them, `batch` problems at a time. A problem the model refuses
    counts as an empty answer.

    The runs are of one task and one model with different settings: a problem is asked for all of them in turn, so
    that its prompt is read once. So are problems of one kin, whose prompts begin alike.
    """
    have = [run.completions() for run in runs]

    def ask_all(member: ChatGenerator, kin: list[Item]) -> None:
        for item in kin:
            for run, old in zip(runs, have, strict=True):
                for sample in range(run.settings.samples):
                    if (item.id, sample) not in old:
                        run.add(complete(member, task, item, run.settings, sample, batch))
                        done()

    waiting = deque(list(kin) for _, kin in groupby(items, task.kin))

    def next_kin() -> list[Item] | None:
        try:
            return waiting.popleft()
        except IndexError:
            return None

    if batch == 1:
        for kin in waiting:
            ask_all(model, kin)
        return
    meeting, members = model.members(min(batch, len(waiting)))
    threads = torch.get_num_threads()

    def work(member: ChatGenerator) -> None:
        torch.set_num_threads(threads)
        try:
            while (kin := next_kin()) is not None:
                ask_all(member, kin)
        finally:
            meeting.leave()

    for _ in members:
        meeting.join()
    with ThreadPoolExecutor(len(members)) as pool:
        futures = [pool.submit(work, member) for member in members]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # done, or a member failed, or the user interrupts
            waiting.clear()
            meeting.stop()
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, Stopped):
            raise error


def complete(
    model: ChatGenerator, task: Task, item: Item, settings: Settings, sample: int, batch: int = 1
) -> Completion:
    style: Style = "chat" if settings.style == "chat" else "completion"
    try:
        request = task.request(item, style)
        msgspec.convert(msgspec.to_builtins(request), type(request))  # types are checked on the way in alone
    except (msgspec.ValidationError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise DiffcoderError(
            "data_damaged", f"{item.id} of {task.name} makes no sense ({error}): is it the published data?"
        ) from error
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
            batch=batch,
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
        batch=batch,
        measures=task.model_measures(model, item) if sample == 0 else {},
    )
