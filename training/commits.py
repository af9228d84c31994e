"""Edits out of a repository's history: a commit's message is the instruction, a hunk's lines before and after the truth.

Kept are small commits by people whose message says what was done to one or a few source files; merges, releases, bots,
generated files and changes of white space alone are not. Reads through `git log` and `git cat-file`; changes nothing.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model.schema import DiffcoderError
from training.corpus import BENCHMARK, LANGUAGES, unlearnable
from training.edits import Edit
from training.scrubbing import scrub

NO_HISTORY = "it has no git history"
_NO_REPOSITORY = "not a git repository (or any"  # where one is named that is broken, a `:` follows
MOST_COMMITS = 4000  # that are looked at, newest first
MOST_FILES, MOST_HUNKS, MOST_LINES = 3, 4, 40
_GONE = "generated, binary or gone"
_CONTEXT = 2  # unchanged lines around a change, which the selection takes in
_DULL = re.compile(
    r"(?i)^(merge|revert|bump|release|version|wip\b|fixup|squash|update (dep|lock|changelog|readme|version)|chore|ci\b"
    r"|build\(|docs?\b|typo|v?\d+\.\d+)|\[(bot|skip ci)|pre-commit|changelog"
)
_CONVENTION = re.compile(r"^(\w+)(\([^)]*\))?!?:\s+")
_NUMBER = re.compile(r"\s*\(?#\d+\)?")
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True)
class _Hunk:
    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]


def obstacle(folder: Path) -> str | None:
    """Why no history can be read here, in git's words where it refuses; NO_HISTORY where there is none, or no commit.
    None where there is one."""
    try:
        asked = _git(folder, "rev-parse", "--verify", "-q", "HEAD")
    except OSError as error:
        return f"git cannot be run ({error.strerror}): install it"
    if asked.returncode == 0:
        return None
    said = asked.stderr.decode("utf-8", "replace").partition("\n")[0].removeprefix("fatal: ")
    if not said or said.startswith(_NO_REPOSITORY):
        return NO_HISTORY
    return f"git refuses ({said}); `git log` there says more"


def require_history(repository: Path) -> None:
    """Refuse a folder whose history cannot be read, with the reason.

    Raises DiffcoderError: "no_folder", "no_history".
    """
    if not repository.is_dir():
        raise DiffcoderError("no_folder", f"{repository} is no folder: name a repository.")
    reason = obstacle(repository)
    if reason is not None:
        raise DiffcoderError("no_history", f"No edits can be read from {repository}: {reason}.")


def edits(
    repository: Path,
    keep: Callable[[str], bool],
    contaminated: Callable[[str], bool],
    left_out: Counter[str],
    most: int = MOST_COMMITS,
) -> Iterator[Edit]:
    """Edits in files whose path `keep` accepts, newest first. `contaminated` says whether a text stands in a benchmark.
    `left_out` counts commits and hunks by reason."""
    require_history(repository)
    seen: set[tuple[str, ...]] = set()
    log = _git(
        repository,
        *(
            "log",
            "--no-merges",
            f"-n{most}",
            "--no-renames",
            "--no-ext-diff",
            "--no-textconv",
            "--no-color",
            "--diff-filter=M",
            "--inter-hunk-context=0",
        ),
        *("--relative", f"-U{_CONTEXT}", "-p", "--format=%x01%H%x00%an%x00%s", "--"),
        *(f"*{suffix}" for suffix in LANGUAGES),
    )
    with subprocess.Popen(
        [*_COMMAND, "-C", str(repository), "cat-file", "--batch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
    ) as blobs:
        prefix = _git(repository, "rev-parse", "--show-prefix").stdout.removesuffix(b"\n")
        for entry in _ENTRY.split(log.stdout.decode("utf-8", "replace"))[1:]:
            head, _, diff = entry.partition("\n")
            commit, author, subject = head.split("\0", 2)
            instruction = _instruction(subject)
            files = _files(diff)
            if instruction is None or scrub(instruction)[1] or "[bot]" in author:
                left_out["commit: its message gives no instruction"] += 1
                continue
            if len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_HUNKS:
                left_out["commit: too large"] += 1
                continue
            for path, hunks in files.items():
                if not keep(path):
                    left_out["file: held out or not learnt from"] += len(hunks)
                    continue
                before = _blob(blobs, f"{commit}^:".encode() + prefix + path.encode())
                if before is None:
                    left_out[f"hunk: {_GONE}"] += len(hunks)
                    continue
                unwanted = _unwanted_file(before, contaminated)
                for hunk in hunks:
                    reason = unwanted or _unwanted(hunk, before, seen)
                    if reason is None and contaminated("\n".join(hunk.new)):
                        reason = BENCHMARK
                    if reason is not None:
                        left_out[f"hunk: {reason}"] += 1
                        continue
                    seen.add(hunk.new)
                    yield Edit(
                        path,
                        LANGUAGES[PurePosixPath(path).suffix],
                        before,
                        hunk.start,
                        hunk.start + len(hunk.old) - 1,
                        instruction,
                        "\n".join(hunk.new) + "\n",
                        f"commit {commit[:12]}",
                    )


def _unwanted_file(before: str, contaminated: Callable[[str], bool]) -> str | None:
    """Why nothing of a file is shown: all of it may stand in a prompt."""
    if unlearnable(before) is not None:
        return _GONE
    if scrub(before)[1]:
        return "a secret"
    return BENCHMARK if contaminated(before) else None


def _unwanted(hunk: _Hunk, before: str, seen: set[tuple[str, ...]]) -> str | None:
    if before.split("\n")[hunk.start - 1 : hunk.start - 1 + len(hunk.old)] != list(hunk.old):
        return "does not fit its file"
    if max(len(hunk.old), len(hunk.new)) > MOST_LINES or not hunk.old:
        return "too large"
    if ["".join(line.split()) for line in hunk.old] == ["".join(line.split()) for line in hunk.new]:
        return "white space alone"
    if hunk.new in seen:
        return "seen before"
    return "a secret" if scrub("\n".join(hunk.new))[1] else None


def _instruction(subject: str) -> str | None:
    """A commit's first line as a sentence, or None where it says nothing that could be done."""
    subject = _NUMBER.sub("", subject).strip()
    if _DULL.search(subject):
        return None
    subject = _CONVENTION.sub("", subject)
    words = len(subject.split())
    return subject[:1].upper() + subject[1:] if 3 <= words <= 24 and subject.isprintable() else None


