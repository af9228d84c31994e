"""Runs code that nobody has read: every run in a room of its own, with limits, and fails closed.

`Sandbox.find()` proves at once that rooms can be made here (Linux namespaces, by `unshare`), or refuses;
`Sandbox.find(unsafe=True)` runs with resource limits only. The inside of a room is `evaluation.jail`. This
file knows nothing of benchmarks, verdicts or languages: programs in, outcomes out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.schema import DiffcoderError

JAIL = Path(__file__).with_name("jail.py")
PROBE = """
import os
def call():
    links = open("/proc/net/dev").read().count(":")
    print(links, len([p for p in os.listdir("/proc") if p.isdigit()]), flush=True)
    os._exit(0)
"""


@dataclass(frozen=True)
class Limits:
    """What one run may use. Seconds, MiB (2**20 bytes), counts; `output_bytes` holds for each of its streams.

    `address_space` also limits each process's virtual memory, which Python bears and V8 or a JVM does not.
    """

    wall_s: float = 10.0
    cpu_s: int = 10
    memory_mb: int = 1024
    processes: int = 32
    disk_mb: int = 64
    file_mb: int = 32
    files: int = 2048
    output_bytes: int = 65536
    address_space: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `exit` is the exit status, negative for a signal; `killed` says which limit ended it:
    "time", "memory", "output", "caller" or None."""

    exit: int
    killed: str | None
    stdout: bytes
    stderr: bytes
    wall_s: float
    memory_mb: int

    @property
    def ok(self) -> bool:
        return self.exit == 0 and self.killed is None

    def describe(self) -> str:
        """Half a sentence for a log."""
        if self.killed:
            words = {"time": "timed out", "memory": "used too much memory", "output": "wrote too much"}
            return words.get(self.killed, "was stopped")
        if self.exit < 0:
            return f"died of signal {-self.exit}"
        return f"exit status {self.exit}"


def python_folders() -> list[str]:
    """The folders that this interpreter needs to start: read-only in every room."""
    found = [sys.base_prefix, str(Path(os.path.realpath(sys.executable)).parent.parent)]
    return [f for f in dict.fromkeys(found) if not f.startswith("/usr") and f != "/"]


def package_folders() -> list[str]:
    """Where this environment's installed packages are, for programs that import numpy and the like."""
    return list(dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib")))


@functools.cache
def rust_sysroot() -> str | None:
    """Where Rust's toolchain lies; None where there is none, for all that rustup's own `rustc` is there."""
    rustc = shutil.which("rustc")
    if rustc is None:
        return None
    answer = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True)
    return answer.stdout.strip() if answer.returncode == 0 else None


def toolchain_folders() -> list[str]:
    """Compilers and interpreters that live outside the system folders (rustup keeps them in the user's
    HOME)."""
    rust = rust_sysroot()
    found = [] if rust is None else [rust]
    for tool in ("node", "java", "go"):
        place = shutil.which(tool)
        if place and not os.path.realpath(place).startswith(("/usr/", "/bin/")):
            found.append(str(Path(os.path.realpath(place)).parent.parent))
    return found


class Room:
    """One run in progress: a process, its two output streams and its control channel."""

    def __init__(self, job: dict, limits: Limits, stdin: int, folder: str | None):
        self.limits, self.folder, self.started = limits, folder, time.monotonic()
        self.control, theirs = socket.socketpair()
        self.streams: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.killed: str | None = None
        self.report = b""
        with theirs:
            # the real interpreter rather than a virtual environment's link: its home is what a room shows
            command = [os.path.realpath(sys.executable), "-I", "-S", str(JAIL), str(theirs.fileno())]
            self.process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            )
        data = json.dumps(job).encode()
        with contextlib.suppress(OSError):  # it has died at once: the missing report says so
            self.control.sendall(len(data).to_bytes(4, "big") + data)

    def channels(self) -> list[tuple[object, str]]:
        return [(self.process.stdout, "stdout"), (self.process.stderr, "stderr"), (self.control, "control")]

    def read(self, name: str, data: bytes) -> None:
        if name == "control":
            self.report += data
            return
        stream = self.streams[name]
        stream += data[: self.limits.output_bytes - len(stream)]
        if len(stream) >= self.limits.output_bytes and data:
            self.stop("output")

    def stop(self, why: str) -> None:
        """End the room from outside: process 1 ends itself, and with it all others, when the caller hangs up."""
        self.killed = self.killed or why
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Returns when nothing is left in the room: the jail process waits for process 1, that for all others."""
        self.control.close()
        try:
            self.process.wait(10.0)
        except subprocess.TimeoutExpired:
            self.process.kill()  # process 1 dies with it
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process.wait()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def outcome(self) -> Outcome:
        """Raises DiffcoderError when the room was refused: nothing has run then."""
        facts = json.loads(self.report) if self.report else {}
        if "refused" in facts:
            raise DiffcoderError(
                "sandbox_refused",
                f"The sandbox could not be set up here ({facts['refused']}); nothing was run.",
            )
        killed = self.killed or facts.get("killed")
        return Outcome(
            exit=facts.get("exit", -9),
            killed=killed,
            stdout=bytes(self.streams["stdout"]),
            stderr=bytes(self.streams["stderr"]),
            wall_s=time.monotonic() - self.started,
            memory_mb=facts.get("memory_mb", 0),
        )


def wait(rooms: Sequence[Room], wall_s: float, until_first_of: Room | None = None) -> None:
    """Serve the rooms' channels until all (or the one named) have ended, `wall_s` seconds at most."""
    deadline = time.monotonic() + wall_s
    with selectors.DefaultSelector() as selector:
        open_channels = {id(room): 0 for room in rooms}
        for room in rooms:
            for channel, name in room.channels():
                selector.register(channel, selectors.EVENT_READ, (room, name))  # type: ignore[arg-type]
                open_channels[id(room)] += 1
        while selector.get_map():
            events = selector.select(max(0.0, deadline - time.monotonic()))
            if not events:
                for room in rooms:
                    if open_channels[id(room)]:
                        room.stop("time")
                break
            for key, _ in events:
                room, name = key.data
                try:
                    data = os.read(key.fd, 65536)
                except OSError:
                    data = b""
                if data:
                    room.read(name, data)
                else:
                    selector.unregister(key.fileobj)
                    open_channels[id(room)] -= 1
            if until_first_of and not open_channels[id(until_first_of)]:
                break


