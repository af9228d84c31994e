"""Replaces its own files by links to the user's, for a careless reader or writer outside."""

import os


def escaped():
    for name in os.listdir("."):
        try:
            os.remove(name)
        except OSError:
            pass
        try:
            os.symlink("@CANARY@", name)
        except OSError:
            pass
    for name in ("job.json", "program.py", "verdict", "out", "stdout"):
        try:
            os.symlink("@CANARY@", name)
        except OSError:
            pass
    try:
        with open("program.py", "a") as file:
            file.write("swapped")
        return True
    except OSError:
        return False
