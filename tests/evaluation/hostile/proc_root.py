"""Through /proc/PID/root, cwd and fd of every process to the old root."""

import glob
import os


def escaped():
    for place in (
        glob.glob("/proc/[0-9]*/root") + glob.glob("/proc/[0-9]*/cwd") + glob.glob("/proc/[0-9]*/fd/*")
    ):
        for tail in ("@CANARY@", "/.." * 8 + "@CANARY@"):
            try:
                with open(place + tail) as file:
                    file.read()
                return True
            except OSError:
                pass
    return os.path.exists("/proc/self/root@CANARY@")