def _files(diff: str) -> dict[str, list[_Hunk]]:
    """The hunks of each file of a diff."""
    found: dict[str, list[_Hunk]] = {}
    path = None
    lines = iter(diff.split("\n"))
    for line in lines:
        if line.startswith("+++ "):  # a name in quotes (with one in it, or a control character) is left out
            path = line[6:].removesuffix("\t") if line.startswith("+++ b/") else None  # a tab: it has a space
        elif path is not None and (head := _HUNK.match(line)):
            left = [int(head[2] or 1), int(head[4] or 1)]
            old, new = [], []
            while left[0] or left[1]:
                line = next(lines, "")
                if not line:
                    break  # even an empty line of a file has a mark before it
                text = line[1:].removesuffix("\r")
                if line[:1] in " -":
                    old.append(text)
                    left[0] -= 1
                if line[:1] in " +":
                    new.append(text)
                    left[1] -= 1
            found.setdefault(path, []).append(_Hunk(int(head[1]), tuple(old), tuple(new)))
    return found


_ENTRY = re.compile(r"(?m)^\x01")
# Whatever a repository's own settings ask for, nothing of it is run, nothing is fetched, and diffs look as we read them.
_SETTINGS = {
    "core.fsmonitor": "",
    "core.quotePath": "false",
    "log.showSignature": "false",
    "protocol.allow": "never",
    "diff.noprefix": "false",
    "diff.mnemonicPrefix": "false",
    "diff.suppressBlankEmpty": "false",
}
_COMMAND = (
    "git",
    "--no-pager",
    *(part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")),
)


# What has git read another repository than the one that is named, where we run below git, as in a hook: the namespace
# and those of `git rev-parse --local-env-vars`, but for the settings, one of which may be the user's safe.directory.
_ANOTHER = re.compile(
    r"GIT_(ALTERNATE_OBJECT_DIRECTORIES|COMMON_DIR|CONFIG|DIR|GRAFT_FILE|IMPLICIT_WORK_TREE|INDEX_FILE"
    r"|INTERNAL_SUPER_PREFIX|NAMESPACE|NO_REPLACE_OBJECTS|OBJECT_DIRECTORY|PREFIX|REPLACE_REF_BASE|SHALLOW_FILE"
    r"|WORK_TREE)"
)
_OURS = {
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "LC_ALL": "C",  # what git says is compared, and shown beside our own words
}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not _ANOTHER.fullmatch(name)} | _OURS


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*_COMMAND, "-C", str(folder), *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
        env=_environment(),
    )


def _blob(blobs: subprocess.Popen[bytes], name: bytes) -> str | None:
    """A file's text; `name` in bytes, for a folder's need be no UTF-8."""
    assert blobs.stdin is not None
    assert blobs.stdout is not None
    if b"\n" in name:  # that would be two questions
        return None
    blobs.stdin.write(name + b"\n")
    blobs.stdin.flush()
    head = blobs.stdout.readline().split()
    if len(head) < 3 or head[1] != b"blob":
        return None
    data = blobs.stdout.read(int(head[2]) + 1)[:-1]
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
