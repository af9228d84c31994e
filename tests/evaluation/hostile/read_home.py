"""Reads the user's files through every path that might lead there."""

import glob
import os


def escaped():
    places = ["@CANARY@", os.path.expanduser("~/canary.txt"), "@HOME@/canary.txt"]
    places += glob.glob("/home/*/.*") + glob.glob("/*/.*rc") + glob.glob("/*/.ssh/*")
    for place in places:
        try:
            with open(place) as file:
                file.read()
            return True
        except OSError:
            pass
    return False
