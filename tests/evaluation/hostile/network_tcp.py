"""Connects to a server on this machine (control: it listens) and to the world."""

import socket


def escaped():
    for address in (("127.0.0.1", int("@PORT@")),):
        try:
            socket.create_connection(address, timeout=1).sendall(b"escaped")
            return True
        except OSError:
            pass
    return False
