"""What a line is, for everything on the editor's side: text ended by `\\n`, `\\r\\n` or a lone `\\r`.

That is the language server protocol's definition. `str.splitlines` also breaks at form feeds and at
U+2028, which source files contain and editors do not count. Knows nothing of files, gaps or encodings.
"""

from __future__ import annotations

import re

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_END = re.compile(r"\r\n|\r|\n")


def split_lines(text: str) -> list[str]:
    """The lines of `text` with their ends, `"".join` of which is `text`; the last may have no end."""
    return _LINE.findall(text)


def line_end(line: str) -> str:
    """The end of one line: `"\\n"`, `"\\r\\n"`, `"\\r"`, or `""` for a last line without one."""
    if line.endswith("\r\n"):
        return "\r\n"
    return line[-1:] if line.endswith(("\n", "\r")) else ""


def content(line: str) -> str:
    """One line without its end."""
    return line[: len(line) - len(line_end(line))]


def with_line_ends(text: str, newline: str) -> str:
    """`text` with every line end replaced by `newline`."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if newline == "\n" else text.replace("\n", newline)


def newline_near(before: str, after: str) -> str:
    """The line end that text written between `before` and `after` should use.

    It is that of the line the place stands in, else of the line above, else `"\\n"`: a file with mixed
    ends keeps them, and a new line looks like its neighbour.
    """
    if match := _END.search(after):
        return match.group()
    last = max(before.rfind("\n"), before.rfind("\r"))
    return line_end(before[: last + 1]) or "\n"
