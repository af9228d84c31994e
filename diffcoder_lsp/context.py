"""What of the user's other files may help, and what may never enter a prompt: ignored files, secrets.

Excerpts are outlines (the lines that declare something) of other open files, in an order that stays the same
while the user types, so that the engine's cached prefix stays good. Reads ignore files; knows no model.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath

from diffcoder_lsp.documents import Document
from diffcoder_lsp.lines import content
from model.schema import Snippet

IGNORE_FILES = (".gitignore", ".ignore", ".diffcoderignore")
CHARS_A_TOKEN = 3.2
_SECRET_FILE = re.compile(
    r"\.env(\..*)?|.*\.env|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|asc|gpg|ppk|tfvars|tfstate)|id_(rsa|dsa|ecdsa|ed25519)"
    r"|\.(netrc|npmrc|pypirc|pgpass|git-credentials|htpasswd|dockercfg)|_netrc|credentials(\..*)?|secrets?(\.[^.]*)?"
    r"|.*service[-_]?account.*\.json",
    re.IGNORECASE,
)
_SECRET_FOLDERS = frozenset({".ssh", ".gnupg", ".aws", ".azure", ".kube", ".password-store"})
_SECRET_VALUE = re.compile(
    r"""
    (?P<known>
        \bAKIA[0-9A-Z]{16}\b | \bASIA[0-9A-Z]{16}\b
      | \bgh[pousr]_[A-Za-z0-9]{30,} | \bgithub_pat_[A-Za-z0-9_]{40,} | \bglpat-[A-Za-z0-9_-]{20,}
      | \bsk-[A-Za-z0-9_-]{20,} | \bxox[abprs]-[A-Za-z0-9-]{10,} | \bAIza[A-Za-z0-9_-]{35}
      | \bhf_[A-Za-z0-9]{30,} | \bnpm_[A-Za-z0-9]{30,} | \bpypi-[A-Za-z0-9_-]{40,}
      | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}
    )
  | (?<=://) [^\s/:@'"]* : (?P<url>[^\s/@'"]{3,}) (?=@)
  | (?i:password|passwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential)s?
    [\w-]* ["']? \s* (?:=|:|=>)\s* ["'] (?P<named>[^"'\s]{8,}) ["']
  | ^ (?P<block>[A-Za-z0-9+/=]{60,}) \s* $
    """,
    re.VERBOSE | re.MULTILINE,
)
_DECLARES = re.compile(
    r"\s*(?:export\s+|pub(?:\([^)]*\))?\s+|public\s+|private\s+|protected\s+|static\s+|async\s+|abstract\s+|final\s+|default\s+)*"
    r"(?:def|class|fn|func|fun|function|interface|struct|enum|trait|impl|type|protocol|module|const|object|record)\b.*"
)


class Secrets:
    """Takes secret-looking values out of text that goes to the model and puts them back into its answer."""

    def __init__(self) -> None:
        self._placeholders: dict[str, str] = {}

    def hide(self, text: str) -> str:
        """`text` with each such value replaced by a name; the same value always gets the same one."""
        # By paragraphs: all but one stay the same from key to key, and searching all takes longer than a key may.
        return "\n\n".join(
            _SECRET_VALUE.sub(self._hidden, part) if _holds_secret(part) else part
            for part in text.split("\n\n")
        )

    def reveal(self, text: str) -> str:
        for value, name in self._placeholders.items():
            text = text.replace(name, value)
        return text

    def _hidden(self, match: re.Match[str]) -> str:
        group = next(name for name, value in match.groupdict().items() if value is not None)
        value, (start, end) = match[group], match.span(group)
        name = self._placeholders.setdefault(value, f"HIDDEN_SECRET_{len(self._placeholders) + 1}")
        return match.string[match.start() : start] + name + match.string[end : match.end()]


@functools.lru_cache(maxsize=8192)
def _holds_secret(paragraph: str) -> bool:
    return bool(_SECRET_VALUE.search(paragraph))


@functools.lru_cache(maxsize=256)
def is_secret(path: str) -> bool:
    """Whether a file's name says that it holds secrets."""
    pure = PurePath(path)
    return bool(_SECRET_FILE.fullmatch(pure.name)) or not _SECRET_FOLDERS.isdisjoint(pure.parts)


class Ignored:
    """Whether files are left alone: those of ignore files (git's rules) and those that look secret. Ignore files count
    from the workspace's folder down, or from the repository's where that holds it. They are read again when they change.
    """

    def __init__(self, folders: Iterable[str | Path] = ()):
        self._folders = [Path(os.path.abspath(folder)) for folder in folders]
        self._specs: dict[Path, tuple[int, object]] = {}
        self._roots: dict[Path, Path | None] = {}

    def __contains__(self, path: str) -> bool:
        return is_secret(path) or self._by_rule(Path(os.path.abspath(path)))

    def _by_rule(self, path: Path) -> bool:
        """The deepest ignore file that says anything decides; a folder that is ignored takes all below it along."""
        root = self._root(path.parent)
        if root is None:
            return False
        parts = path.relative_to(root).parts
        for depth in range(1, len(parts) + 1):
            verdict = None
            target = "/".join(parts[:depth]) + ("/" if depth < len(parts) else "")
            for start in range(depth):
                folder = root.joinpath(*parts[:start])
                relative = "/".join(parts[start:depth]) + ("/" if target.endswith("/") else "")
                for name in IGNORE_FILES:
                    found = self._verdict(folder / name, relative)
                    verdict = found if found is not None else verdict
            if verdict:
                return True
        return False

    def _root(self, folder: Path) -> Path | None:
        """Where rules for the files of a folder begin; None where it is in no workspace and no repository."""
        if folder not in self._roots:
            above = [folder, *folder.parents]
            repository = next((each for each in above if (each / ".git").exists()), None)
            known = [each for each in above if each in self._folders or each == repository]
            self._roots[folder] = known[-1] if known else None
        return self._roots[folder]

    def _verdict(self, file: Path, relative: str) -> bool | None:
        try:
            changed = file.stat().st_mtime_ns
        except OSError:
            return None
        import pathspec

        known = self._specs.get(file)
        if known is None or known[0] != changed:
            try:
                lines = file.read_text("utf-8", "replace").splitlines()
                spec = pathspec.GitIgnoreSpec.from_lines(lines)
            except (OSError, ValueError):
                return None
            known = self._specs[file] = (changed, spec)
        found = known[1]
        assert isinstance(found, pathspec.GitIgnoreSpec)
        return found.check_file(relative).include


def outline(document: Document, chars: int) -> str:
    """The lines of a document that declare something, the first `chars` characters of them."""
    chosen: list[str] = []
    for line in document.lines[:20000]:
        text = content(line).rstrip()
        if len(text) < 200 and _DECLARES.match(text):
            chars -= len(text) + 1
            if chars < 0:
                break
            chosen.append(text)
    return "\n".join(chosen)


def snippets(
    document: Document, others: Iterable[Document], ignored: Ignored, tokens: int
) -> tuple[Snippet, ...]:
    """Outlines of `others` for a prompt about `document`, those in its language first, within `tokens`."""
    room = int(tokens * CHARS_A_TOKEN)
    ordered = sorted(others, key=lambda other: other.language != document.language)
    allowed = (other for other in ordered if other.path not in ignored)
    result = []
    for other in itertools.islice(allowed, 8):
        name = os.path.basename(other.path)
        text = Secrets().hide(outline(other, min(room - len(name), int(tokens * CHARS_A_TOKEN) // 2)))
        if text:
            result.append(Snippet(name, text))
            room -= len(text) + len(name) + 2
        if room < 40:
            break
    return tuple(result)
