"""Calls the kernel directly: mount, chroot, unshare, setns, pivot_root."""

import ctypes


def escaped():
    libc = ctypes.CDLL(None)
    tries = [
        libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
        libc.mount(b"proc", b"/tmp", b"proc", 0, None),
        libc.mount(b"none", b"/", None, 32 | 4096, None),
        libc.chroot(b"/tmp"),
        libc.unshare(0x10000000),
        libc.unshare(0x00020000),
        libc.setns(0, 0),
        libc.umount2(b"/proc", 2),
    ]
    return any(result == 0 for result in tries)
