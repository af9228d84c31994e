"""Leaves through sys.exit(0) in the middle of a test."""

import sys


def f(x):
    sys.exit(0)
