"""Types commands into the user's terminal (TIOCSTI)."""

import fcntl
import os


def escaped():
    for path in ("/dev/tty", "/dev/console", "/dev/pts/0", "/proc/self/fd/0", "/proc/self/fd/2"):
        try:
            fd = os.open(path, os.O_RDWR)
            fcntl.ioctl(fd, 0x5412, b"\n")
            return True
        except OSError:
            pass
    return False
