"""`make demo`: one gap and one edit in real modules of this Python, with the model's answers as they come.

Works in a temporary folder on copies. What the model wrote is compared with what stood there and run, in the
sandbox of `evaluation`, against the original; the verdict is printed whatever it is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from diffcoder_lsp.commands import edit, fill
from diffcoder_lsp.gaps import position_of
from diffcoder_lsp.terminal import Screen
from model.schema import DiffcoderError, Limits


@dataclass(frozen=True)
class Cut:
    """`text` is cut out of a module; `check` is a program that tries the filled module as `new`."""

    module: str
    text: str
    check: str


@dataclass(frozen=True)
class Wish:
    """A function of a module, what to do with it, and a program that tries `new` beside `old`."""

    module: str
    first: str
    last: str
    instruction: str
    check: str


CUT = Cut(
    module="calendar",
    text="year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
    check="""\
import new, datetime
right = sum(
    new.isleap(year) == ((datetime.date(year + 1, 1, 1) - datetime.date(year, 1, 1)).days == 366)
    for year in range(1, 3001)
)
print(f"isleap of the filled module is right for {right:,} of 3,000 years")
""",
)

WISH = Wish(
    module="shlex",
    first="def join(",
    last="    return ",
    instruction="Join the words with a comma and a space.",
    check="""\
import new, old
words = ["ls", "-l", "my file"]
print(f"join({words!r}) is {new.join(words)!r}, was {old.join(words)!r}")
""",
)


def main(arguments: Sequence[str] = ()) -> int:
    """Show both; the exit status is 0 whatever the model wrote, 1 when it could not be asked."""
    if arguments:
        print("usage: diffcoder demo", file=sys.stderr)
        return 2
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="diffcoder-") as folder, contextlib.chdir(folder):
        show_gap(screen, CUT)
        print()
        show_edit(screen, WISH)
    return 0


def show_gap(screen: Screen, cut: Cut) -> None:
    """Cut a gap into a copy of the module, fill it, compare."""
    path, old = _copy(cut.module)
    before, found, after = old.partition(cut.text)
    assert found, f"{path} of Python {platform.python_version()} is another one than this demo knows"
    path.write_text(before + after, encoding="utf-8")
    line, column = position_of(before, len(before))
    screen.title(f"A gap in {path}, from the standard library of Python {platform.python_version()}")
    screen.note("This is cut out:")
    print(cut.text)
    screen.note(f"$ diffcoder fill {path}:{line}:{column}")
    new = fill(f"{path}:{line}:{column}", Limits())
    filled = new[len(before) : len(new) - len(after)]
    if filled == cut.text:
        screen.note("the very text that was cut out")
    elif filled.strip() == cut.text.strip():
        screen.note("the text that was cut out, but for white space at its ends")
    else:
        screen.note("not the text that was cut out")
    screen.note(_run(cut.check, old, new))


def show_edit(screen: Screen, wish: Wish) -> None:
    """Have one function of a copy of the module rewritten."""
    path, old = _copy(wish.module)
    lines = old.split("\n")
    start = next(index for index, line in enumerate(lines, 1) if line.startswith(wish.first))
    end = next(index for index, line in enumerate(lines, 1) if index > start and line.startswith(wish.last))
    screen.title(f"An edit of lines {start} to {end} in {path}")
    screen.note(f'$ diffcoder edit {path}:{start}-{end} "{wish.instruction}"')
    new = edit(f"{path}:{start}-{end}", wish.instruction, Limits(max_tokens=512))
    screen.note(_run(wish.check, old, new))


def _copy(module: str) -> tuple[Path, str]:
    """A copy of the module's source in the current folder, and its text."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    path = Path(f"{module}.py")
    path.write_text(text, encoding="utf-8")
    return path, text


def _run(check: str, old: str, new: str) -> str:
    """What `check` prints of the modules `old` and `new`, or why it does not."""
    sandbox = import_module("evaluation.sandbox")  # by name: the editor's side depends on no other package
    files = {"old.py": old, "new.py": new, "check.py": check}
    try:
        outcome = sandbox.Sandbox.find().run(
            [os.path.realpath(sys.executable), "check.py"], files, sandbox.Limits()
        )
    except DiffcoderError as error:
        return f"not run: {error.message}"
    if outcome.ok:
        return outcome.stdout.decode(errors="replace").rstrip()
    last = outcome.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"it does not run: {last or outcome.describe()}"


if __name__ == "__main__":
    from diffcoder_lsp.cli import main as command

    sys.exit(command(["demo"]))
