"""A language server around an engine whose every answer is known (tests/model/scripted_engine.py).

That engine writes one word a forward, "d0" and a line separator, "d1" ..., the letter being the first of the
prefix, with a confidence of a half; its edits are the instruction. Line separators never reach a document.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.lsp_client import Client

SCRIPTED = Path(__file__).parents[1] / "model" / "scripted_engine.py"
URI = "file:///w/a.py"


def start_engine(
    home: Path, forward_seconds: float = 0.005, load_seconds: float = 0
) -> subprocess.Popen[bytes]:
    socket = home / "engine" / "scripted.sock"
    socket.parent.mkdir(mode=0o700, exist_ok=True)
    socket.with_suffix(".json").unlink(missing_ok=True)  # a killed engine's, or the wait below would be none
    command = [sys.executable, "-P", str(SCRIPTED), str(socket), "--forward-seconds", str(forward_seconds)]
    command += ["--load-seconds", str(load_seconds)]
    engine = subprocess.Popen(command, cwd=SCRIPTED.parents[2])
    deadline = time.monotonic() + 60
    while not socket.with_suffix(".json").exists():
        assert time.monotonic() < deadline
        assert engine.poll() is None
        time.sleep(0.05)
    return engine


def ready(client: Client) -> None:
    """Let the engine be found: the first automatic suggestion only looks for it."""
    client.open("file:///w/first.py", "q = ")
    assert client.result(client.inline("file:///w/first.py", 0, 4)) is None
    client.wait_for(lambda: client.notes("diffcoder/status")[-1]["state"] == "ready")


def texts(answer) -> list[str]:
    return [item["insertText"] for item in answer["items"]]
