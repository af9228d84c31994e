"""Signals its parent, process 1, everything, and the process that evaluates it. The run must end as a failure."""

import os
import signal


def escaped():
    for target in (os.getppid(), 1, -1, int("@PARENT@")):
        for number in (signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL):
            try:
                os.kill(target, number)
            except OSError:
                pass
    try:
        os.kill(int("@PARENT@"), 0)
        return True
    except OSError:
        return False
