"""Installs trace, profile and audit hooks that jump over failing lines."""

import sys
import threading


def tracer(frame, event, argument):
    frame.f_trace_opcodes = True
    if event == "exception":
        frame.f_locals.clear()
    return tracer


sys.settrace(tracer)
sys.setprofile(tracer)
threading.settrace(tracer)


def f(x):
    return 0
