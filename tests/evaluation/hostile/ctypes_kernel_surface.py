"""Kernel interfaces with a history of holes: keys, bpf, perf, userfaultfd, io_uring, modules."""

import ctypes
import os

X86 = {
    "keyctl": 250,
    "add_key": 248,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "io_uring_setup": 425,
}
ARM = {
    "keyctl": 219,
    "add_key": 217,
    "bpf": 280,
    "perf_event_open": 241,
    "userfaultfd": 282,
    "io_uring_setup": 425,
}


def escaped():
    libc = ctypes.CDLL(None, use_errno=True)
    won = []
    for name, number in (X86 if os.uname().machine == "x86_64" else ARM).items():
        ctypes.set_errno(0)
        if libc.syscall(number, 0, 0, 0, 0, 0) >= 0 or ctypes.get_errno() != 1:
            won.append(name)
    return bool(won)
