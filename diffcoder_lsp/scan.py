"""What the text around a place looks like to the eye: inside a string or comment, which brackets are open.

Rules of thumb on characters, by language where it matters: fast enough for every keystroke, never a parser.
"""

from __future__ import annotations

import re
import unicodedata

_HASH = frozenset(
    "python ruby bash perl r yaml toml makefile dockerfile cmake powershell elixir julia".split()  # noqa: SIM905
)
_DASH = frozenset(["sql", "lua", "haskell"])
_PROSE = frozenset({"markdown", "plaintext", "html", "xml", "json", "latex", "rst", None})
_MOST = 200_000
"""Characters before a place that are looked at."""

_TRIPLE = r'"""(?:\\.|[^\\])*?(?:"""|\Z)|' + r"'''(?:\\.|[^\\])*?(?:'''|\Z)"
_QUOTED = r'"(?:\\.|[^"\\\n])*(?:"|\Z|(?=\n))|' + r"'(?:\\.|[^'\\\n])*(?:'|\Z|(?=\n))"
_TICKED = r"`(?:\\.|[^`\\])*(?:`|\Z)"


def _literals(language: str | None) -> re.Pattern[str]:
    """Strings and comments; one that is not closed runs to the end of the text."""
    if language in _HASH:
        parts = [_TRIPLE, r"#[^\n]*", _QUOTED]
    elif language in _DASH:
        parts = [r"--[^\n]*", _QUOTED]
    else:
        parts = [r"//[^\n]*", r"/\*(?s:.)*?(?:\*/|\Z)", _QUOTED, _TICKED]
        if language in ("rust", "c", "cpp", "java", "go", "haskell", "ocaml"):
            # 'a marks a lifetime, not a string; a character is short.
            parts[2] = r'"(?:\\.|[^"\\\n])*(?:"|\Z|(?=\n))' + r"|'(?:\\.[^'\n]{0,8}|[^'\\\n])'"
    return re.compile("|".join(parts), re.DOTALL)


_OPENERS = ('"""', "'''", "/*", "//", "--", "#", "`", '"', "'")
_ANY = re.compile(r"[^\n]")
_BRACKET = re.compile(r"[()\[\]{}]")
_PATTERNS: dict[str | None, re.Pattern[str]] = {}


def blanked(text: str, language: str | None) -> str:
    """`text` with every character of a string or comment but line ends replaced by a NUL: as long, and code alone."""
    return _pattern(language).sub(_blank, text)


def _blank(match: re.Match[str]) -> str:
    text = match.group()
    return _ANY.sub("\0", text) if "\n" in text else "\0" * len(text)


def _pattern(language: str | None) -> re.Pattern[str]:
    if language not in _PATTERNS:
        _PATTERNS[language] = _literals(language)
    return _PATTERNS[language]


def in_literal(prefix: str, language: str | None) -> bool:
    """Whether text written behind `prefix` would stand in a string or a comment."""
    return bool(opened(prefix, language))


def opened(prefix: str, language: str | None) -> str:
    """What opened the string or comment that text behind `prefix` would stand in; nothing where it is code."""
    start = open_at(prefix, language)
    if start is None:
        return ""
    return next(opener for opener in _OPENERS if prefix.startswith(opener, start))


def open_at(prefix: str, language: str | None) -> int | None:
    """Where the string or comment begins that text behind `prefix` would stand in; None where it is code."""
    if language in _PROSE:
        return None
    skipped = prefix.find("\n", len(prefix) - _MOST) + 1 if len(prefix) > _MOST else 0
    last = None
    for last in _pattern(language).finditer(prefix, skipped):  # noqa: B007
        pass
    if last is None or last.end() < len(prefix):
        return None
    text = last.group()
    if not text.startswith(("#", "--", "//")):
        opener = next(opener for opener in _OPENERS if text.startswith(opener))
        closer = "*/" if opener == "/*" else opener
        closed = len(text) >= len(opener) + len(closer) and text.endswith(closer)
        if closed and not (len(closer) == 1 and _escaped(text)):
            return None
    return last.start()


def _escaped(text: str) -> bool:
    """Whether the last character of a string is escaped."""
    before = text[:-1]
    return (len(before) - len(before.rstrip("\\"))) % 2 == 1


def unmatched(text: str) -> tuple[str, str]:
    """The closing brackets of `text` that nothing in it opens, and the opening ones that nothing closes."""
    pairs = {")": "(", "]": "[", "}": "{"}
    closers, stack = "", ""
    for char in _BRACKET.findall(text):
        if char in "([{":
            stack += char
        elif stack.endswith(pairs[char]):
            stack = stack[:-1]
        elif not stack:
            closers += char
    return closers, stack


_KEPT = "\t\n\r"
_JOINERS = "\u200c\u200d\ufe0f"
"""Behind a character of an emoji or of some scripts these carry meaning; behind others they only hide."""
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks by their category that show nothing."""


def visible(text: str, known: str = "") -> str:
    """`text` without the control and format characters (bidirectional ones, invisible ones) that `known`, the text
    it replaces, did not have."""
    if text.isascii() and text.isprintable():
        return text

    kept: list[str] = []
    for char in text:
        if char in _KEPT or char in known:
            shown = True
        elif char in _JOINERS:
            shown = bool(kept) and not kept[-1].isascii()
        else:
            hidden = unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Co", "Cs")
            shown = not hidden and not _BLANK.match(char)
        if shown:
            kept.append(char)
    return "".join(kept)
