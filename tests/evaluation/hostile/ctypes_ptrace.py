"""Attaches to its supervisor; reads another process's memory; takes its descriptors."""

import ctypes
import os


def escaped():
    libc = ctypes.CDLL(None)
    buffer = ctypes.create_string_buffer(16)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 16)
    handle = os.pidfd_open(1)
    return (
        libc.ptrace(16, 1, 0, 0) == 0
        or libc.ptrace(0x4206, 1, 0, 0) == 0
        or libc.process_vm_readv(1, local, 1, local, 1, 0) >= 0
        or libc.syscall(438, handle, 0, 0) >= 0
    )
