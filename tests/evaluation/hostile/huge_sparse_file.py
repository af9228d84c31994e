"""Makes one file of a terabyte that takes no room yet."""

import os


def escaped():
    fd = os.open("sparse", os.O_CREAT | os.O_RDWR)
    try:
        os.ftruncate(fd, 1 << 40)
    except OSError:
        return False
    return True
