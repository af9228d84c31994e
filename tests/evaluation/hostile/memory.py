"""Takes memory without end; has won at 3 GiB."""


def escaped():
    held = []
    try:
        while len(held) < 192:
            held.append(bytearray(b"x") * (16 << 20))
    except MemoryError:
        held = held[:0]
    return len(held) >= 192
