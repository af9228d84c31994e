"""What numbers on a command line may be: argparse's types. Knows no command."""

from __future__ import annotations

import argparse
import math

_MOST = 2**31 - 1
_MOST_THREADS = 1024


def count(text: str, least: int = 1, most: int = _MOST) -> int:
    """A whole number from `least` on, of a size that something can be made of."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of {least} or more")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{text} is more than {most}")
    return int(text)


def threads(text: str) -> int:
    """How many processor threads to compute with."""
    return count(text, most=_MOST_THREADS)


def amount(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text} is no finite number above 0")
    return number
