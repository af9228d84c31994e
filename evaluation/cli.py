"""`diffcoder eval`: run a benchmark, score completions made elsewhere, check the scorers, write the report.

Standard output carries results only (tables, or JSON lines with --json and in `score`); progress goes to
standard error. Exit status: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from evaluation import statistics, tasks
from evaluation.bar import progress
from evaluation.running import run_task
from evaluation.runs import Planning, Run, runs_folder
from evaluation.sandbox import Sandbox
from evaluation.scoring import Answer, score_all
from evaluation.task import Item, Task
from model.schema import DiffcoderError

RULES = ("sequential", "confidence", "entropy_bound", "top_k")
COMMANDS = ("list", "self-check", "score", "compare", "campaign", "report", "drafts")
EXAMPLES = """\
examples:
  diffcoder eval list                                          every task, and whether its data is here
  diffcoder eval humaneval --limit 40                          40 problems with the default model
  diffcoder eval humaneval-infilling-single --verify none --rule confidence
  diffcoder eval score humaneval --samples completions.jsonl   verdicts on completions made elsewhere
  diffcoder eval self-check                                    canonical solutions pass, known-bad ones fail
  diffcoder eval compare RUN RUN                               two runs, problem by problem
  diffcoder eval drafts --data FOLDER                          how far drafts are right, by place
  diffcoder eval campaign                                      the published runs, made or gone on with
  diffcoder eval report RUNS... --out report                   HTML page and Markdown table
