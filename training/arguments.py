"""What numbers on a command line may be: argparse's types. Knows no command."""

from __future__ import annotations

import argparse
import math


def count(text: str, least: int = 1) -> int:
    """A whole number from `least` on."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is no whole number of {least} or more")
    return int(text)


def amount(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text} is no finite number above 0")
    return number
