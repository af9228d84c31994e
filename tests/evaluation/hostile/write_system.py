"""Writes to the system's folders, to kernel settings and to control groups."""

import os


def escaped():
    places = [
        "/usr/lib/owned",
        "/usr/local/owned",
        "/etc/owned",
        "/owned",
        "/dev/owned",
        "/proc/sys/kernel/core_pattern",
    ]
    places += ["/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/sys/fs/cgroup/owned", "@CANARY@"]
    for package in ("json/__init__.py", "os.py"):
        places.append(os.path.join(os.path.dirname(os.__file__), package))
    for place in places:
        try:
            with open(place, "r+b" if os.path.exists(place) else "wb"):
                return True
        except OSError:
            pass
    return False
