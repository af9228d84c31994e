"""A Unix socket of another program on this machine, such as a desktop bus or an engine."""

import socket


def escaped():
    try:
        with socket.socket(socket.AF_UNIX) as out:
            out.connect("@SOCKET@")
            out.sendall(b"escaped")
        return True
    except OSError:
        return False
