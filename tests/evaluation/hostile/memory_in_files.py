"""Anonymous files in memory (memfd), which live in no folder; has won at 3 GiB."""

import os


def escaped():
    block, held = b"x" * (16 << 20), []
    try:
        for number in range(100):
            fd = os.memfd_create(f"m{number}")
            held.append(fd)
            for _ in range(2):
                if os.write(fd, block) != len(block):
                    return False
    except OSError:
        return False
    return True
