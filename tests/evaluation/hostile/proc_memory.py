"""Reads and writes its supervisor's memory."""


def escaped():
    for name, mode in (("mem", "r+b"), ("environ", "rb"), ("maps", "rb"), ("auxv", "rb")):
        try:
            with open(f"/proc/1/{name}", mode) as file:
                if file.read(1) and name != "mem":
                    return True
                return True
        except OSError:
            pass
    return False
