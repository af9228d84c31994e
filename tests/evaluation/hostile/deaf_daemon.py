"""Ignores signals, leaves its session and goes on in the background after the run."""

import os
import signal
import time

for number in range(1, 32):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvpe("sleep", ["sleep", "@SLEEP@"], {"PATH": "/usr/bin:/bin"})
    os._exit(0)
time.sleep(0.2)


def f(x):
    return 0
