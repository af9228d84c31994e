"""Text -> prompt: the window around a gap or a selection, as pieces of text and marks. Knows no ids and no model.

The window's edges move in steps, not with every keystroke: while the user types, only the end of the prompt grows and
the cached keys and values of all the rest stay good.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from model.profiles import CONTEXT, PREFIX, SUFFIX, Profile
from model.schema import DiffcoderError, EditRequest, Snippet

CHARS_A_TOKEN = 3.2  # of code, on the low side: a window in characters rarely exceeds its tokens
STEP = 1024  # characters by which the window's start jumps


@dataclass(frozen=True)
class Mark:
    """A special token by name."""

    name: str


Piece = str | Mark


def window(prefix: str, suffix: str, tokens: int) -> tuple[str, str]:
    """The ends of `prefix` and `suffix` that fit `tokens`: three quarters before the gap, a quarter behind it, what
    one leaves free going to the other. Cut at line ends where there are any."""
    room = int(tokens * CHARS_A_TOKEN)
    behind = min(len(suffix), max(room // 4, room - len(prefix)))
    before = room - behind
    if len(prefix) > before:
        start = len(prefix) - before
        start += -start % STEP if before > 2 * STEP else 0
        line = prefix.find("\n", start) + 1
        prefix = prefix[line if 0 < line < len(prefix) and line - start < STEP else start :]
    if len(suffix) > behind:
        line = suffix.rfind("\n", behind // 2, behind) + 1
        suffix = suffix[: line if line > 0 else behind]
    return prefix, suffix


def infill(
    profile: Profile, prefix: str, suffix: str, snippets: Sequence[Snippet], tokens: int
) -> list[Piece]:
    """The prompt for the text between `prefix` and `suffix`, which the answer continues directly."""
    spare = tokens // 4 if snippets and profile.file_mark else 0
    excerpts = _excerpts(profile, snippets, spare)
    prefix, suffix = window(prefix, suffix, tokens - spare)
    pieces: list[Piece] = [Mark(profile.begin)] if profile.begin else []
    for item in profile.infill:
        if item == CONTEXT:
            pieces += excerpts
        elif item in (PREFIX, SUFFIX):
            pieces.append(prefix if item == PREFIX else suffix)
        else:
            pieces.append(Mark(item))
    return pieces


def _excerpts(profile: Profile, snippets: Sequence[Snippet], tokens: int) -> list[Piece]:
    pieces: list[Piece] = []
    room = int(tokens * CHARS_A_TOKEN)
    for snippet in snippets:
        text = f"{snippet.path}\n{snippet.text}\n"
        if profile.file_mark is None or len(text) > room:
            continue
        room -= len(text)
        pieces += [Mark(profile.file_mark), text]
    return pieces


@dataclass(frozen=True)
class Selection:
    """Lines of a file without their common indentation, which the answer gets back.

    `indent` is that indentation, `newline` the file's line end in the selection, `ends` whether the last line has one.
    """

    before: str
    text: str
    after: str
    indent: str
    newline: str
    ends: bool

    @classmethod
    def of(cls, request: EditRequest) -> Selection:
        lines = request.before.splitlines(keepends=True)
        # splitlines also breaks at form feeds and the like, which editors do not count as line ends.
        lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", request.before)
        if not 1 <= request.start <= request.end <= max(1, len(lines)):
            raise DiffcoderError(
                "bad_position",
                f"Lines {request.start}-{request.end} are not in the file, which has {len(lines)}: "
                "name lines from 1 to its last.",
            )
        before = "".join(lines[: request.start - 1])
        chosen, after = lines[request.start - 1 : request.end], "".join(lines[request.end :])
        newline = next((m.group() for line in chosen if (m := re.search(r"\r\n|\r|\n", line))), "\n")
        bare = [line.rstrip("\r\n") for line in chosen]
        indents = [line[: len(line) - len(line.lstrip())] for line in bare if line.strip()]
        indent = indents[0] if indents else ""
        while indent and not all(other.startswith(indent) for other in indents):
            indent = indent[:-1]
        text = "".join(f"{line.removeprefix(indent)}\n" for line in bare)
        return cls(before, text, after, indent, newline, bool(chosen) and chosen[-1] != bare[-1])

    def restore(self, text: str) -> str:
        """The answer, indented and ended as the selection was."""
        lines = text.rstrip("\n").split("\n") if text.strip() else []
        joined = self.newline.join(f"{self.indent}{line}" if line.strip() else line.strip() for line in lines)
        return joined + self.newline if joined and self.ends else joined


def edit(profile: Profile, request: EditRequest, selection: Selection, tokens: int) -> list[Piece]:
    """The prompt of an edit in the profile's chat form; the answer follows inside a code fence that is already open."""
    if profile.chat == "none":
        raise DiffcoderError(
            "unsupported_model", "This model does not take instructions: use the default model for edits."
        )
    language = request.language or ""
    spare = max(0, int(tokens * CHARS_A_TOKEN) - len(selection.text) * 2) // 2
    before, after = window(selection.before, selection.after, int(spare / CHARS_A_TOKEN))
    notes = "".join(f"- line {d.line}: {d.message}\n" for d in request.diagnostics)
    around = ""
    if before.strip() or after.strip():
        around = f"The code stands in this file:\n```{language}\n{before}<selection>\n{after}```\n"
    user = (
        f"{around}Rewrite this code.\n```{language}\n{selection.text}```\n"
        f"{f'Reported problems:{chr(10)}{notes}' if notes else ''}"
        f"Instruction: {request.instruction.strip()}\n"
        "Change only what the instruction asks for. Answer with the whole rewritten code and nothing else."
    )
    opening = f"```{language}\n"
    if profile.chat == "chatml":
        return [
            Mark("<|im_start|>"),
            "system\nYou are a careful programmer who edits code.",
            Mark("<|im_end|>"),
            "\n",
            Mark("<|im_start|>"),
            f"user\n{user}",
            Mark("<|im_end|>"),
            "\n",
            Mark("<|im_start|>"),
            f"assistant\n{opening}",
        ]
    begin, end = "<[begin▁of▁sentence]>", "<[end▁of▁sentence]>"
    return [
        Mark(begin),
        "system\nYou are a careful programmer who edits code.\n",
        Mark(end),
        Mark(begin),
        f"user\n{user}",
        Mark(end),
        Mark(begin),
        f"assistant\n{opening}",
    ]
