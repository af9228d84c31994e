"""`fill` and `edit` from the command line to the file, around an engine whose every answer is known.

The engine is a real process with a real socket; its generator is scripted (`tests/model/scripted_engine.py`)
and answers "a0", "a1", ... with U+2028 after each, the letter being the first of the prefix.
"""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).with_name("diffcoder"))
SCRIPTED = Path(__file__).parents[1] / "model" / "scripted_engine.py"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A DIFFCODER_HOME in which an engine named "scripted" runs."""
    home = tmp_path_factory.mktemp("home")
    source = '[scripted]\ntitle = "Scripted"\n[[scripted.sources]]\nkind = "file"\npath = "none.gguf"\n'
    (home / "models.toml").write_text(source)
    socket = home / "engine" / "scripted.sock"
    socket.parent.mkdir(mode=0o700)
    command = [sys.executable, "-P", str(SCRIPTED), str(socket), "--forward-seconds", "0.05"]
    engine = subprocess.Popen(command, cwd=SCRIPTED.parents[2])
    deadline = time.monotonic() + 60
    while not socket.with_suffix(".json").exists():
        assert time.monotonic() < deadline
        assert engine.poll() is None
        time.sleep(0.05)
    yield home
    engine.terminate()
    engine.wait(20)


@pytest.fixture
def run(home):
    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [COMMAND, *arguments, "--model", "scripted"],
            input=stdin,
            capture_output=True,
            env=os.environ | {"DIFFCODER_HOME": str(home), "PYTHONIOENCODING": "utf-8"},
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        return done

    return run


def test_a_fill_is_shown_and_only_written_when_asked(run, tmp_path):
    path = tmp_path / "code.py"
    data = "\ufeffdef f():\r\n\tx = \r\n\treturn 'é'\n".encode()
    path.write_bytes(data)
    path.chmod(0o750)
    done = run("fill", f"{path}:2:6", "--max-tokens", "2")
    assert path.read_bytes() == data
    assert done.stdout.decode().split("\n") == [
        f"{path}:2:6",
        "  1 │ def f():",
        "> 2 │ \tx = ‹d0\u2028d1\u2028›",
        "  3 │ \treturn 'é'",
        "2 tokens · 2 forwards · 1.0 a forward · 10 ms · 50% sure · budget",
        "",
    ]
    done = run("fill", f"{path}:2:6", "--max-tokens", "2", "--write", "--json")
    answer = json.loads(done.stdout)
    assert (answer["line"], answer["column"], answer["text"]) == (2, 6, "d0\u2028d1\u2028")
    assert path.read_bytes() == data.replace(b"x = ", "x = d0\u2028d1\u2028".encode())
    assert path.stat().st_mode & 0o777 == 0o750


def test_markers_are_filled_one_after_the_other_and_the_file_is_written_once(run, tmp_path):
    path = tmp_path / "code.py"
    path.write_text("a = ‹?›\nb = ‹?›\n")
    done = run("fill", str(path), "--max-tokens", "1", "--write", "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["line"], first["column"]) == (1, 5)
    assert (second["line"], second["column"]) == (2, 5)
    assert path.read_text() == "a = a0\u2028\nb = a0\u2028\n"


def test_an_engine_that_refuses_leaves_the_file_alone(run, tmp_path):
    path = tmp_path / "code.py"
    path.write_text("a = ‹?›\nERROR = ‹?›\n")
    done = run("fill", str(path), "--max-tokens", "1", "--write")
    assert done.returncode == 1
    assert done.stderr == b"diffcoder: The gap is not one; choose another.\n"
    assert path.read_text() == "a = ‹?›\nERROR = ‹?›\n"


@pytest.mark.parametrize(("data", "line"), [(b"", 1), (b"x", 1), (b"x\n", 2)])
def test_the_start_and_the_end_of_a_file_can_be_filled(run, tmp_path, data, line):
    path = tmp_path / "code.py"
    path.write_bytes(data)
    assert run("fill", f"{path}:{line}:1", "--max-tokens", "1", "--write").returncode == 0
    new = path.read_text()
    assert new in ("0\u2028", "0\u2028x", "x\nx0\u2028")


def test_a_filling_that_latin_1_cannot_hold_is_not_written(run, tmp_path):
    path = tmp_path / "code.py"
    path.write_bytes("größe = \n".encode("latin-1"))
    done = run("fill", f"{path}:1:9", "--max-tokens", "1", "--write")
    assert done.returncode == 1
    assert "U+2028" in done.stderr.decode()
    assert path.read_bytes() == "größe = \n".encode("latin-1")


def test_an_edit_is_a_diff_and_writes_nothing_but_its_lines(run, tmp_path):
    path = tmp_path / "code.py"
    data = b"one\r\ntwo\nthree\r\nfour"
    path.write_bytes(data)
    done = run("edit", f"{path}:2-3", "TWO", "--write")
    name = str(path).lstrip("/")
    assert done.stdout.decode().split("\n")[:8] == [
        f"--- a/{name}",
        f"+++ b/{name}",
        "@@ -1,4 +1,3 @@",
        " one\r",
        "-two",
        "-three\r",
        "+TWO",
        " four",
    ]
    assert path.read_bytes() == b"one\r\nTWO\nfour"
    answer = json.loads(run("edit", f"{path}:3", "FOUR", "--json").stdout)
    assert answer["text"] == "one\r\nTWO\nFOUR"
    assert answer["diff"].endswith(
        "-four\n\\ No newline at end of file\n+FOUR\n\\ No newline at end of file\n"
    )
    assert "changed nothing" in run("edit", f"{path}:2", "TWO", "--write").stdout.decode()


@pytest.mark.skipif(shutil.which("patch") is None, reason="no patch here")
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_the_diff_of_an_edit_applies_to_the_file_whatever_its_encoding(run, tmp_path, encoding):
    path = tmp_path / "code.py"
    path.write_bytes("é\r\nü\r\nc\n".encode(encoding))
    diff = run("edit", f"{path}:2", "neu").stdout.rpartition(b"1 token")[0]
    subprocess.run(["patch", "--binary", "-s", str(path)], input=diff, check=True)
    assert path.read_bytes() == "é\r\nneu\r\nc\n".encode(encoding)


def test_fill_lines_follow_the_contract(run):
    lines = [
        {"id": "x", "prefix": "a", "max_tokens": 2},
        {"id": 1, "prefix": "ERROR"},
        {
            "prefix": "b\r\n",
            "suffix": None,
            "max_tokens": 1,
            "stop": "s",
            "rule": None,
            "verify": "ar",
            "seed": 1,
        },
        {"id": 2.5, "prefix": "RAISE"},
        {"id": 3, "prefix": "<|fim_middle|>", "max_tokens": 1, "stop": ["s", "t"], "language": "python"},
    ]
    done = run("fill", "--stdin-json", stdin="\n".join(map(json.dumps, lines)).encode())
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["id"] for answer in got] == ["x", 1, None, 2.5, 3]
    assert got[0] == {
        "id": "x",
        "text": "a0\u2028a1\u2028",
        "tokens": 2,
        "forwards": 2,
        "ms": 10.0,
        "prefill_tokens": 3,
        "cached_tokens": 2,
        "confidence": 0.5,
        "stop_reason": "budget",
    }
    assert [set(got[1]), set(got[3])] == [{"id", "error"}, {"id", "error"}]
    assert list(got[2]) == list(got[4]) == list(got[0])


def test_edit_lines_follow_the_contract(run):
    lines = [
        {"id": 1, "before": "a\nb\n", "start": 2, "end": 2, "instruction": "B"},
        {"id": 2, "before": "a\n", "start": 2, "end": 2, "instruction": "B"},
        {"id": 3, "before": "a\r\nb", "start": 1, "end": 1, "instruction": "é", "language": "python"},
    ]
    done = run("edit", "--stdin-json", stdin="\n".join(map(json.dumps, lines)).encode())
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert got[0] == {
        "id": 1,
        "text": "a\nB\n",
        "diff": "--- a/text\n+++ b/text\n@@ -1,2 +1,2 @@\n a\n-b\n+B\n",
    }
    assert set(got[1]) == {"id", "error"}
    assert got[2]["text"] == "é\r\nb"


def on_terminal(
    home: Path, *arguments: str, interrupt_after: bytes = b"", **environment: str
) -> tuple[str, int]:
    """What a command prints on a terminal of 80 by 24, and its exit status."""
    child, terminal = pty.fork()
    if child == 0:
        settings = {"DIFFCODER_HOME": str(home), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        os.environ.update(settings | environment)
        os.execv(COMMAND, [COMMAND, *arguments, "--model", "scripted"])
    printed = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # what Linux says when the other side is gone
            break
        if not chunk:
            break
        printed += chunk
        if interrupt_after and interrupt_after in printed:
            os.kill(child, signal.SIGINT)
            interrupt_after = b""
    os.close(terminal)
    return printed.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_terminal_sees_the_denoising_and_then_the_filling(home, tmp_path):
    path = tmp_path / "code.py"
    path.write_text("\nx = \n\x1b]0;title\x07\n")
    printed, status = on_terminal(home, "fill", f"{path}:2:5", "--max-tokens", "10")
    assert status == 0
    assert "▒▒▒" in printed
    assert "\x1b[1;32m" in printed
    assert "\x1b]0;" not in printed
    assert printed.count("10 tokens · 10 forwards") == 1
    assert printed.endswith("budget\x1b[0m\r\n")
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")  # the cursor is back


def test_a_terminal_without_colours_or_movement_is_respected(home, tmp_path):
    path = tmp_path / "code.py"
    path.write_text("x = \n")
    printed, _ = on_terminal(home, "fill", f"{path}:1:5", "--max-tokens", "3", NO_COLOR="1")
    assert "\x1b[1;32m" not in printed
    assert "\x1b[32m" not in printed
    printed, _ = on_terminal(home, "fill", f"{path}:1:5", "--max-tokens", "3", TERM="dumb")
    assert "\x1b" not in printed
    assert "▒" not in printed


def test_an_interrupt_leaves_the_terminal_and_the_file_as_they_were(home, tmp_path):
    path = tmp_path / "code.py"
    path.write_text("x = \n")
    printed, status = on_terminal(
        home, "fill", f"{path}:1:5", "--max-tokens", "1000", "--write", interrupt_after=b" forwards"
    )
    assert status == 130
    assert "Traceback" not in printed
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")
    assert path.read_text() == "x = \n"
