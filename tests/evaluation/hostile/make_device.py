"""Makes a device file for the disk and for kernel memory."""

import os
import stat


def escaped():
    for kind, number in ((stat.S_IFBLK, os.makedev(254, 0)), (stat.S_IFCHR, os.makedev(1, 1))):
        try:
            os.mknod(f"/tmp/device{number}", kind | 0o666, number)
            return True
        except OSError:
            pass
    return any(os.path.exists(p) for p in ("/dev/vda", "/dev/sda", "/dev/mem", "/dev/kmsg", "/dev/fuse"))
