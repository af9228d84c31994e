"""Forks without end; has won if it gets a thousand processes."""

import os
import signal


def escaped():
    made = []
    try:
        while len(made) < 1000:
            child = os.fork()
            if child == 0:
                signal.pause()
            made.append(child)
    except OSError:
        pass
    return len(made) >= 1000
