"""Reads the benchmark's data, the project's code and its git history."""

import os


def escaped():
    for place in ("@REPOSITORY@/.git/HEAD", "@REPOSITORY@/model/schema.py", "@DATA@"):
        if os.path.exists(place):
            return True
    return False
