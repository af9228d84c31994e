"""A program in a real pseudo-terminal: keys go in, the screen comes out as text, and as a picture.

The screen is kept by pyte, a terminal emulator without a window. Knows nothing of editors.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pyte

# What pyte would misread: keyboard protocols and their queries (private CSI), device control strings.
_UNKNOWN = re.compile(
    rb"\x1b\[[<>=][\d;:]*[ -/]*[a-zA-Z]|\x1b\[\?[\d;]*(?:\$p|[nu])|\x1bP.*?\x1b\\", re.DOTALL
)
_OPEN = re.compile(rb"\x1b(?:\[[<>=?\d;:]*|P[^\x1b]*|\][^\x07\x1b]*)?$")
_BACKGROUND_ASKED = b"\x1b]11;?"


class Terminal:
    """Runs `command` until the `with` block is left; every wait has an end and then shows the screen."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        columns: int = 100,
        rows: int = 30,
        light: bool = False,
    ):
        self.light = light
        self.screen = pyte.Screen(columns, rows)
        self.screen.write_process_input = self._answer  # type: ignore[method-assign]
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        terminal = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_ALL": "C.UTF-8"}
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=slave, stdout=slave, stderr=slave, cwd=cwd, env={**environment, **terminal},
            start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
        )  # fmt: skip
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sign in (signal.SIGHUP, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(sign)
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    continue
        self._reader.join(5)
        os.close(self._master)

    def keys(self, text: str) -> None:
        """Press keys: what is typed, as a terminal sends it."""
        os.write(self._master, text.encode())

    def type(self, text: str, seconds: float = 0.03) -> None:
        """Type as a person does, one key after the other."""
        for key in text:
            self.keys(key)
            time.sleep(seconds)

    def text(self) -> str:
        with self._lock:
            return "\n".join(line.rstrip() for line in self.screen.display)

    def cells(self) -> list[list[pyte.screens.Char]]:
        """Every cell of the screen, row by row."""
        with self._lock:
            columns = range(self.screen.columns)
            return [
                [self.screen.buffer[row][column] for column in columns] for row in range(self.screen.lines)
            ]

    def cursor(self) -> tuple[int, int]:
        return self.screen.cursor.y, self.screen.cursor.x

    def wait(
        self, wanted: str | Callable[[str], bool], seconds: float = 30.0, *, absent: bool = False
    ) -> str:
        """The screen as soon as it shows `wanted` (or no longer shows it)."""
        end = time.monotonic() + seconds
        while True:
            text = self.text()
            shown = wanted in text if isinstance(wanted, str) else wanted(text)
            if shown is not absent:
                return text
            if time.monotonic() > end or self.process.poll() is not None:
                what = f"{'gone' if absent else 'here'} within {seconds:.0f} s: {wanted!r}"
                raise AssertionError(f"Not {what}\n{text}")
            time.sleep(0.03)

    def settle(self, quiet: float = 0.4, seconds: float = 10.0) -> str:
        """The screen once it has not changed for a moment."""
        end, since, last = time.monotonic() + seconds, time.monotonic(), self.text()
        while time.monotonic() - since < quiet and time.monotonic() < end:
            time.sleep(0.03)
            if (text := self.text()) != last:
                since, last = time.monotonic(), text
        return last

    def _answer(self, data: str) -> None:
        os.write(self._master, data.encode())

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                if not select.select([self._master], [], [], 0.5)[0]:
                    if self.process.poll() is not None:
                        return
                    continue
                data = rest + os.read(self._master, 65536)
            except OSError:
                return
            if data == rest:
                return
            if _BACKGROUND_ASKED in data:
                level = "ffff" if self.light else "1818"
                self._answer(f"\x1b]11;rgb:{level}/{level}/{level}\x1b\\")
            cut = _OPEN.search(data)
            rest = data[cut.start() :] if cut and len(data) - cut.start() < 4096 else b""
            data = _UNKNOWN.sub(b"", data[: len(data) - len(rest)])
            with self._lock:
                self._stream.feed(data)
