"""Returns at once and goes on working in a thread that talks on the channel."""

import os
import threading
import time


def later():
    while True:
        for fd in range(3, 32):
            try:
                os.write(fd, (15).to_bytes(4, "big") + b'{"value": true}')
            except OSError:
                pass
        time.sleep(0.001)


threading.Thread(target=later, daemon=True).start()


def f(x):
    time.sleep(0.05)
    return 0
