"""The channel from a virtual machine to its host, and netlink and raw packets: not every kind is namespaced."""

import socket


def escaped():
    for family, kind in (
        (40, socket.SOCK_STREAM),
        (16, socket.SOCK_RAW),
        (17, socket.SOCK_RAW),
        (38, 5),
        (29, 3),
    ):
        try:
            socket.socket(family, kind, 0).close()
            return True
        except OSError:
            pass
    return False
