"""Many processes, each below the limit of one; has won when 3 GiB are held together."""

import os
import signal


def escaped():
    ready, told = os.pipe()
    made = 0
    try:
        for _ in range(12):
            if os.fork() == 0:
                try:
                    held = [bytearray(b"x") * (16 << 20) for _ in range(16)]
                    os.write(told, b"+" if held else b"-")
                except MemoryError:
                    os.write(told, b"-")
                signal.pause()
            made += 1
    except OSError:
        pass
    return made == 12 and b"".join(os.read(ready, 1) for _ in range(12)) == b"+" * 12
