"""The table of all tasks: name -> task. Importing it imports every benchmark's file, none of its data."""

from __future__ import annotations

from difflib import get_close_matches

from evaluation import (
    aider_polyglot,
    bigcodebench,
    canitedit,
    crosscodeeval,
    cruxeval,
    editeval,
    humaneval,
    humaneval_infilling,
    humanevalpack,
    humanevalplus,
    livecodebench,
    mbpp,
    mbxp,
    mhpp,
    multipl_e,
    quixbugs,
    repository_infill,
    safim,
)
from evaluation.task import Task
from model.schema import DiffcoderError

_ALL: tuple[Task, ...] = (
    humaneval.HumanEval(),
    humanevalplus.HumanEvalPlus(),
    *(task() for task in humaneval_infilling.TASKS),
    mbpp.Mbpp(),
    mbpp.MbppAll(),
    mbpp.MbppSanitized(),
    mbpp.MbppPlus(),
    *cruxeval.TASKS,
    *canitedit.TASKS,
    bigcodebench.BigCodeBench(),
    bigcodebench.Hard(),
    *humanevalpack.TASKS,
    *mbxp.TASKS,
    *multipl_e.TASKS,
    livecodebench.LiveCodeBench(),
    mhpp.Mhpp(),
    aider_polyglot.AiderPolyglot(),
    editeval.EditEval(),
    quixbugs.QuixBugs(),
    safim.Safim(),
    crosscodeeval.CrossCodeEval(),
    repository_infill.RepositoryInfill(),
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


def find(name: str) -> list[Task]:
    """The task of that name, or all tasks of the group of that name."""
    known = name.replace("_", "-")
    if known in TASKS:
        return [TASKS[known]]
    group = [task for task in TASKS.values() if task.group == known]
    if group:
        return group
    close = get_close_matches(known, TASKS, 1)
    hint = f"did you mean {close[0]}?" if close else "`diffcoder eval list` names them all."
    raise DiffcoderError("unknown_task", f"There is no task {name!r}: {hint}")


def one(name: str) -> Task:
    """The task of that name, which must be one."""
    found = find(name)
    if len(found) > 1:
        names = ", ".join(task.name for task in found)
        raise DiffcoderError("unknown_task", f"{name} is several tasks: name one of {names}.")
    return found[0]
