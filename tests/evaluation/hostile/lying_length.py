"""Announces a message of four gigabytes, so that the reader reserves memory or waits."""

import os


def f(x):
    for fd in range(3, 64):
        try:
            os.write(fd, b"\xff\xff\xff\xff" + b"x" * 100)
        except OSError:
            pass
    return 0
