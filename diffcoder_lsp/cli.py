"""The `diffcoder` command: what people and scripts type.

Parses arguments, calls one function a command and turns every failure into one sentence and an exit
status: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Each command imports what it needs when it runs,
so that `diffcoder --help` is instant; nothing here ever imports torch.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from diffcoder_lsp.engine_client import EngineClient
    from model.schema import Limits

EXAMPLES = """\
examples:
  diffcoder fill app.py:120:5                   fill the gap at line 120, column 5
  diffcoder fill app.py --write                 fill each ‹?› in the file
  diffcoder edit app.py:10-24 "add type hints"  show the change as a diff
  diffcoder fill --stdin-json < gaps.jsonl      a JSON object a line in and out
"""
"""Shown under `diffcoder --help`."""

RULES = ("sequential", "confidence", "entropy_bound", "top_k")
VERIFY = ("ar", "none")
"""The values of `model.schema.Rule` and `Verify`, which would cost `--help` an import."""

MAX_THREADS = 1024

PROGRAMS = {
    "demo": ("diffcoder_lsp.demo", "fill a gap in a real module and edit another, in a temporary folder"),
    "train": ("training.cli", "make the models: corpus, training, what came of it"),
    "tune": ("training.tune", "learn a repository: an adapter for the model, and what it is worth"),
    "eval": ("evaluation.cli", "measure them: benchmarks, run here, in a sandbox"),
}
"""Commands with a parser of their own: the module whose `main(arguments)` they are, and what they are for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a poor locale must not end a command
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing more can be said, not even while the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + getattr(signal, "SIGPIPE", 13)
    except Exception as error:
        from model.schema import DiffcoderError

        if isinstance(error, DiffcoderError):
            return _fail(error.message)
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename is not None else ""
            return _fail(f"The system refused ({where}{error.strerror or error}).")
        if "DIFFCODER_DEBUG" in os.environ:
            raise
        return _fail(
            f"This is a bug in diffcoder ({type(error).__name__}: {error}): run the command again with "
            "DIFFCODER_DEBUG=1 and report what it prints."
        )


