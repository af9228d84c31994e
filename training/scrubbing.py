"""Secrets in source text, found by how they look and taken out before anything learns them.

Keys and tokens of known shapes, passwords in addresses, and values that are called a password, key or token and look
random. What stands in their place is one word, so the code around stays code. Reads text only.
"""

from __future__ import annotations

import math
import re
from collections import Counter

from model.secrets import DECLARED, FIELD, KNOWN, NAMES, PRIVATE_KEY

SCRUBBED = "scrubbed"

_SHAPES = re.compile(rf"{PRIVATE_KEY}|{KNOWN}")
_ADDRESS = re.compile(r"(?<=://)([^\s/:@'\"]*):([^\s/:@'\"{}$<>]{3,})(?=@[\w.-]+)")
_NAMED = re.compile(
    rf"(?i)({NAMES})(?:{DECLARED}\s*+(?:[:=]+>?|,|(?<=\S)[({{])\s*+[bfrul@$]{{0,2}}"
    rf"(?P<quote>['\"`])(?P<quoted>[^'\"`\s]{{12,}}+)(?P=quote)|=(?P<field>{FIELD}))"
)
_PLAIN_BITS = 3.3  # entropy a character; words lie below, random strings of 16 letters and digits above
_PLACE = re.compile(r"[a-z][a-z\d+.-]*://|urn:|\.{0,2}/[a-z]|<.*>$")  # an address, a path, a special token
# What can be spoken, whole: `Tokenizer` and `refresh` in an identifier, little of random letters.
_WORD = re.compile(
    r"(?:[A-Z]|(?<![A-Za-z]))(?:[b-df-hj-np-tv-xz]{0,3}[aeiouy]{1,2})++[b-df-hj-np-tv-xz]{0,2}(?![a-z])"
)
_MOSTLY = 0.6  # of an identifier, in such words of four letters or more


def scrub(text: str) -> tuple[str, int]:
    """The text without what looks like a secret, and how many there were."""
    count = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return SCRUBBED

    def password(found: re.Match[str]) -> str:
        return f"{found[1]}:{replaced(found)}"

    def named(found: re.Match[str]) -> str:
        value = found["quoted"] or found["field"]
        return found[0].replace(value, replaced(found)) if _is_secret(found[1], value) else found[0]

    text = _SHAPES.sub(replaced, text)
    text = _ADDRESS.sub(password, text)
    return _NAMED.sub(named, text), count


def _is_secret(name: str, value: str) -> bool:
    """Whether a value that is called a secret looks like one, and not like a place or an identifier. A password may well
    look like an identifier: people make them up."""
    if len(value) < 12 or not _looks_random(value) or _PLACE.match(value):
        return False
    return name.lower().startswith(("pass", "pwd")) or not _is_identifier(value)


def _is_identifier(value: str) -> bool:
    words = sum(len(word) for word in _WORD.findall(value) if len(word) > 3)
    return value.isidentifier() and words > _MOSTLY * len(value)


def _looks_random(value: str) -> bool:
    kinds = [any(map(kind, value)) for kind in (str.isdigit, str.isalpha)]
    counts = Counter(value).values()
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    return all(kinds) and bits > _PLAIN_BITS
