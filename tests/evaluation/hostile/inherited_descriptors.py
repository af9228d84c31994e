"""Uses what its starter may have left open: reads every descriptor above the standard ones."""

import os


def escaped():
    for fd in range(3, 4096):
        try:
            os.lseek(fd, 0, os.SEEK_SET)
            if b"canary" in os.read(fd, 100):
                return True
        except OSError:
            pass
    return False
