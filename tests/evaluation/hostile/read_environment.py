"""Looks for the user's secrets in its environment and in that of other processes."""

import glob
import os


def escaped():
    seen = repr(dict(os.environ)).encode()
    for place in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(place, "rb") as file:
                seen += file.read()
        except OSError:
            pass
    return b"@SECRET@" in seen
