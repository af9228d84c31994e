"""Text -> prompt: the window around a gap or a selection, as pieces of text and marks. Knows no ids.

The window's edges move in steps, not with every keystroke: while the user types, only the end of the prompt
grows and the cached keys and values of all the rest stay good.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from model.elision import completed, within
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
    """The ends of `prefix` and `suffix` that fit `tokens`: three quarters before the gap, a quarter behind
    it, what one leaves free going to the other. Cut at line ends where there are any."""
    room = int(tokens * CHARS_A_TOKEN)
    if len(prefix) + len(suffix) <= room:
        return prefix, suffix
    step = max(1, min(STEP, room // 4))
    behind = min(len(suffix), max(room // 4, (room - len(prefix)) // step * step))
    before = room - behind
    if len(prefix) > before:
        start = len(prefix) - before
        start += -start % step
        line = prefix.find("\n", start) + 1
        prefix = prefix[line if 0 < line < len(prefix) and line - start < step else start :]
    if len(suffix) > behind:
        line = suffix.rfind("\n", behind // 2, behind) + 1
        suffix = suffix[: line if line > 0 else behind]
    return prefix, suffix


def newline_at(prefix: str, suffix: str) -> str:
    """The line end in use at a gap: of the line before it, or else of the one behind it."""
    before, end, _ = prefix.rpartition("\n")
    line = before if end else suffix.partition("\n")[0]
    return "\r\n" if line.endswith("\r") else "\n"


def begun(profile: Profile) -> list[Piece]:
    """What stands before any prompt of the family."""
    return [Mark(profile.begin)] if profile.begin else []


def infill(
    profile: Profile, prefix: str, suffix: str, snippets: Sequence[Snippet], tokens: int
) -> list[Piece]:
    """The prompt for the text between `prefix` and `suffix`, which the answer continues directly."""
    spare = tokens // 4 if snippets and profile.file_mark else 0
    excerpts = _excerpts(profile, snippets, spare)
    prefix, suffix = window(prefix, suffix, tokens - spare)
    pieces = begun(profile)
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
    """Lines of a file, shown without their common indentation.

    `text` has one newline after every line and no white space in blank ones; `lines` are the selected lines
    as they stand in the file, ends included; `newline` is the line end that new lines get.
    """

    before: str
    text: str
    after: str
    lines: tuple[str, ...]
    indent: str
    newline: str

    @classmethod
    def of(cls, request: EditRequest) -> Selection:
        # Not `splitlines`, which also breaks at form feeds and the like: no line ends for editors.
        lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", request.before)
        if not 1 <= request.start <= request.end <= max(1, len(lines)):
            raise DiffcoderError(
                "bad_position",
                f"Lines {request.start}-{request.end} are not in the file, which has {len(lines)}: "
                "name lines from 1 to its last.",
            )
        chosen = tuple(lines[request.start - 1 : request.end])
        indents = [line[: -len(line.lstrip())] for line in chosen if line.strip()]
        indent = indents[0] if indents else ""
        while not all(other.startswith(indent) for other in indents):
            indent = indent[:-1]
        text = "".join(f"{_body(line).removeprefix(indent) if line.strip() else ''}\n" for line in chosen)
        newline = next((end for line in (*chosen, *lines) if (end := line[len(_body(line)) :])), "\n")
        before, after = "".join(lines[: request.start - 1]), "".join(lines[request.end :])
        return cls(before, text, after, chosen, indent, newline)

    @property
    def fence(self) -> str:
        """Back quotes that end an answer: more than stand together anywhere in the selection."""
        return "`" * max([3, *(len(run) + 1 for run in re.findall("```+", self.text))])

    def restore(self, text: str, wish: str = "") -> str:
        """The answer in the selection's place: a line that survives keeps every byte, a new one gets the
        common indentation and line end. Blank lines at the end, which models drop, are those of the
        selection, and so is what the answer leaves out at its ends though nothing in the `wish` asks for that.
        What it repeats of the lines around is left out."""
        if not text.strip() and self.text.strip():
            return ""
        old = _lines(self.text)
        before, after = (
            [line.removeprefix(self.indent) for line in _lines(part.replace("\r\n", "\n"))]
            for part in (self.before, self.after)
        )
        new = completed(old, within(before, old, _lines(text), after), wish)
        lines: list[str] = []
        for change, i, j, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if change == "equal":
                lines += self.lines[i:j]
            else:
                lines += [(self.indent + line if line else "") + self.newline for line in new[start:end]]
        lines += self.lines[len(old) :]
        lines = [line if line != _body(line) else line + self.newline for line in lines]
        if lines and not (self.lines and self.lines[-1] != _body(self.lines[-1])):
            lines[-1] = _body(lines[-1])
        return "".join(lines)


def _lines(text: str) -> list[str]:
    """Lines without ends, blank ones empty, none of these last."""
    lines = [line if line.strip() else "" for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _body(line: str) -> str:
    """A line without its end."""
    return line.rstrip("\r\n")


def edit(profile: Profile, request: EditRequest, selection: Selection, tokens: int) -> list[Piece]:
    """The prompt of an edit in the profile's chat form; the answer follows inside an open code fence."""
    if profile.chat == "none":
        raise DiffcoderError(
            "unsupported_model", "This model does not take instructions: use the default model for edits."
        )
    language, fence = request.language or "", selection.fence
    spare = max(0, int(tokens * CHARS_A_TOKEN) - len(selection.text) * 2) // 2
    above, below = (text.replace("\r\n", "\n") for text in (selection.before, selection.after))
    before, after = window(above, below, int(spare / CHARS_A_TOKEN))
    notes = "".join(f"- line {d.line}: {d.message}\n" for d in request.diagnostics)
    around = ""
    if before.strip() or after.strip():
        around = f"The code stands in this file:\n{fence}{language}\n{before}<selection>\n{after}{fence}\n"
    user = (
        f"{around}Rewrite this code.\n{fence}{language}\n{selection.text}{fence}\n"
        f"{f'Reported problems:{chr(10)}{notes}' if notes else ''}"
        f"Instruction: {request.instruction.strip()}\n"
        "Change only what the instruction asks for. Answer with the whole rewritten code and nothing else."
    )
    return [
        *turn(profile, "system", "You are a careful programmer who edits code."),
        *turn(profile, "user", user),
        *opened(profile, f"{fence}{language}\n"),
    ]


_TURN: dict[str, tuple[Mark, list[Piece]]] = {
    "chatml": (Mark("<|im_start|>"), [Mark("<|im_end|>"), "\n"]),
    "seed": (Mark("<[begin▁of▁sentence]>"), [Mark("<[end▁of▁sentence]>")]),
}


def turn(profile: Profile, role: str, text: str) -> list[Piece]:
    """A message of a conversation, in the chat form of a profile that has one."""
    space = "\n" if profile.chat == "seed" and role == "system" else ""
    return [_TURN[profile.chat][0], f"{role}\n{text}{space}", *end_of_turn(profile)]


def opened(profile: Profile, text: str = "") -> list[Piece]:
    """The beginning of the model's own message; what it writes follows, up to the mark that ends the turn."""
    return [_TURN[profile.chat][0], f"assistant\n{text}"]


def end_of_turn(profile: Profile) -> list[Piece]:
    """The mark that ends a message, and what stands between it and the next one."""
    return _TURN[profile.chat][1]
