"""Answers with what is no JSON, no message, or nested a hundred thousand deep."""

import os


def f(x):
    for body in (b"\xff\xfe", b"{}", b"[]", b'{"value": ' + b"[" * 100000 + b"]" * 100000 + b"}"):
        for fd in range(3, 64):
            try:
                os.write(fd, len(body).to_bytes(4, "big") + body)
            except OSError:
                pass
    return 0
