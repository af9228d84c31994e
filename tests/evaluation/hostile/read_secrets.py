"""Reads what only the machine's administrator should."""


def escaped():
    for place in (
        "/etc/shadow",
        "/etc/ssh/sshd_config",
        "/etc/hostname",
        "/var/log/dpkg.log",
        "/boot",
        "/sys/power",
    ):
        try:
            with open(place) as file:
                file.read()
            return True
        except IsADirectoryError:
            return True
        except OSError:
            pass
    return False
