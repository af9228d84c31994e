"""Asks for another user, for capabilities, and runs set-uid programs."""

import os
import subprocess


def escaped():
    for call in (
        lambda: os.setuid(0),
        lambda: os.setgid(0),
        lambda: os.setgroups([0]),
        lambda: os.setresuid(0, 0, 0),
    ):
        try:
            call()
            return True
        except OSError:
            pass
    for command in (["su", "-c", "true"], ["mount", "-t", "tmpfs", "x", "/tmp"], ["passwd", "-d", "root"]):
        try:
            if (
                subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=2).returncode
                == 0
            ):
                return True
        except (OSError, subprocess.TimeoutExpired):
            pass
    return False
