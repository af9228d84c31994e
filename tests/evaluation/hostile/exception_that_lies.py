"""Raises something whose name, text and pickling all try to be something else."""


class Passed(BaseException):
    def __str__(self):
        raise SystemExit(0)

    def __repr__(self):
        return "passed"

    def __reduce__(self):
        return (exec, ("raise SystemExit(0)",))


Passed.__name__ = "passed"


def f(x):
    raise Passed()
