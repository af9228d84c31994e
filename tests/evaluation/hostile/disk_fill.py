"""Writes files until told to stop; has won at 1 GiB."""


def escaped():
    block = b"x" * (1 << 20)
    for number in range(64):
        try:
            with open(f"fill{number}", "wb", buffering=0) as file:
                for _ in range(16):
                    if file.write(block) != len(block):
                        return False
        except OSError:
            return False
    return True