def _open_closed_streams() -> None:
    """Put the null device in the place of each standard stream that our starter had closed; Python has None there.

    In the order of their descriptors, of which the system gives the lowest free one: each gets its own number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _fail(message: str) -> int:
    print(f"diffcoder: {message}", file=sys.stderr)
    return 1


def _run(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in PROGRAMS:
        return _program(*arguments)
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _program(name: str, *arguments: str) -> int:
    """Run a command of another package. By name, so that the editor's side depends on none of them."""
    try:
        run = import_module(PROGRAMS[name][0]).main
    except ModuleNotFoundError as error:
        from model.schema import DiffcoderError

        raise DiffcoderError(
            "not_installed",
            f"`diffcoder {name}` needs the package {error.name}: install diffcoder again with pip.",
        ) from None
    return int(run(list(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="diffcoder",
        description="Fill gaps in code and edit it with a block-diffusion model on your own machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    fill = commands.add_parser("fill", help="write what is missing at a place in a file")
    fill.add_argument(
        "target",
        nargs="?",
        metavar="FILE[:LINE:COL]",
        help="where to write: line and column count from 1, in characters; without them at each ‹?› in FILE",
    )
    fill.add_argument("--rule", choices=RULES, help="what a forward commits (default: the model's own)")
    fill.add_argument(
        "--verify", choices=VERIFY, help="ar: what the base model would write, faster; none: pure diffusion"
    )
    fill.add_argument("--stop", action="append", metavar="TEXT", help="end before TEXT (may be repeated)")
    fill.add_argument("--single-line", action="store_true", help="end with the line")
    fill.add_argument(
        "--max-tokens", type=int, default=128, metavar="N", help="at most N tokens (%(default)s)"
    )
    _add_common(fill, "fill")
    fill.set_defaults(run=_fill, parser=fill)

    edit = commands.add_parser("edit", help="rewrite lines of a file as an instruction says")
    edit.add_argument("target", nargs="?", metavar="FILE:START-END", help="the lines to rewrite, from 1")
    edit.add_argument("instruction", nargs="?", help="what to do with them, in plain words")
    edit.add_argument(
        "--max-tokens", type=int, default=1024, metavar="N", help="at most N tokens (%(default)s)"
    )
    _add_common(edit, "edit")
    edit.set_defaults(run=_edit, parser=edit)

    engine = commands.add_parser("engine", help="start, stop and look at the process that runs the model")
    actions = engine.add_subparsers(title="actions", metavar="ACTION", required=True)
    start = actions.add_parser("start", help="start it unless it runs, and wait until it is ready")
    start.add_argument("--threads", type=_threads, metavar="N", help="use N processor threads")
    start.add_argument("--idle", type=_idle, metavar="SECONDS", help="end after so long without a request")
    start.set_defaults(run=_engine_start)
    stop = actions.add_parser("stop", help="let it finish what it is doing, then end it")
    stop.set_defaults(run=_engine_stop)
    report = actions.add_parser("status", help="what each engine of yours is doing")
    report.add_argument("--json", action="store_true", help="print a JSON array")
    report.set_defaults(run=_engine_status)
    logs = actions.add_parser("logs", help="the end of its log")
    logs.add_argument("-n", "--lines", type=int, default=100, metavar="N", help="N lines (%(default)s)")
    logs.set_defaults(run=_engine_logs)
    for action in (start, stop, logs):
        _add_model(action)

    model = commands.add_parser("model", help="fetch, list, check and remove models")
    actions = model.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, run, text in (
        ("pull", _model_pull, "fetch it, unless it is here; goes on where it was interrupted"),
        ("path", _model_path, "print where it lies"),
        ("verify", _model_verify, "check every byte of it"),
        ("remove", _model_remove, "delete it and all that was made of it"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument(
            "name", nargs="?" if name != "remove" else None, default="default", help="(%(default)s)"
        )
        action.set_defaults(run=run)
    listing = actions.add_parser("list", help="every model, and what of it is here")
    listing.add_argument("--json", action="store_true", help="print a JSON array")
    listing.set_defaults(run=_model_list)

    stats = commands.add_parser("stats", help="what became of suggestions and edits: shown, accepted, kept")
    stats.add_argument("--days", type=int, metavar="N", help="of the last N days only, today included")
    stats.add_argument("--json", action="store_true", help="print a JSON array")
    stats.set_defaults(run=_stats, parser=stats)

    lsp = commands.add_parser("lsp", help="the language server, which editors start")
    lsp.add_argument(
        "--model", metavar="NAME", help="a name of `diffcoder model list`, whatever the settings say"
    )
    lsp.add_argument(
        "--stdio", action="store_true", help="speak on standard input and output, as it always does"
    )
    lsp.set_defaults(run=_lsp)

    doctor = commands.add_parser("doctor", help="what works on this machine, and what to do about the rest")
    doctor.add_argument("--json", action="store_true", help="print a JSON array")
    _add_model(doctor)
    doctor.set_defaults(run=_doctor)

    for name, (_, text) in PROGRAMS.items():
        commands.add_parser(name, help=text)

    return parser


def _threads(text: str) -> int:
    """A number of threads that some machine has; the engine would fail on others, and name the model."""
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {MAX_THREADS}")
    return int(text)


def _idle(text: str) -> float:
    """Seconds above zero, `inf` too: an engine that never ends by itself."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:  # nor is nan
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="default", metavar="NAME", help="a name of `diffcoder model list` (%(default)s)"
    )


def _add_common(parser: argparse.ArgumentParser, verb: str) -> None:
    _add_model(parser)
    parser.add_argument("--write", action="store_true", help="change the file, not only show the change")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--stdin-json", action="store_true", help=f"{verb} what standard input says, one JSON object a line"
    )


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"diffcoder {version('diffcoder')}")
        parser.exit()


def _fill(options: argparse.Namespace) -> int:
    from model.schema import Limits

    limits = Limits(
        max_tokens=options.max_tokens,
        rule=options.rule,
        verify=options.verify,
        stop=tuple(options.stop or ()),
        single_line=options.single_line,
    )
    if options.stdin_json:
        from diffcoder_lsp.stdin_json import fill_lines

        return _answer_lines(options, fill_lines, limits)
    if options.target is None:
        options.parser.error("name a place as FILE:LINE:COL, or give --stdin-json")
    from diffcoder_lsp.commands import fill

    fill(options.target, limits, model=options.model, write=options.write, as_json=options.json)
    return 0


def _edit(options: argparse.Namespace) -> int:
    from model.schema import Limits

    limits = Limits(max_tokens=options.max_tokens)
    if options.stdin_json:
        from diffcoder_lsp.stdin_json import edit_lines

        return _answer_lines(options, edit_lines, limits)
    if options.instruction is None:
        options.parser.error("name lines as FILE:START-END and say what to do, or give --stdin-json")
    from diffcoder_lsp.commands import edit

    edit(
        options.target,
        options.instruction,
        limits,
        model=options.model,
        write=options.write,
        as_json=options.json,
    )
    return 0


def _answer_lines(options: argparse.Namespace, loop: Callable[..., None], limits: Limits) -> int:
    """Answer standard input line by line; each model that a line names has its own engine."""
    from diffcoder_lsp.engine_client import EngineClient

    if options.target is not None or options.write or options.json:
        options.parser.error("--stdin-json takes its texts from standard input and goes with no file")
    engines: dict[str, EngineClient] = {}

    def engine(name: str | None) -> EngineClient:
        name = options.model if name is None else name
        if name not in engines:
            engines[name] = EngineClient(name)
        return engines[name]

    def write(line: str) -> None:
        sys.stdout.buffer.write(line.encode("ascii"))
        sys.stdout.buffer.flush()

    try:
        loop(sys.stdin.buffer, write, engine, limits)
    finally:
        for client in engines.values():
            client.close()
    return 0


def _engine_start(options: argparse.Namespace) -> int:
    from diffcoder_lsp import engine_process
    from diffcoder_lsp.terminal import Screen

    screen = Screen()
    with screen.waiting():
        engine_process.ensure(
            options.model, threads=options.threads, idle_seconds=options.idle, on_progress=screen.progress
        )
    return _engine_status(options)


def _engine_stop(options: argparse.Namespace) -> int:
    from diffcoder_lsp import engine_process

    stopped = engine_process.stop(options.model)
    print(
        f"the engine of {options.model} has ended" if stopped else f"no engine of {options.model} is running"
    )
    return 0


def _engine_status(options: argparse.Namespace) -> int:
    from diffcoder_lsp import engine_process
    from diffcoder_lsp.terminal import Screen

    engines = engine_process.status()
    if getattr(options, "json", False):
        import msgspec

        print(msgspec.json.encode(engines).decode("ascii"))
    else:
        Screen().engines(engines)
    return 0


def _engine_logs(options: argparse.Namespace) -> int:
    from diffcoder_lsp import engine_process

    print(engine_process.logs(options.model, options.lines))
    return 0


def _model_pull(options: argparse.Namespace) -> int:
    from diffcoder_lsp.terminal import Screen
    from model import registry, store

    screen = Screen()
    interrupted = False

    def interrupt(*_: object) -> None:
        """The first one lets the pull end in order; the parts that are here stay for the next."""
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, interrupt)
    with screen.transfer(f"pulling {options.name}", registry.find(options.name).bytes) as progress:
        path = store.pull(options.name, progress, lambda: interrupted)
    print(f"{options.name} is ready: {path}")
    return 0


def _model_list(options: argparse.Namespace) -> int:
    from model import store

    models = store.models()
    if options.json:
        import msgspec

        print(msgspec.json.encode(models).decode())
        return 0
    width = max(len(model.name) for model in models)
    for model in models:
        size = f"{model.bytes / 1e9:.1f} GB" if model.bytes else ""
        print(f"{model.name:{width}}  {model.state:7}  {size:>7}  {model.title}")
    return 0


def _model_path(options: argparse.Namespace) -> int:
    from model import store

    print(store.model_path(options.name))
    return 0


def _model_verify(options: argparse.Namespace) -> int:
    from model import store

    print(f"{options.name} is as it should be: {store.verify(options.name)}")
    return 0


def _model_remove(options: argparse.Namespace) -> int:
    from model import store

    print(f"{options.name} is removed, {store.remove(options.name) / 1e6:,.0f} MB are free again")
    return 0


def _stats(options: argparse.Namespace) -> int:
    from diffcoder_lsp import statistics
    from diffcoder_lsp.terminal import Screen

    if options.days is not None and not 1 <= options.days <= 36500:
        options.parser.error("--days is a number of days from 1 on")
    rows = statistics.tallies(options.days)
    if options.json:
        import msgspec

        print(msgspec.json.encode(rows).decode("ascii"))
    else:
        Screen().statistics(rows)
    return 0


def _lsp(options: argparse.Namespace) -> int:
    from diffcoder_lsp.server import main as serve

    return serve(options.model)


def _doctor(options: argparse.Namespace) -> int:
    from diffcoder_lsp.doctor import checks
    from diffcoder_lsp.terminal import Screen

    screen = Screen()
    found = []
    try:
        for check in checks(options.model):
            found.append(check)
            if not options.json:
                screen.check(check.state, check.name, check.detail, check.advice)
    finally:  # one that fails as none should still leaves those before it
        if options.json:
            import msgspec

            print(msgspec.json.encode(found).decode())
    return int(any(check.state == "problem" for check in found))


if __name__ == "__main__":
    sys.exit(main())
