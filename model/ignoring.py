"""Which paths ignore files leave out, by git's rules: for what may be learnt from and for what may enter a prompt.

The rules of a folder stand in its `.gitignore`, `.ignore` and `.diffcoderignore` and, where a repository begins, in the
`info/exclude` of its git folder and in what the user's git ignores everywhere (`core.excludesFile`), which counts least.
Git is run for one thing, once: to ask where that file is. Not read: a `core.excludesFile` that a repository sets itself.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

NAMES = (".gitignore", ".ignore", ".diffcoderignore")
_BOM = b"\xef\xbb\xbf"
_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": r" \t",
    "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\r",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}
_UP_TO_TRAILING_SPACES = re.compile(r"(?:\\.?|[^\\ ]| ++(?!\Z))*+", re.DOTALL)
_ITEM = r"(?>\[:[^]]*:]|\\.|[^]\\])"  # of a set: a class, or a character; a `]` that comes first is one, too
_ESCAPE_OR_SET = re.compile(rf"\\.|\s\Z|\[(?P<not>[!^]?+)(?P<items>(?>]|{_ITEM}){_ITEM}*+)]", re.DOTALL)
_CLASS_OR_RANGE = re.compile(r"\[:(?P<name>[^]]*):]|(?P<low>\\.|.)(?:-(?P<high>\\.|.))?", re.DOTALL)
_STANDS_FOR_A_SET = "\0"  # no name holds it


class Rules:
    """What ignore files say, given as their texts, the weightiest last."""

    def __init__(self, texts: Iterable[bytes]):
        lines = [line for text in texts for line in _lines(text)]
        self._patterns = [found for line in reversed(lines) if (found := _pattern(line)) is not None]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def verdict(self, name: str, is_folder: bool) -> bool | None:
        """Whether a name relative to the rules' folder is ignored or expressly is not; None where nothing is said of it.
        What is said of the folders in the name does not count here."""
        name = _as_bytes(name)
        for matches, folders_only, ignores in self._patterns:
            if (is_folder or not folders_only) and matches(name):
                return ignores
        return None


def files(folder: Path) -> list[Path]:
    """Where rules of a folder may stand, there or not, the weightiest last."""
    own = [folder / name for name in NAMES]
    if not (folder / ".git").exists():
        return own
    return [everywhere(), _git_folder(folder) / "info" / "exclude", *own]


@functools.cache
def everywhere() -> Path:
    """The file of what this user's git ignores in every repository, there or not. Looked up once in a process: git's
    settings include one another and name folders in ways of their own, so git is asked, away from any repository."""
    ask = ["git", "config", "--type=path", "--get", "core.excludesFile"]
    try:
        done = subprocess.run(
            ask,
            cwd=os.path.abspath(os.sep),
            env={name: value for name, value in os.environ.items() if name != "GIT_DIR"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=5,
            check=True,
        )
        return Path(os.fsdecode(done.stdout.removesuffix(b"\n")))
    except (OSError, subprocess.SubprocessError):  # no git, or nothing set
        settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        return Path(settings, "git", "ignore")


def read(paths: Iterable[Path]) -> Rules:
    """The rules that stand in files, as far as these can be read."""
    return Rules(map(_content, paths))


def repository(folder: Path) -> Path | None:
    """The folder, at or above an absolute one, where a repository begins."""
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def ignored(path: Path, is_folder: bool, root: Path, rules: Callable[[Path], Rules | None]) -> bool:
    """Whether the rules of the folders from `root` down to the path leave it out; the deepest that say anything decide.
    An ignored folder takes all below it along: whoever asks of a path has asked of the folders above it."""
    for folder in path.parents:
        if found := rules(folder):
            verdict = found.verdict(path.relative_to(folder).as_posix(), is_folder)
            if verdict is not None:
                return verdict
        if folder == root:
            break
    return False


def _git_folder(folder: Path) -> Path:
    """Where what all worktrees share lies. In a worktree and in a submodule, `.git` is a file that names a folder."""
    git = folder / ".git"
    if git.is_file():
        git = folder / os.fsdecode(_content(git).removeprefix(b"gitdir:").strip())
    return git / os.fsdecode(_content(git / "commondir").strip())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return b""


def _lines(text: bytes) -> list[str]:
    lines = text.removeprefix(_BOM).decode("latin-1").split("\n")
    return [line.removesuffix("\r").partition("\0")[0] for line in lines]


def _as_bytes(name: str) -> str:
    """Git compares bytes (`?` is one of é's two); here each is a character."""
    return os.fsencode(name).decode("latin-1")


def _pattern(line: str) -> tuple[Callable[[str], object], bool, bool] | None:
    """What a line matches, whether only folders, and whether it ignores them; None for a line that git passes over.

    Pathspec understands all but sets (classes, escapes in them, and that none matches a slash), which are kept from it.
    """
    from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern  # here: the editor waits for our start

    sets: list[str] = []

    def kept(match: re.Match[str]) -> str:
        if match[0].startswith("\\"):
            return match[0] if match[0] != r"\/" else "/"
        sets.append(_set(match["items"], bool(match["not"])) if match["items"] else re.escape(match[0]))
        return _STANDS_FOR_A_SET

    trimmed = _UP_TO_TRAILING_SPACES.match(line)
    assert trimmed is not None
    text = trimmed[0].removesuffix("/")
    try:
        regex, ignores = GitIgnoreSpecPattern.pattern_to_regex(_ESCAPE_OR_SET.sub(kept, text))
    except (ValueError, KeyError):  # `!`, a backslash at the end, a class that does not exist
        return None
    if regex is None or ignores is None:
        return None
    whole = re.compile(re.sub(_STANDS_FOR_A_SET, lambda _: sets.pop(0), regex), re.DOTALL)
    # Pathspec's regex has a group where the name may end and what lies below the folder of that name may begin. What
    # has none ends in `**` or is `*`, and matches by its beginning.
    return (whole.fullmatch if whole.groups else whole.search), text != trimmed[0], ignores


def _set(items: str, negated: bool) -> str:
    """What stands between brackets, as a regular expression of one character."""
    choices = []
    for item in _CLASS_OR_RANGE.finditer(items):
        if item["name"] is not None:
            choices.append(f"[{_CLASSES[item['name']]}]")
            continue
        low = item["low"][-1]
        high = (item["high"] or low)[-1]
        choices.append(f"[{re.escape(low)}-{re.escape(high)}]" if low <= high else re.escape(low))
    return f"(?{'!' if negated else '='}{'|'.join(choices)})[^/]"
