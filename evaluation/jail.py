"""The inside of the sandbox: builds a locked room around one program, runs it, reports how it ended.

Run by `evaluation.sandbox` as `python -I -S jail.py FD`, standard library only; it knows nothing of
benchmarks. FD is one end of a socket pair: a JSON job arrives on it (4 bytes of length first), a JSON
outcome goes back, and its closing by the other side ends everything in the room. Any step that fails is
reported and nothing is run.

The room: new mount, process, network, IPC, host-name and (for an ordinary user) user namespaces; a root of
read-only system folders with a private, size-limited /tmp; no capabilities, `no_new_privs`, a seccomp filter,
resource limits. A supervisor (process 1 in the room) watches memory; when it ends, the kernel ends the rest.
"""

import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import select
import signal
import sys
import time
import types

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 32, 8, 4096, 16384, 1 << 18,
)  # fmt: skip
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
AT_RECURSIVE, MNT_DETACH, SYS_MOUNT_SETATTR = 0x8000, 2, 442
ROOM = "/tmp"  # where the new root is built, and the one writable folder inside it
TICK_S = 0.01

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    fields = (source.encode(), target.encode(), kind.encode() if kind else None)
    check(libc.mount(*fields, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


class MountAttributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


def lock_mount(target: str) -> None:
    """Make a bind mount and all mounts below it read-only, without devices and set-uid programs."""
    wanted = MountAttributes(MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0)
    call = (-100, target.encode(), AT_RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted))
    check(libc.syscall(SYS_MOUNT_SETATTR, *call), f"read-only {target}")


# --- seccomp -----------------------------------------------------------------------------------------------

# Kernel surface that no test needs. The first column is x86_64, the second the generic table (aarch64).
DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "setns": (308, 268), "unshare": (272, 97), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "quotactl": (179, 60), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "personality": (135, 92), "move_pages": (279, 239), "migrate_pages": (256, 238),
}  # fmt: skip
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
CLONE, CLONE3, SOCKET, IOCTL = (56, 220), (435, 435), (41, 198), (16, 29)
SOCKET_FAMILIES = (
    1,
    2,
    10,
)  # unix, inet, inet6: the room has no network; vsock and netlink are not namespaced
TERMINAL_IOCTLS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT, SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in struct seccomp_data


class Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]


