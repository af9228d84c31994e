"""Answers that name things a careless decoder would call: exec, __import__, os.system."""

import json
import os

GADGETS = [
    {"t": "type", "v": "exec"},
    {"t": "__import__", "v": ["os"]},
    {"t": "os.system", "v": ["true"]},
    {"t": "datetime", "v": ["__class__"]},
    {"t": "ref", "v": "__import__('os')._exit(0)"},
    {"t": "array", "v": [1], "d": "object"},
]


def f(x):
    for gadget in GADGETS:
        data = json.dumps({"value": gadget}).encode()
        for fd in range(3, 64):
            try:
                os.write(fd, len(data).to_bytes(4, "big") + data)
            except OSError:
                pass
    return 0