"""


class Line(msgspec.Struct, frozen=True):
    """One line of `score`'s input."""

    task_id: str
    completion: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. DiffcoderError is left to the caller to show."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser(arguments).parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="diffcoder eval",
        description="Benchmarks, run here: generated code runs in a sandbox.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="TASK | COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    made = command("list", list_tasks, "every task, and whether its data is here")
    made.add_argument("--data", type=Path, metavar="PATH")
    made.add_argument("--json", action="store_true")

    made = command(
        "self-check", self_check, "check the scorers: known-good answers pass, known-bad ones fail"
    )
    made.add_argument("tasks", nargs="*", metavar="TASK")
    sandboxed(made)
    made.add_argument("--limit", type=positive, metavar="N", help="only N problems a task")
    made.add_argument("--json", action="store_true")

    made = command("score", score, "score completions made elsewhere: JSON lines in, JSON lines out")
    made.add_argument("task", metavar="TASK")
    made.add_argument(
        "--samples", required=True, metavar="FILE", help='{"task_id", "completion"} a line; - reads stdin'
    )
    sandboxed(made)

    made = command("compare", compare, "two runs of one task, problem by problem")
    made.add_argument("first", type=Path)
    made.add_argument("second", type=Path)
    made.add_argument("--json", action="store_true")

    made = command("campaign", run_campaign, "many runs one after the other, resumed where they stopped")
    made.add_argument("file", nargs="?", type=Path, help="a list of runs (default: the one that ships)")
    made.add_argument(
        "--limit", type=positive, metavar="N", help="only N problems of every run, to try it out"
    )
    made.add_argument("--threads", type=positive, metavar="N", help="for the model")
    made.add_argument("--list", action="store_true", help="show the runs and make none")

    made = command("report", report, "a self-contained HTML page and a Markdown table from runs")
    made.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run folders, or folders of them")
    made.add_argument(
        "--out", type=Path, default=Path("report"), metavar="NAME", help="writes NAME.html and NAME.md"
    )

    made = command(
        "drafts", drafts, "how far drafted blocks are right in source files, by place of the block"
    )
    made.add_argument(
        "--data", type=Path, metavar="FOLDER", required=True, help="files that nothing was trained on"
    )
    loaded(made)
    made.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        default=16,
        help="files of each language (default: %(default)s)",
    )
    made.add_argument("--json", action="store_true")

    first = next((a for a in arguments if not a.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        made = command(first, run_task, f"run the task {first}")
        made.set_defaults(task=first)
        model_options(made)
        sandboxed(made)
    return top


def loaded(made: argparse.ArgumentParser) -> None:
    made.add_argument("--model", default="default", help="a registry name or a path")
    made.add_argument(
        "--form",
        choices=("int8", "fp32"),
        default="int8",
        help="of the weights: as the engine computes with them, or as the checkpoint has them, several times slower",
    )
    made.add_argument(
        "--adapter", metavar="A", help="an adapter's file instead of the shipped one, or base: none"
    )
    made.add_argument("--threads", type=positive, metavar="N", help="for the model (one a core)")


def model_options(made: argparse.ArgumentParser) -> None:
    loaded(made)
    made.add_argument(
        "--plan",
        choices=get_args(Planning),
        default="reference",
        help="how many drafts a forward carries: by one fixed cost curve, so that counts can be repeated; by what"
        " forwards cost here, as the engine does; or none, a token a forward, to time the others against",
    )
    made.add_argument(
        "--verify",
        type=listed(str, ("ar", "none")),
        default=(None,),
        metavar="ar|none",
        help="equal to greedy AR, or pure diffusion; ar,none: a run of each, every prompt read once",
    )
    made.add_argument(
        "--rule",
        type=listed(str, RULES),
        default=(None,),
        metavar="R[,R]",
        help=f"of pure diffusion: {', '.join(RULES)}; several give several runs",
    )
    made.add_argument(
        "--threshold",
        type=listed(float),
        default=(None,),
        metavar="T[,T]",
        help="of the rule: probability, nats, or tokens a step; several give several runs",
    )
    made.add_argument(
        "--style", choices=("completion", "chat"), default="completion", help="how the model is asked"
    )
    made.add_argument("--temperature", type=float, default=0.0)
    made.add_argument("--n", dest="samples", type=positive, default=1, metavar="N", help="samples a problem")
    made.add_argument("--max-tokens", type=positive, metavar="N")
    made.add_argument("--limit", type=positive, metavar="N", help="a fixed choice of N problems")
    made.add_argument("--seed", type=int, default=0, metavar="S")
    made.add_argument(
        "--batch",
        type=positive,
        default=1,
        metavar="N",
        help="problems at a time: the same answers, several times sooner; their milliseconds are not reported",
    )
    made.add_argument(
        "--answers-of", metavar="TASK", help="take the answers of the same run of TASK, which asks the same"
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where the run is kept; of several runs, where their folders are",
    )
    made.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    made.add_argument(
        "--generate-only", action="store_true", help="keep completions, score later with --resume"
    )
    made.add_argument("--json", action="store_true", help="the summary as one JSON line")


def sandboxed(made: argparse.ArgumentParser) -> None:
    made.add_argument("--data", type=Path, metavar="PATH", help="the task's data: a file or its folder")
    made.add_argument("--workers", type=positive, metavar="N", help="programs at a time (one a core)")
    made.add_argument(
        "--unsafe", action="store_true", help="run generated code without a sandbox where none works"
    )


def listed(kind: Callable[[str], Any], known: Sequence[str] = ()) -> Callable[[str], tuple[Any, ...]]:
    """An argument's type: values separated by commas."""

    def values(text: str) -> tuple[Any, ...]:
        found = tuple(kind(part.strip()) for part in text.split(","))
        for value in found:
            if known and value not in known:
                raise argparse.ArgumentTypeError(f"{value!r} is not one of {', '.join(known)}")
        return found

    return values


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


# --- commands ----------------------------------------------------------------------------------------------


def list_tasks(options: argparse.Namespace) -> int:
    rows = []
    for task in tasks.TASKS.values():
        state = task.unavailable()
        count = 0
        if state is None:
            try:
                count = len(task.items(options.data))
                state = f"{count} problems"
            except DiffcoderError as error:
                state = "needs --data" if task.by_path else f"no data ({error.code})"
        rows.append({"task": task.name, "title": task.title, "problems": count, "state": state})
    if options.json:
        for row in rows:
            print(msgspec.json.encode(row).decode())
        return 0
    wide = max(len(str(row["task"])) for row in rows)
    for row in rows:
        print(f"{row['task']:{wide}}  {row['state']:24}  {row['title']}")
    return 0


def self_check(options: argparse.Namespace) -> int:
    from evaluation import selfcheck

    sandbox = Sandbox.find(options.unsafe)
    named = [task for name in options.tasks for task in tasks.find(name)]
    bad = 0
    for task in named or tasks.TASKS.values():
        try:
            with progress(task.title) as step:
                counts = selfcheck.check(task, sandbox, options.data, options.limit, options.workers, step)
        except DiffcoderError as error:
            skipped = error.code in ("unavailable", "data_missing")
            if not skipped:
                raise
            if options.json:
                print(msgspec.json.encode({"task": task.name, "skipped": error.message}).decode())
            else:
                print(f"skip  {task.name}: {error.message}", flush=True)
            bad += bool(named)
            continue
        for count in counts:
            bad += not count.good
            if options.json:
                print(msgspec.json.encode(count).decode(), flush=True)
                continue
            if count.kind == "skipped":
                print(f"skip  {task.name}: {count.run} problems ({'; '.join(count.notes)[:300]})", flush=True)
                continue
            state = "ok  " if count.good else "BAD "
            print(
                f"{state}  {task.name}: {count.kind}: {count.passed} of {count.run} pass ({count.wanted})",
                flush=True,
            )
            for surprise in count.surprises[:40]:
                print(f"        {surprise}")
    return 1 if bad else 0


def score(options: argparse.Namespace) -> int:
    task = tasks.one(options.task)
    problem = task.unavailable()
    if problem:
        raise DiffcoderError("unavailable", problem)
    items = {item.id: item for item in task.items(options.data)}
    sandbox = Sandbox.find(options.unsafe)
    answers: list[Answer | str] = list(sample_lines(options.samples, items))
    good = [answer for answer in answers if isinstance(answer, Answer)]
    passed: dict[str, list[bool]] = {}
    with progress(task.title, len(good)) as step:
        verdicts = score_all(task, good, sandbox, options.workers, step)
        for answer in answers:
            if isinstance(answer, str):
                out = {"task_id": None, "passed": False, "reason": answer}
            else:
                _, verdict = next(verdicts)
                out = {"task_id": answer.task_id, "passed": verdict.passed, "reason": verdict.reason}
                if answer.item is not None:
                    passed.setdefault(answer.task_id, []).append(verdict.passed)
            print(msgspec.json.encode(out).decode(), flush=True)
    if passed:
        print(summary_line(task, passed, len(items)), file=sys.stderr)
    return 0 if len(good) == len(answers) and all(a.item for a in good) else 1


def sample_lines(source: str, items: dict[str, Item]) -> Iterator[Answer | str]:
    """Answers in the order of the file; a bad line is a sentence instead."""
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise DiffcoderError("no_samples", f"{source} cannot be read ({error.strerror}).") from error
    seen: dict[str, int] = {}
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            sample = msgspec.json.decode(line, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            yield f'line {number} is not {{"task_id", "completion"}}: {error}'
            continue
        turn = seen.get(sample.task_id, 0)
        seen[sample.task_id] = turn + 1
        yield Answer(sample.task_id, turn, items.get(sample.task_id), sample.completion)


def drafts(options: argparse.Namespace) -> int:
    from evaluation import chat_generator
    from evaluation import drafts as blocks

    if not options.data.is_dir():
        raise DiffcoderError("data_missing", "Give a folder of source files with --data.")
    asked = blocks.files(options.data, options.limit)
    with progress("drafts", len(asked)) as step:
        model = chat_generator.load(options.model, options.form, options.adapter, options.threads)
        right = []
        for found in blocks.measure(model, asked):
            right.append(found)
            step()
    lines = blocks.table(asked, right)
    if options.json:
        for line in lines:
            print(msgspec.json.encode(line).decode())
        return 0
    places = range(1, len(lines[0].right) + 1)
    print(f"{'':12}{'files':>6}{'drafts':>8}" + "".join(f"{f'place {n}':>10}" for n in places))
    for line in lines:
        shares = "".join(f"{share:10.3f}" for share in line.right)
        print(f"{line.language:12}{line.files:6}{line.drafts:8}{shares}")
    ends = "".join(
        f"{f'{low:.2f}-{high:.2f}':>10}" for low, high in zip(lines[-1].low, lines[-1].high, strict=True)
    )
    print(f"{'95 %':26}{ends}")
    return 0


def compare(options: argparse.Namespace) -> int:
    from evaluation import summary

    first, second = (summary.shares(Run.open(folder)) for folder in (options.first, options.second))
    result = statistics.paired(first, second)
    if options.json:
        print(msgspec.json.encode(result).decode())
        return 0
    print(
        f"{result['problems']:.0f} problems in both: {result['both']:.0f} solved by both, "
        f"{result['only_first']:.0f} only by the first, {result['only_second']:.0f} only by the second, "
        f"{result['neither']:.0f} by neither.\n"
        f"second - first = {100 * result['difference']:+.1f} points "
        f"(95 % interval {100 * result['low']:+.1f} to {100 * result['high']:+.1f}, bootstrap over "
        f"problems), McNemar p = {result['p']:.3g}"
    )
    return 0


def run_campaign(options: argparse.Namespace) -> int:
    from evaluation import campaign

    plan = campaign.read(options.file or campaign.OURS)
    further = [
        word
        for name, value in (("--limit", options.limit), ("--threads", options.threads))
        if value is not None
        for word in (name, str(value))
    ]
    if options.list:
        for entry in plan.run:
            print(f"{entry.minutes:5g} min  {entry.command}")
        print(f"{sum(entry.minutes for entry in plan.run):5g} min in all, of one core")
        return 0
    return campaign.execute(plan, main, further)


def report(options: argparse.Namespace) -> int:
    import evaluation.report as pages

    written = pages.write(options.runs or [runs_folder()], options.out)
    print("\n".join(map(str, written)))
    return 0


def summary_line(task: Task, passed: dict[str, list[bool]], items: int) -> str:
    shares = [sum(answers) / len(answers) for answers in passed.values()]
    solved = sum(map(sum, passed.values()))
    total = sum(map(len, passed.values()))
    if total == len(passed):
        low, high = statistics.wilson(solved, total)
    else:
        low, high = statistics.bootstrap(shares)
    part = "" if len(passed) == items else f" (of {items})"
    return (
        f"{task.title}: pass@1 {100 * sum(shares) / len(shares):.1f} % "
        f"[{100 * low:.1f}, {100 * high:.1f}], {solved} of {total} completions, {len(passed)} problems{part}"
    )
