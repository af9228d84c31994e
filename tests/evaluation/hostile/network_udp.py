"""Sends a datagram to this machine; has won if the kernel takes it and a route exists."""

import socket


def escaped():
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            out.sendto(b"escaped", ("127.0.0.1", int("@PORT@")))
        return True
    except OSError:
        return False
