"""`make bench-lsp` in small: part of the session, faster than life, around an engine whose every step is known."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from benchmarks import bench_lsp, typing_session
from benchmarks.lsp_client import Client
from benchmarks.tap import Tap
from model.schema import Endpoint

SCRIPTED = Path(__file__).parents[1] / "model" / "scripted_engine.py"


@pytest.fixture
def engine(tmp_path_factory):
    socket = tmp_path_factory.mktemp("engine") / "e.sock"
    socket.parent.chmod(0o700)
    command = [sys.executable, "-P", str(SCRIPTED), str(socket), "--forward-seconds", "0.002"]
    process = subprocess.Popen(command, cwd=SCRIPTED.parents[2])
    deadline = time.monotonic() + 60
    while not socket.with_suffix(".json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield msgspec.json.decode(socket.with_suffix(".json").read_bytes(), type=Endpoint)
    process.kill()
    process.wait(20)


def test_the_recording_is_what_its_model_writes_and_types_the_files_own_text():
    text, session = typing_session.recording()
    assert session == typing_session.written()
    assert len(text.splitlines()) == 3000
    assert 300 <= session.seconds < 310
    lines = text.split("\n")
    for event in session.events:
        line = lines[event.line]
        assert event.column <= len(line)
        new = line[: event.column - event.deleted] + event.inserted + line[event.column :]
        lines[event.line : event.line + 1] = new.split("\n")
        line, column = event.cursor
        assert column <= len(lines[line])
    assert '    def update_height(self, height: int) -> "ConsoleOptions":' in lines


def test_a_replay_keeps_its_bars_and_would_show_if_not(engine, tmp_path):
    (tmp_path / "models.toml").write_text(
        '[scripted]\ntitle = "Scripted"\n[[scripted.sources]]\nkind = "file"\npath = "none.gguf"\n'
    )
    text, session = typing_session.recording()
    with Tap(tmp_path, "scripted", engine) as tap:
        with Client("--model", "scripted", DIFFCODER_HOME=str(tmp_path)) as client:
            client.initialize(inline={"confidence": 0.4, "inLiterals": True})
            bench_lsp.ready(client)
            figures = bench_lsp.Replay(client, text, session.events[:120], speed=12).run(None)
        assert (figures.stale, figures.not_once) == (0, 0)
        assert tap.most_alive == 1
        assert tap.calls >= len(figures.shown_ms) - figures.reused > 0
        assert figures.suggestions >= len(figures.shown_ms)
        assert len(figures.work_ms) == 119
        assert 0 < sum(figures.work_ms) < 5000
