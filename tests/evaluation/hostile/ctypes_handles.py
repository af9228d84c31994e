"""Opens files of the machine by handle, past any mount namespace."""

import ctypes
import os


def escaped():
    libc = ctypes.CDLL(None)
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.memmove(handle, (128).to_bytes(4, "little"), 4)
    mount = ctypes.c_int()
    got = libc.name_to_handle_at(-100, b"/usr", handle, ctypes.byref(mount), 0) == 0
    opened = libc.open_by_handle_at(os.open("/usr", os.O_RDONLY), handle, os.O_RDONLY)
    return got or opened >= 0
