"""Starts threads without end; has won if it gets a thousand."""

import threading
import time


def escaped():
    made = 0
    try:
        while made < 1000:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
            made += 1
    except (RuntimeError, MemoryError):
        pass
    return made >= 1000
