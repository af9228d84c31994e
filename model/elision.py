"""What an answer leaves out at its ends: asked to rewrite many lines, small models often write only the part that they
change, and stop. Without this the rest would be deleted. And what it has too much: lines from around the selection,
which would then stand in the file twice.

Only whole units at the selection's outermost indentation come back, and only where the instruction does not speak of
taking anything away. What a model drops in the middle is taken as meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

TELLING = 6  # letters and digits of a line that is not repeated by chance
EDITED = 0.7  # likeness of lines of which one was made of the other
LEAST_LINES = 3  # a shorter loss may well be the edit
MOST_CHANGED = 2  # lines between an answer's end and the nearest line that it shares with the old text
ALIKE = 0.5

_TAKES_AWAY = re.compile(
    r"\b(?:remov|delet|drop|strip|discard|omit|eliminat|rid of|cut|without|only|just|keep|shorten|shrink|simplif"
    r"|condens|merg|combin|join|inlin|extract|mov|unused|dead|duplicat|deduplicat|redundan|clean|trim|rewrite)",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"(?:else|elif|except|finally|catch|case|default|end|done|fi)\b|[)\]}]")


def completed(old: Sequence[str], new: Sequence[str], instruction: str) -> list[str]:
    """The lines of an answer, with what of the old ones it left out before its first and behind its last."""
    if _TAKES_AWAY.search(instruction):
        return list(new)
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    shared = [block for block in blocks if any(line.strip() for line in old[block.a : block.a + block.size])]
    written = sum(bool(line.strip()) for line in new)
    common = sum(bool(line.strip()) for block in shared for line in old[block.a : block.a + block.size])
    if not shared or 2 * common < written:
        return list(new)
    first, last = shared[0], shared[-1]
    end = last.a + last.size + len(new) - last.b - last.size  # the old line behind that of the answer's last
    before, after = old[: max(0, first.a - first.b)], old[end:]
    result = list(new)
    if _is_left_out(after, new[last.b + last.size :], old[last.a + last.size : end]):
        result = [*result, *after]
    if _is_left_out(before, new[: first.b], old[len(before) : first.a]) and _is_outermost(new[0]):
        result = [*before, *result]
    return result


def within(before: Sequence[str], old: Sequence[str], new: Sequence[str], after: Sequence[str]) -> list[str]:
    """The lines of an answer without those at its ends that only repeat what stands before and behind the selection."""
    start = _repeated(before, old, new)
    rest = new[start:]
    rest = rest[: len(rest) - _repeated(after[::-1], old[::-1], rest[::-1])]
    return list(rest if any(line.strip() for line in rest) else new)


def _repeated(before: Sequence[str], old: Sequence[str], new: Sequence[str]) -> int:
    """How many lines at the beginning of `new` are the last of `before` once more, blank ones aside, and did not come
    from the first of `old`."""
    above = [line for line in before if line.strip()]
    below = [line for line in old if line.strip()]
    places = [place for place, line in enumerate(new) if line.strip()]
    for n in range(min(len(above), len(places)), 0, -1):
        lines = [new[place] for place in places[:n]]
        if (
            lines == above[-n:]
            and max(sum(map(str.isalnum, line)) for line in lines) >= TELLING
            and SequenceMatcher(None, "\n".join(lines), "\n".join(below[:n])).ratio() < EDITED
        ):
            return places[n] if n < len(places) else len(new)
    return 0


def _is_left_out(lines: Sequence[str], changed: Sequence[str], into: Sequence[str]) -> bool:
    """Whether `lines` are a loss: units of their own, next to lines that were changed little or not at all."""
    filled = [line for line in lines if line.strip()]
    return (
        len(filled) >= LEAST_LINES
        and _is_outermost(filled[0])
        and len(changed) <= MOST_CHANGED
        and all(
            SequenceMatcher(None, one, other).ratio() >= ALIKE
            for one, other in zip(into, changed, strict=True)
        )
    )


def _is_outermost(line: str) -> bool:
    """Whether a unit may begin with this line. The selection comes without its common indentation."""
    return line[:1].strip() != "" and not _GOES_ON.match(line)
