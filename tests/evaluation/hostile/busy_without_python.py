"""One operation in C that no signal handler of Python interrupts."""


def f(x):
    return 7 ** (7 ** (7**7))
