"""Writes to its output and error streams for ever."""

import os

while True:
    for fd in (1, 2):
        os.write(fd, b"x" * 65536)
