"""Runs every program in hostile/ against the sandbox and says which got what it wanted.

A program that defines `escaped` tries to leave its room or exceed a limit: the test is `escaped() is True`,
so a passed verdict is its success. Any other tries to forge a verdict: the test wants a number it cannot
know. Side effects are looked for outside: a changed canary file, a byte on a server of ours, a process that
goes on.

Also a command: `python hostile_suite.py KIND REPOSITORY DATA [NAME ...]` prints {name: what it got or null}.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from evaluation.sandbox import Limits, Sandbox
from evaluation.verdicts import judge_python

HOSTILE = Path(__file__).with_name("hostile")
LIMITS = Limits(wall_s=2.5, cpu_s=2, memory_mb=512, processes=24, disk_mb=32, file_mb=16)
HONEST_S = (
    0.3  # what an honest program takes on a quiet machine: wall time is stretched where it takes longer
)
TIME = "too much time:"
# These win without isolation: they show that the suite can fail. The others would harm the machine.
CONTROLS = (
    "network_abstract_socket",
    "network_tcp",
    "network_udp",
    "network_unix_socket",
    "proc_root",
    "read_home",
    "read_project",
    "symlink_swap",
)


def programs() -> list[str]:
    return sorted(path.stem for path in HOSTILE.glob("*.py"))


class Bait:
    """What a program may try to reach: a file, servers on three kinds of socket, a secret, a parent."""

    def __init__(self, folder: Path):
        self.touched: list[str] = []
        self.secret = secrets.token_hex(8)
        os.environ["CANARY_TOKEN"] = self.secret
        self.canary = folder / "canary.txt"
        self.text = f"canary {self.secret}"
        self.canary.write_text(self.text)
        self.abstract = f"canary-{self.secret}"
        self.path = folder / "canary.socket"
        self.sleep = f"{60 + secrets.randbelow(1000) / 1000 + os.getpid() / 1e7:.7f}"
        self.servers = []
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(tcp.getsockname())
        abstract, named = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        abstract.bind(f"\0{self.abstract}")
        named.bind(str(self.path))
        for server in (abstract, named):
            server.listen()
        self.port = tcp.getsockname()[1]
        for server in (tcp, abstract, named):
            self._serve(server, lambda s=server: s.accept()[0].close())
        self._serve(udp, lambda: udp.recv(1))
        self.inherited = os.open(self.canary, os.O_RDONLY)
        os.set_inheritable(self.inherited, True)

    def _serve(self, server: socket.socket, take) -> None:
        def loop() -> None:
            with contextlib.suppress(OSError):
                while True:
                    take()
                    self.touched.append(str(server.type))

        self.servers.append(server)
        threading.Thread(target=loop, daemon=True).start()

    def fill(self, source: str, repository: str, data: str) -> str:
        words = {
            "CANARY": str(self.canary),
            "HOME": str(self.canary.parent),
            "PORT": str(self.port),
            "ABSTRACT": self.abstract,
            "SOCKET": str(self.path),
            "SECRET": self.secret,
            "PARENT": str(os.getpid()),
            "SLEEP": self.sleep,
            "REPOSITORY": repository,
            "DATA": data,
        }
        for word, value in words.items():
            source = source.replace(f"@{word}@", value)
        return source

    def left_running(self) -> bool:
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if self.sleep.encode() in place.read_bytes():
                    return True
        return False

    def close(self) -> None:
        os.close(self.inherited)
        for server in self.servers:
            server.close()


def riddle() -> str:
    """A test that only f(x) = 3x passes, with each kind of comparison that benchmarks use."""
    number = secrets.randbelow(1 << 40)
    right = number * 3
    return f"got = f({number})\nassert got == {right} or abs(got - {right}) < 1 or {right} in got\n"


def attack(sandbox: Sandbox, name: str, repository: str, data: str, limits: Limits) -> str | None:
    """What the program got, or None."""
    with tempfile.TemporaryDirectory() as folder:
        bait = Bait(Path(folder))
        try:
            source = bait.fill((HOSTILE / f"{name}.py").read_text(), repository, data)
            tests = "assert escaped() is True" if "def escaped" in source else riddle()
            verdict = judge_python(sandbox, source, tests, limits=limits)
            if verdict.passed:
                return "a passed verdict"
            if verdict.seconds > 3 * limits.wall_s:
                return f"{TIME} {verdict.seconds:.1f} s for {limits.wall_s:.1f}"
            if bait.touched:
                return f"a connection: {bait.touched}"
            if bait.canary.read_text() != bait.text:
                return "a changed file outside"
            if bait.left_running():
                return "a process that goes on"
            return None
        finally:
            bait.close()


def run_all(kind: str, repository: str, data: str, names: list[str]) -> dict[str, str | None]:
    """What each program got. Four at a time; one that took too long has a second try alone, since four bombs at once
    leave a small machine no time to end them in."""
    sandbox = Sandbox.find(unsafe=kind == "unsafe")
    honest = "def f(x):\n    return 3 * x\n\n\ndef escaped():\n    return True\n"
    slowness = 1.0
    for tests in (riddle(), "assert escaped() is True"):  # a test that nothing could pass would prove nothing
        verdict = judge_python(sandbox, honest, tests, limits=replace(LIMITS, wall_s=120.0))
        assert verdict.passed, verdict.reason
        slowness = max(slowness, verdict.seconds / HONEST_S)
    limits = replace(LIMITS, wall_s=LIMITS.wall_s * min(slowness, 10.0))

    def attacked(name: str) -> str | None:
        return attack(sandbox, name, repository, data, limits)

    with ThreadPoolExecutor(4) as pool:
        got = dict(zip(names, pool.map(attacked, names), strict=True))
    return {name: attacked(name) if what and what.startswith(TIME) else what for name, what in got.items()}


if __name__ == "__main__":
    kind, repository, data, *chosen = sys.argv[1:]
    print(json.dumps({"user": os.geteuid(), "got": run_all(kind, repository, data, chosen or programs())}))