def filter_program(machine: str) -> list[tuple[int, int, int, int]]:
    """The seccomp filter as (code, jump if true, jump if false, operand)."""
    if machine not in MACHINES:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}")
    arch, column = MACHINES[machine]
    code = [
        (LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, KILL),
    ]  # fmt: skip
    for numbers in DENIED.values():
        code += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, REFUSE | errno.EPERM)]
    # libc falls back to clone, whose flags a filter can read
    code += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, REFUSE | errno.ENOSYS)]
    spaces = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
    code += [(EQUAL, 0, 4, CLONE[column]), (LOAD, 0, 0, FIRST_ARGUMENT), (ANY_BIT, 0, 1, spaces)]
    code += [(RETURN, 0, 0, REFUSE | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    code += [(EQUAL, 0, len(SOCKET_FAMILIES) + 3, SOCKET[column]), (LOAD, 0, 0, FIRST_ARGUMENT)]
    for index, family in enumerate(SOCKET_FAMILIES):
        code.append((EQUAL, len(SOCKET_FAMILIES) - index, 0, family))
    code += [(RETURN, 0, 0, REFUSE | errno.EAFNOSUPPORT), (RETURN, 0, 0, ALLOW)]
    code += [(EQUAL, 0, len(TERMINAL_IOCTLS) + 1, IOCTL[column]), (LOAD, 0, 0, SECOND_ARGUMENT)]
    for index, request in enumerate(TERMINAL_IOCTLS):
        code.append((EQUAL, len(TERMINAL_IOCTLS) - index, 0, request))
    return [*code, (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE | errno.EPERM)]


def install_filter() -> None:
    code = filter_program(platform.machine())
    program = Program(len(code), (Instruction * len(code))(*(Instruction(*step) for step in code)))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")


# --- the room ----------------------------------------------------------------------------------------------


def enter_namespaces() -> tuple[int, bool]:
    """New namespaces for what this process starts. Returns (user id for the program, may we change to it)."""
    spaces = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWPID | NEWNET
    user, group = os.geteuid(), os.getegid()
    if user == 0 and libc.unshare(spaces) == 0:
        # A user number of its own for every run, so that the process limit counts this run only; never the
        # machine's root, whom the kernel lets write to /proc/sys without any capability.
        return 0x5D000000 + 2 * os.getpid(), True
    if user == 0:  # root without the right to make namespaces, as in many containers
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        user = group = 65534
    check(libc.unshare(spaces | NEWUSER), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return 1000, False


def build_root(job: dict, user: int) -> None:
    """Under ROOM: the read-only folders of the job, a few devices, a private /tmp of limited size."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    opened = []  # before ROOM is covered: sources may lie below it
    for path in job["readable"]:
        if os.path.exists(path):
            opened.append((path, os.open(path, os.O_PATH | os.O_CLOEXEC)))
    devices = [
        (f"/dev/{n}", os.open(f"/dev/{n}", os.O_PATH)) for n in ("null", "zero", "full", "random", "urandom")
    ]
    mount("room", ROOM, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for folder in ("proc", "dev", "etc", "tmp"):
        os.mkdir(f"{ROOM}/{folder}")
    limits = job["limits"]
    room = f"size={limits['disk_mb']}m,nr_inodes={limits['files']},mode=700"
    mount("tmp", f"{ROOM}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, room)
    for path, fd in [*opened, *devices]:
        target = ROOM + path
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            os.makedirs(target, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        mount(f"/proc/self/fd/{fd}", target, None, MS_BIND | MS_REC)
        if path.startswith("/dev/"):
            mount("none", target, None, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NOEXEC)
        else:
            lock_mount(target)
        os.close(fd)
    for link, target in (*job["links"], ("/dev/shm", "/tmp"), ("/dev/fd", "/proc/self/fd")):
        os.symlink(target, ROOM + link)
    with open(f"{ROOM}/etc/passwd", "w") as file:
        file.write(f"coder:x:{user}:{user}::/tmp:/bin/sh\n")


def move_in(job: dict, user: int, owned: bool) -> None:
    """Make ROOM the root, forget the old one, write the job's files. Runs as process 1."""
    mount("proc", f"{ROOM}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.chdir(ROOM)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "leave the old root")
    mount("none", "/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    check(libc.sethostname(b"room", 4), "sethostname")
    if owned:
        os.chown("/tmp", user, user)
    os.chdir("/tmp")
    write_files(job["files"], user if owned else None)


def write_files(files: dict[str, str], user: int | None) -> None:
    for name, text in files.items():
        if os.path.isabs(name) or ".." in name.split("/"):
            raise ValueError(f"a file of the job must lie in its folder, got {name!r}")
        folders = name.split("/")[:-1]
        for depth in range(len(folders)):
            folder = "/".join(folders[: depth + 1])
            if not os.path.isdir(folder):
                os.mkdir(folder)
                if user is not None:
                    os.chown(folder, user, user)
        with open(name, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(text)
        if user is not None:
            os.chown(name, user, user)


def drop_privileges(user: int, owned: bool, dumpable: int) -> None:
    """No capability is left, and none can come back. `dumpable` 0 hides this process from the others."""
    if owned:
        os.setgroups([])
        os.setresgid(user, user, user)
    for capability in range(64):  # EINVAL past the last one the kernel knows
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if owned:
        os.setresuid(user, user, user)
    libc.prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def set_limits(limits: dict) -> None:
    megabyte = 1 << 20
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["file_mb"] * megabyte,
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_NOFILE: 128,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if limits["address_space"]:
        wanted[resource.RLIMIT_AS] = limits["memory_mb"] * megabyte
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def run_program(job: dict, code: types.CodeType | None) -> None:
    """Become the program: a file of ours, already compiled, in this interpreter, or another command."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.closerange(3, 65536)
    os.environ.clear()
    os.environ.update(job["environment"])
    if code is None:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execvpe(job["argv"][0], job["argv"], job["environment"])
    sys.path[:] = [*(p for p in sys.path if p), *job["packages"]]
    sys.argv = [job["python"]]
    space: dict = {"__name__": "room", "__builtins__": __builtins__}
    try:
        exec(code, space)
        space[job["call"]]()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode(errors="replace"))
    os._exit(1)  # every way out of ours is explicit; falling through is a failure


def memory_used(first: int) -> int:
    """Bytes resident in all processes of the room but the supervisor."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != first:
            try:
                with open(f"/proc/{name}/statm") as file:
                    total += int(file.read().split()[1])
            except (OSError, IndexError):
                continue  # it has just ended
    return total * resource.getpagesize()


def supervise(control: int, child: int, limits: dict, watch: bool) -> dict:
    """Until the program ends, the caller hangs up, or the room holds too much memory."""
    peak, killed = 0, None
    while True:
        signal.sigtimedwait([signal.SIGCHLD], TICK_S)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid, status = child, 1 << 8
            if pid == 0:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return {"exit": code, "killed": killed, "memory_mb": peak >> 20}
        if select.select([control], [], [], 0)[0]:
            return {"exit": -signal.SIGKILL, "killed": "caller", "memory_mb": peak >> 20}
        if watch:
            used = memory_used(os.getpid())
            peak = max(peak, used)
            if used > limits["memory_mb"] << 20:
                return {"exit": -signal.SIGKILL, "killed": "memory", "memory_mb": peak >> 20}


def report(control: int, outcome: dict) -> None:
    with contextlib.suppress(OSError):  # the caller may be gone
        os.write(control, json.dumps(outcome).encode())


def live(
    job: dict, control: int, code: types.CodeType | None, user: int, owned: bool, isolated: bool
) -> None:
    """Process 1 of the room: fork the program, supervise it, report, end (and with it everything else)."""
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if isolated:
            move_in(job, user, owned)
            libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # the program must not read or trace its supervisor
        else:
            os.chdir(job["folder"])
            write_files(job["files"], None)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        ready, go = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(ready)
                os.setsid()
                if isolated:
                    drop_privileges(user, owned, 1)
                set_limits(job["limits"])
                if isolated:
                    install_filter()
            except BaseException as error:
                os.write(go, str(error).encode() or b"unknown")
                os._exit(1)
            os.close(go)  # the last thing that can be refused has been granted
            run_program(job, code)
        os.close(go)
        for fd in (0, 1, 2):  # the program's streams must close with the program
            os.close(fd)
        problem = os.read(ready, 1000)
        if problem:
            raise OSError(problem.decode())
        if isolated:
            drop_privileges(user + 1 if owned else user, owned, 0)
        started = time.monotonic()
        outcome = supervise(control, child, job["limits"], isolated)
        if not isolated:  # no process 1 here whose end takes the others along
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        report(control, outcome | {"wall_s": time.monotonic() - started})
    except BaseException as error:
        report(control, {"refused": str(error)})
    os._exit(0)


def main() -> None:
    control = int(sys.argv[1])
    data, size = b"", None
    while size is None or len(data) < size:
        chunk = os.read(control, 1 << 20)
        if not chunk:
            os._exit(1)
        data += chunk
        if size is None and len(data) >= 4:
            size, data = int.from_bytes(data[:4], "big"), data[4:]
    job = json.loads(data)
    isolated = job["isolated"]
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        code = None
        if job["python"]:
            with open(job["python"], encoding="utf-8") as file:
                code = compile(file.read(), job["python"], "exec")
        user, owned = 0, False
        if isolated:
            user, owned = enter_namespaces()
            build_root(job, user)
    except BaseException as error:
        report(control, {"refused": str(error)})
        os._exit(0)
    first = os.fork()
    if first == 0:
        live(job, control, code, user, owned, isolated)
    for fd in (0, 1, 2, control):
        os.close(fd)
    os.waitpid(first, 0)
    os._exit(0)


if __name__ == "__main__":
    main()