class Sandbox:
    """Makes rooms. `kind` is "unshare" (isolated) or "unsafe" (resource limits only)."""

    def __init__(self, kind: str):
        self.kind = kind
        self._folders: list[str] | None = None
        self._rooms: weakref.WeakSet[Room] = weakref.WeakSet()

    def stop_all(self) -> None:
        """End every room that is open now."""
        for room in list(self._rooms):
            room.stop("caller")

    @classmethod
    def find(cls, unsafe: bool = False) -> Sandbox:
        """The isolation that works on this machine, proven by a run; DiffcoderError when none does."""
        if unsafe:
            return cls("unsafe")
        if not sys.platform.startswith("linux"):
            raise DiffcoderError(
                "sandbox_missing",
                "Generated code needs Linux namespaces to run safely; use a Linux machine, or accept the "
                "risk with --unsafe.",
            )
        sandbox = cls("unshare")
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "probe.py"
            script.write_text(PROBE)
            try:
                outcome = sandbox.run_python(script, "call", {}, Limits(wall_s=60.0))
                facts = outcome.stdout.split()
                works = outcome.ok and facts == [b"1", b"2"]  # loopback; supervisor and program
                problem = f"{outcome.describe()} {outcome.stderr.decode(errors='replace')[-200:]}".strip()
            except DiffcoderError as error:
                works, problem = False, error.message
        if not works:
            raise DiffcoderError(
                "sandbox_missing",
                f"No sandbox works here ({problem}); allow unprivileged user namespaces "
                "(sysctl kernel.unprivileged_userns_clone=1, or "
                "kernel.apparmor_restrict_unprivileged_userns=0), or accept the risk of running generated "
                "code with --unsafe.",
            )
        return sandbox

    def readable(self) -> tuple[list[str], list[tuple[str, str]]]:
        """What a room shows of this machine, read-only: folders, and links to make."""
        if self._folders is None:
            self._folders = [*python_folders(), *package_folders(), *toolchain_folders()]
        shown = ["/usr", "/etc/alternatives", "/etc/ld.so.cache", "/etc/java-17-openjdk", *self._folders]
        links = []
        for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin"):
            if os.path.islink(f"/{name}"):
                links.append((f"/{name}", os.readlink(f"/{name}")))
            elif os.path.isdir(f"/{name}"):
                shown.append(f"/{name}")
        inside = [f for f in shown if not any(f != g and f.startswith(g + "/") for g in shown)]
        return list(dict.fromkeys(inside)), links

    def _start(
        self,
        limits: Limits,
        files: Mapping[str, str],
        stdin: int,
        environment: Mapping[str, str],
        **what: object,
    ) -> Room:
        isolated = self.kind == "unshare"
        shown, links = self.readable()
        folder = None if isolated else tempfile.mkdtemp(prefix="diffcoder-run-")
        tools = [f"{f}/bin" for f in self._folders or () if os.path.isdir(f"{f}/bin")]
        place = folder or "/tmp"
        basic = {
            "PATH": ":".join(["/usr/local/bin", "/usr/bin", "/bin", *tools]),
            "HOME": place,
            "TMPDIR": place,
            "LANG": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        job = {
            "isolated": isolated,
            "folder": folder,
            "readable": shown,
            "links": links,
            "files": dict(files),
            "limits": asdict(limits),
            "environment": basic | dict(environment),
            "packages": package_folders(),
            "python": None,
            "call": None,
            "argv": None,
        }
        room = Room(job | what, limits, stdin, folder)
        self._rooms.add(room)
        return room

    def start_python(
        self,
        script: Path,
        call: str,
        files: Mapping[str, str],
        limits: Limits,
        stdin: int = subprocess.DEVNULL,
    ) -> Room:
        """A room whose first program is the function `call` of our own `script` (trusted, standard
        library)."""
        return self._start(limits, files, stdin, {}, python=str(script), call=call)

    def run_python(self, script: Path, call: str, files: Mapping[str, str], limits: Limits) -> Outcome:
        room = self.start_python(script, call, files, limits)
        try:
            wait([room], limits.wall_s)
        finally:
            room.close()
        return room.outcome()

    def run(
        self,
        argv: Sequence[str],
        files: Mapping[str, str],
        limits: Limits,
        environment: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Run a command in a fresh room whose folder holds `files`, with nothing on its standard input."""
        room = self._start(limits, files, subprocess.DEVNULL, environment or {}, argv=list(argv))
        try:
            wait([room], limits.wall_s)
        finally:
            room.close()
        return room.outcome()
