"""Whether a filling fits its place, by rules that know nothing of how it was made: Python only, plain text in.

Each rule looks at the text with the filling in it, and at the truth where only that tells what may stand there.
"""

from __future__ import annotations

import io
import re
import tokenize

_OPENERS = {")": "(", "]": "[", "}": "{"}
_LITERAL = re.compile(
    r'''"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|\#[^\n]*''',
    re.DOTALL,
)


def repeats_suffix(filling: str, cut: str, suffix: str) -> bool:
    """Whether the filling ends in, or runs on past, what follows it anyway.

    That is the rest of the gap's line at the end of the filling's own last line, or the first line below as one of the
    filling's; neither counts where the truth has the same.
    """
    rest, _, below = suffix.partition("\n")
    rest = rest.strip()
    last = filling.rstrip().rpartition("\n")[2].rstrip()
    if rest and last.endswith(rest) and not cut.rstrip().endswith(rest):
        # Brackets alone repeat what follows only if nothing in the filling opens them.
        if set(rest) - set(")]}:,;"):
            return True
        if _left_open(filling)[0]:
            return True
    following = next((line.strip() for line in below.split("\n") if line.strip()), "")
    lines = [line.strip() for line in filling.split("\n")[1:]]
    return len(following) > 1 and following in lines and following not in map(str.strip, cut.split("\n"))


def indentation_right(prefix: str, filling: str) -> bool:
    """Whether every line that the filling begins is indented as Python wants it: one level more behind a colon and only
    there, else as deep as an open block; and the first line, where the gap stands at its indentation, not deeper."""
    here = prefix.rpartition("\n")[2]
    if not here.strip() and filling[:1] in (" ", "\t"):
        return False
    first = prefix.count("\n") + 1
    last, header = "", False  # the token before, and whether the logical line before opens a block
    try:
        for token in tokenize.generate_tokens(io.StringIO(prefix + filling + "\n").readline):
            if token.type == tokenize.NEWLINE:
                header = last == ":"
            elif token.type == tokenize.INDENT:
                if not header and token.start[0] > first:
                    return False
                header = False
            elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.DEDENT, tokenize.ENDMARKER):
                if header and token.start[0] > first:
                    return False
                last, header = token.string, False
    except IndentationError:
        return False
    except (tokenize.TokenError, SyntaxError):
        pass  # a bracket or string is left open: up to there all was right
    return True


def balanced(text: str) -> bool:
    """Whether every bracket outside strings and comments has its other half, and every string its end."""
    return _left_open(text) == ("", "")


def _left_open(text: str) -> tuple[str, str]:
    """Closing brackets that nothing opens, and opening ones, or quotes, that nothing closes."""
    closers, stack = "", ""
    for char in _LITERAL.sub("", text):
        if char in "([{\"'":
            stack += char
        elif char in _OPENERS:
            if stack.endswith(_OPENERS[char]):
                stack = stack[:-1]
            else:
                closers += char
    return closers, stack
