"""A new user namespace by clone and clone3, to be root in it."""

import ctypes
import os


def escaped():
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = {"x86_64": 56, "aarch64": 220}
    pid = libc.syscall(numbers.get(os.uname().machine, 56), 0x10000000 | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
    other = libc.syscall(435, arguments, 88)
    if other == 0:
        os._exit(0)
    return pid > 0 or other > 0
