"""Abstract Unix sockets have no file: only a network namespace hides them."""

import socket


def escaped():
    try:
        with socket.socket(socket.AF_UNIX) as out:
            out.connect("\0@ABSTRACT@")
            out.sendall(b"escaped")
        return True
    except OSError:
        return False
