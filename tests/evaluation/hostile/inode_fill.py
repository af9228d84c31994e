"""Makes empty files without end; has won at fifty thousand."""


def escaped():
    try:
        for number in range(50_000):
            open(f"e{number}", "w").close()
    except OSError:
        return False
    return True
