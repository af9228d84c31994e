"""System V shared memory and message queues outlive their makers."""

import ctypes


def escaped():
    libc = ctypes.CDLL(None)
    return libc.shmget(0, 1 << 30, 0o1666) >= 0 or libc.msgget(0, 0o1666) >= 0
