"""One task run by its options: answers that are missing are asked for, then verdicts; what is finished is kept."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from itertools import product

import msgspec

from evaluation import tasks
from evaluation.bar import progress
from evaluation.runs import Facts, Run, Scored, Settings, chosen, digest, machine, own_version, runs_folder
from evaluation.sandbox import Sandbox
from evaluation.scoring import Answer, score_all
from evaluation.task import Item, Style, Task
from model.schema import DiffcoderError


def run_task(options: argparse.Namespace) -> int:
    status, found = 0, tasks.find(options.task)
    for task in found:
        problem = task.unavailable()
        if problem and len(found) > 1:
            print(f"skip  {task.name}: {problem}", file=sys.stderr, flush=True)
            continue
        status = max(status, run_one(task, options))
        if status == 130:
            break
    return status


def run_one(task: Task, options: argparse.Namespace) -> int:
    problem = task.unavailable()
    if problem:
        raise DiffcoderError("unavailable", problem)
    if options.style not in task.styles:
        raise DiffcoderError(
            "bad_style", f"{task.name} is asked as {' or '.join(task.styles)}, not {options.style}."
        )
    if options.temperature == 0 and options.samples > 1:
        raise DiffcoderError(
            "bad_samples", "Several samples need a --temperature above 0: greedy ones are all equal."
        )
    everything: dict[str, Item] = {}
    left_out: Counter[str] = Counter()
    for item in task.items(options.data):
        reason = task.missing(item)
        if reason:
            left_out[reason] += 1
        else:
            everything[item.id] = item
    if left_out:
        reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        print(f"skip  {left_out.total()} problems of {task.name}: {reasons[:300]}", file=sys.stderr)
    if not everything:
        raise DiffcoderError(
            "unavailable", f"No problem of {task.name} can be scored here: {'; '.join(left_out)}."
        )
    names = chosen(everything, options.limit)
    items = [everything[name] for name in names]
    wanted = variants(task, options)
    sandbox = Sandbox.find(options.unsafe)  # refuse before hours of work, not after
    runs = []
    for settings in wanted:
        place = runs_folder() / task.name if options.out is None else options.out
        folder = place if options.out and len(wanted) == 1 else place / settings.label()
        facts = Facts(
            settings=settings,
            version=own_version(),
            machine=machine(),
            threads=options.threads or len(os.sched_getaffinity(0)),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            items=len(names),
            data=digest(items),
        )
        runs.append(Run.start(folder, facts, options.resume))
    try:
        if options.answers_of:
            for run in runs:
                take_answers(task, items, run, tasks.one(options.answers_of))
        generate_missing(task, items, runs, options)
        if not options.generate_only:
            for run in runs:
                score_missing(task, everything, run, sandbox, options)
                show(task, run, options)
    except KeyboardInterrupt:
        kept = ", ".join(str(run.folder) for run in runs)
        print(f"stopped: finished work is kept in {kept}, go on with --resume", file=sys.stderr)
        return 130
    for run in runs:
        print(f"kept in {run.folder}", file=sys.stderr)
    return 0


def variants(task: Task, options: argparse.Namespace) -> list[Settings]:
    """The settings of every run that the options ask for. A rule is a matter of pure diffusion alone."""
    ruled = options.rule != (None,) or options.threshold != (None,)
    if ruled and "none" not in options.verify:
        raise DiffcoderError("bad_rule", "A --rule or --threshold is for pure diffusion: add --verify none.")
    found = []
    for verify, rule, threshold in product(options.verify, options.rule, options.threshold):
        settings = Settings(
            task=task.name,
            model=options.model,
            form=options.form,
            adapter=options.adapter,
            plan=options.plan,
            verify=verify,
            rule=rule if verify == "none" else None,
            threshold=threshold if verify == "none" else None,
            style=options.style,
            temperature=options.temperature,
            samples=options.samples,
            max_tokens=options.max_tokens,
            limit=options.limit,
            seed=options.seed,
        )
        if settings not in found:
            found.append(settings)
    return found


def take_answers(task: Task, items: list[Item], run: Run, other: Task) -> None:
    """Copy what the same run of another task was answered, wherever that one asks the very same."""
    source = Run.open(runs_folder() / other.name / run.settings.label())
    style: Style = "chat" if run.settings.style == "chat" else "completion"
    theirs = {item.id: item for item in other.items()}
    have, found = run.completions(), source.completions()
    for item in items:
        twin = theirs.get(item.id)
        if twin is None or other.request(twin, style) != task.request(item, style):
            continue
        for sample in range(run.settings.samples):
            line = found.get((item.id, sample))
            if line is not None and (item.id, sample) not in have:
                run.add(msgspec.structs.replace(line, completion=task.extract(item, line.text, style)))


def generate_missing(task: Task, items: list[Item], runs: list[Run], options: argparse.Namespace) -> None:
    missing = 0
    for run in runs:
        have = run.completions()
        missing += sum((i.id, n) not in have for i in items for n in range(run.settings.samples))
    if not missing:
        return
    from evaluation import chat_generator, generation

    with progress(f"{task.title}: answers", missing) as step:
        model = chat_generator.load(
            options.model, options.form, options.adapter, options.threads, options.plan
        )
        generation.generate(model, task, items, runs, options.batch, step)


def score_missing(
    task: Task, items: dict[str, Item], run: Run, sandbox: Sandbox, options: argparse.Namespace
) -> None:
    scored = run.verdicts()
    waiting = [
        Answer(line.task_id, line.sample, items.get(line.task_id), line.completion)
        for key, line in run.completions().items()
        if key not in scored
    ]
    with progress(f"{task.title}: verdicts", len(waiting)) as step:
        for answer, verdict in score_all(task, waiting, sandbox, options.workers, step):
            measures = task.measures(answer.item, answer.completion, verdict, sandbox) if answer.item else {}
            run.add(
                Scored(
                    task_id=answer.task_id,
                    sample=answer.sample,
                    passed=verdict.passed,
                    reason=verdict.reason,
                    seconds=verdict.seconds,
                    measures=measures,
                )
            )


def show(task: Task, run: Run, options: argparse.Namespace) -> None:
    from evaluation import summary

    result = summary.of_run(run)
    if options.json:
        print(msgspec.json.encode(result).decode())
    else:
        print(summary.sentence(task.title, result))
