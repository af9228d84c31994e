"""Crashes, so that a core file or a crash handler outside might run."""

import ctypes
import os
import resource


def escaped():
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
        return True
    except (ValueError, OSError):
        pass
    if os.fork() == 0:
        ctypes.string_at(0)
    os.wait()
    return any("core" in name for name in os.listdir("."))
