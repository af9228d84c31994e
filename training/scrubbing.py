"""Secrets in source text, found by how they look and taken out before anything learns them.

Keys and tokens of known shapes, passwords in addresses, and quoted values that are called a password, key or token
and look random. What stands in their place is one word, so the code around stays code. Reads text only.
"""

from __future__ import annotations

import math
import re
from collections import Counter

SCRUBBED = "scrubbed"

_SHAPES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[opsu]_[0-9A-Za-z]{36,}\b|\bgithub_pat_\w{40,}\b|\bglpat-[\w-]{20,}"
    r"|\bxox[abprs]-[0-9A-Za-z-]{10,}|\bAIza[\w-]{35}\b|\b[rs]k_(?:live|test)_[0-9A-Za-z]{16,}|\bsk-[0-9A-Za-z_-]{32,}"
    r"|(?<=hooks\.slack\.com/services/)[\w/]{20,}"
    r"|\bnpm_[0-9A-Za-z]{36}\b|\bpypi-[\w-]{60,}|\bhf_[0-9A-Za-z]{30,}\b"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    re.DOTALL,
)
_ADDRESS = re.compile(r"(?<=://)([^\s/:@'\"]+):([^\s/:@'\"{}$<>]{3,})(?=@[\w.-]+)")
_NAMED = re.compile(
    r"(?i)(?:passw(?:or)?d|secret|token|api_?key|private_?key|credential)\w*['\"]?"
    r"(?:\s*:?\s*&?(?:'static\s+)?(?:str|string|bytes?|char|text|any|object)\b[\w<>\[\]?*]*)?"  # a declared type
    r"\s*(?:[:=]+>?|,)\s*[bfru]{0,2}(['\"`])([^'\"`\s]{12,})\1"
)
_PLAIN_BITS = 3.3  # entropy a character; words lie below, random strings of 16 letters and digits above


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
        return found[0].replace(found[2], replaced(found)) if _looks_random(found[2]) else found[0]

    text = _SHAPES.sub(replaced, text)
    text = _ADDRESS.sub(password, text)
    return _NAMED.sub(named, text), count


def _looks_random(value: str) -> bool:
    kinds = [any(map(kind, value)) for kind in (str.isdigit, str.isalpha)]
    counts = Counter(value).values()
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts)
    return all(kinds) and bits > _PLAIN_BITS
