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
from model import ignoring, secrets
from model.schema import Snippet

CHARS_A_TOKEN = 3.2
_SECRET_FILE = re.compile(
    r"\.env(\..*)?|.*\.env|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|asc|gpg|ppk|tfvars|tfstate)|id_(rsa|dsa|ecdsa|ed25519)"
    r"|\.(netrc|npmrc|pypirc|pgpass|git-credentials|htpasswd|dockercfg)|_netrc|credentials(\..*)?|secrets?(\.[^.]*)?"
    r"|.*service[-_]?account.*\.json",
    re.IGNORECASE,
)
_SECRET_FOLDERS = frozenset({".ssh", ".gnupg", ".aws", ".azure", ".kube", ".password-store"})
_SECRET_VALUE = re.compile(
    rf"(?P<known>{secrets.KNOWN})"
    r"|(?<=://)[^\s/:@'\"]*:(?P<url>[^\s/@'\"]{3,})(?=@)"
    rf"|(?i:{secrets.NAMES}{secrets.DECLARED})(?:"
    r"\s*+(?:=>?|:=?)\s*+b?['\"](?P<named>[^'\"\s]{8,})['\"]"
    # What a call is given or what is compared may well be a word or a path; a word has no digit.
    r"|\s*+(?:[({,]|===?)\s*+['\"](?!\.{0,2}/)(?=[^'\"\s\d]*\d)(?P<given>[^'\"\s]{8,})['\"]"
    rf"|=(?=[^=;&'\"\s\d]*\d)(?P<field>{secrets.FIELD}))"
    r"|^(?P<block>[A-Za-z0-9+/=]{60,})\s*$",
    re.MULTILINE,
)
_PRIVATE_KEY = re.compile(secrets.PRIVATE_KEY)
# No word of a key's first and last line is as long. However little stands beside a cursor is at an end of the text.
_KEY_TEXT = re.compile(r"[A-Za-z0-9+/=]{10,}|\A[A-Za-z0-9+/=]+|[A-Za-z0-9+/=]+\Z")
_NEAR = 2000  # characters of a line on each side of a cursor: some are longer than a key's time allows to search twice
_QUOTE_OR_BLANK = re.compile(r"['\"\s]")
_DECLARES = re.compile(
    r"\s*(?:export\s+|pub(?:\([^)]*\))?\s+|public\s+|private\s+|protected\s+|static\s+|async\s+|abstract\s+|final\s+|default\s+)*"
    r"(?:def|class|fn|func|fun|function|interface|struct|enum|trait|impl|type|protocol|module|const|object|record)\b.*"
)


class Secrets:
    """Takes secret-looking values out of text that goes to the model and puts them back into its answer."""

    def __init__(self) -> None:
        self._placeholders: dict[str, str] = {}

    def hide(self, text: str) -> str:
        """`text` with each such value replaced by a name; the same value always gets the same one. Lines stay lines."""
        if "PRIVATE KEY" in text:  # the whole text's, for a key may have blank lines in it
            text = _PRIVATE_KEY.sub(lambda key: self._hide_key(key[0]), text)
        # By paragraphs: all but one stay the same from key to key, and searching all takes longer than a key may.
        blank = "\r\n\r\n" if "\r" in text and "\r\n\r\n" in text else "\n\n"
        return blank.join(
            _SECRET_VALUE.sub(self._hidden, part) if _holds_secret(part) else part
            for part in text.split(blank)
        )

    def hide_around(self, prefix: str, suffix: str) -> tuple[str, str]:
        """`hide` for the text on each side of a cursor. Of a value that the cursor stands in, either side's part gets a
        name of its own, so that an answer between them can be revealed."""
        prefix, suffix = self._hide_key_at(prefix, suffix)
        before, after = _parts_at(prefix, suffix)
        prefix = self.hide(prefix[: len(prefix) - len(before)]) + (before and self._name(before))
        return prefix, (after and self._name(after)) + self.hide(suffix[len(after) :])

    def _hide_key_at(self, prefix: str, suffix: str) -> tuple[str, str]:
        """A private key that the cursor stands in has only one of its ends on either side, and is hidden as a whole."""
        at, text = len(prefix), prefix + suffix
        for key in _PRIVATE_KEY.finditer(text) if "PRIVATE KEY" in text else ():
            start, end = key.span()
            if start < at < end:
                before, after = self._hide_key(text[start:at]), self._hide_key(text[at:end])
                return text[:start] + before, after + text[end:]
        return prefix, suffix

    def _hide_key(self, text: str) -> str:
        return _KEY_TEXT.sub(lambda part: self._name(part[0]), text)

    def reveal(self, text: str) -> str:
        for value, name in reversed(self._placeholders.items()):  # the first one's name begins the tenth's
            text = text.replace(name, value)
        return text

    def _name(self, value: str) -> str:
        return self._placeholders.setdefault(value, f"HIDDEN_SECRET_{len(self._placeholders) + 1}")

    def _hidden(self, match: re.Match[str]) -> str:
        group = _group(match)
        start, end = match.span(group)
        return (
            match.string[match.start() : start] + self._name(match[group]) + match.string[end : match.end()]
        )


def _group(match: re.Match[str]) -> str:
    """Which kind of value a match of `_SECRET_VALUE` is."""
    return next(name for name, value in match.groupdict().items() if value is not None)


def _parts_at(prefix: str, suffix: str) -> tuple[str, str]:
    """What the sides of a cursor hold of the secret-looking value on its line that it stands in or touches. One whose
    quote has not been closed yet counts as one: a password is hidden while it is typed."""
    before = prefix[max(prefix.rfind("\n"), prefix.rfind("\r")) + 1 :][-_NEAR:]
    after = suffix[:_NEAR].partition("\n")[0].partition("\r")[0]
    closed = before + _QUOTE_OR_BLANK.split(after, 1)[0].rstrip(",;)]}") + '"'
    at = len(before)
    for line, kinds in ((before + after, _SECRET_VALUE.groupindex), (closed, ("named", "given"))):
        for match in _SECRET_VALUE.finditer(line):
            start, end = match.span(_group(match))
            if start <= at <= end and _group(match) in kinds:
                return line[start:at], line[at:end]
    return "", ""


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
        self._rules: dict[Path, tuple[list[tuple[int, int] | None], ignoring.Rules]] = {}
        self._roots: dict[Path, Path | None] = {}

    def __contains__(self, path: str) -> bool:
        return is_secret(path) or self._by_rule(Path(os.path.abspath(path)))

    def _by_rule(self, path: Path) -> bool:
        root = self._root(path.parent)
        if root is None:
            return False
        rules = functools.cache(self._rules_of)  # what changes meanwhile is seen the next time
        inside = [path, *path.parents][: len(path.relative_to(root).parts)]
        return any(ignoring.ignored(each, each != path, root, rules) for each in reversed(inside))

    def _root(self, folder: Path) -> Path | None:
        """Where rules for the files of a folder begin; None where it is in no workspace and no repository."""
        if folder not in self._roots:
            above = [folder, *folder.parents]
            repository = next((each for each in above if (each / ".git").exists()), None)
            known = [each for each in above if each in self._folders or each == repository]
            self._roots[folder] = known[-1] if known else None
        return self._roots[folder]

    def _rules_of(self, folder: Path) -> ignoring.Rules:
        files = ignoring.files(folder)
        seen = [_version(file) for file in files]
        known = self._rules.get(folder)
        if known is None or known[0] != seen:
            known = self._rules[folder] = (seen, ignoring.read(files))
        return known[1]


def _version(file: Path) -> tuple[int, int] | None:
    """What is another one when a file has changed; None where there is none."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size


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
