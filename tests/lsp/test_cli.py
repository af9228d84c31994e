"""The `diffcoder` command as its users run it: a process, its output and its exit status."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest

from diffcoder_lsp import cli
from diffcoder_lsp.edits import MAX_INSTRUCTION
from model.schema import EditRequest, FillRequest, Rule, Verify

COMMAND = [str(Path(sys.executable).with_name("diffcoder"))]


def run(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        capture_output=True,
        env=os.environ | environment,
        timeout=120,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    return done


def failure(*arguments: str, **environment: str) -> str:
    """The one sentence that a failing command says."""
    done = run(*arguments, **environment)
    assert done.returncode == 1, done.stderr
    assert done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    return line.removeprefix("diffcoder: ")


def answers(*arguments: str, stdin: bytes, **environment: str) -> list[dict]:
    done = run(*arguments, stdin=stdin, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return [json.loads(line) for line in done.stdout.decode("ascii").splitlines()]


def test_help_is_instant_and_loads_nothing_heavy():
    started = time.perf_counter()
    assert b"diffcoder fill" in run("--help").stdout
    quickest = time.perf_counter() - started
    for _ in range(4):  # the machine may be busy: one quick run is proof enough
        started = time.perf_counter()
        run("--help")
        quickest = min(quickest, time.perf_counter() - started)
    assert quickest < 0.3
    code = (
        "import sys; from diffcoder_lsp.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & {"torch", "numpy", "msgspec", "rich", "httpx"}


def test_the_choices_and_defaults_of_the_command_are_those_of_the_contract():
    assert get_args(Rule) == cli.RULES
    assert get_args(Verify) == cli.VERIFY
    fill = cli._parser().parse_args(["fill", "x"])
    edit = cli._parser().parse_args(["edit", "x", "y"])
    assert fill.max_tokens == FillRequest(prefix="").limits.max_tokens
    assert edit.max_tokens == EditRequest(before="", start=1, end=1, instruction="").limits.max_tokens


def test_help_survives_a_poor_locale():
    poor = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert b"fill each ??? in the file" in run("--help", **poor).stdout
    assert b"at each ??? in FILE" in run("fill", "--help", COLUMNS="200", **poor).stdout


def test_version_and_wrong_usage():
    assert run("--version").stdout.startswith(b"diffcoder ")
    for arguments in ([], ["nonsense"], ["fill"], ["edit", "a.py:1-2"], ["fill", "x", "--rule", "best"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(b"usage: diffcoder")
    assert run("fill", "a.py:1:1", "--stdin-json").returncode == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("--version", 0), ("fill --stdin-json", 0), ("nonsense", 2), ("fill x.py:1:1", 1)],
)
def test_a_closed_stream_ends_no_command(tmp_path, arguments, status, closed):
    # Closing standard error hides what is said there, so the exit status has to tell: a traceback's is 1.
    command = f"{shlex.quote(COMMAND[0])} {arguments} {closed}"
    done = subprocess.run(
        ["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, cwd=tmp_path, check=False
    )
    assert done.returncode == status
    assert b"Traceback" not in done.stderr
    assert b"bug" not in done.stderr


@pytest.mark.parametrize(
    ("option", "values"),
    [("--threads", ["-1", "0", "1.5", "x", "9" * 5000]), ("--idle", ["-1", "0", "nan", "x"])],
)
def test_an_engine_is_not_started_with_numbers_that_it_cannot_use(option, values):
    for value in values:
        done = run("engine", "start", option, value, DIFFCODER_HOME="/dev/null")
        assert done.returncode == 2
        assert f"argument {option}: ".encode() in done.stderr
    start = cli._parser().parse_args(["engine", "start", "--threads", "2", "--idle", "inf"])
    assert (start.threads, start.idle) == (2, float("inf"))


@pytest.mark.parametrize(
    ("data", "place", "says"),
    [
        (b"x = 1\n", "9:1", "Line 9 is outside the file: give a line from 1 to 2."),
        (b"x = 1\n", "1:9", "Column 9 is outside line 1: give a column from 1 to 6."),
        (b"x = 1\n", "-1:5", "Line -1 is outside the file: give a line from 1 to 2."),
        (b"x = 1\n", "99999999999:1", "Line 99999999999 is outside the file: give a line from 1 to 2."),
        (b"x = 1\n", "1:-5", "Column -5 is outside line 1: give a column from 1 to 6."),
        (b"x = 1\n", "0:0", "Line 0 is outside the file: give a line from 1 to 2."),
        (b"", "2:1", "Line 2 is outside the file: give a line from 1 to 1."),
        (b"\x7fELF\0\0", "1:1", "is a binary file: name a source file."),
        (b"x = 1\n" * 850_000, "1:1", "has 5.1 MB and diffcoder reads files of up to 4 MB"),
        ("x = 1\n".encode("utf-16"), "1:1", "is UTF-16: save it as UTF-8 first."),
    ],
)
def test_a_bad_place_is_one_sentence(tmp_path, data, place, says):
    path = tmp_path / "code.py"
    path.write_bytes(data)
    assert says in failure("fill", f"{path}:{place}", "--write")
    assert path.read_bytes() == data


def test_bad_targets_are_one_sentence(tmp_path):
    path = tmp_path / "code.py"
    path.write_text("x = 1\n")
    assert "does not exist" in failure("fill", f"{path}x:1:1")
    assert "is a folder" in failure("fill", f"{tmp_path}:1:1")
    assert "names no column" in failure("fill", f"{path}:1")
    assert "names no column" in failure("fill", f"{path}:-1")
    assert "‹?›" in failure("fill", str(path))
    assert "names no lines" in failure("edit", str(path), "do it")
    assert "1 ≤ START ≤ END ≤ 1" in failure("edit", f"{path}:1-2", "do it")
    for lines in ("0", "-1", "1-99999999999"):
        assert "1 ≤ START ≤ END ≤ 1" in failure("edit", f"{path}:{lines}", "do it")


def test_an_instruction_that_says_nothing_is_refused(tmp_path):
    path = tmp_path / "code.py"
    path.write_text("x = 1\n")
    assert failure("edit", f"{path}:1", " \n") == "The instruction is empty: say what to change."
    line = {"id": 1, "before": "a", "start": 1, "end": 1, "instruction": ""}
    (answer,) = answers("edit", "--stdin-json", stdin=json.dumps(line).encode())
    assert answer == {"id": 1, "error": "The instruction is empty: say what to change."}


def test_an_instruction_that_is_too_long_is_blamed_and_not_the_lines(tmp_path):
    path = tmp_path / "code.py"
    path.write_text("x = 1\n")
    long = "x" * (MAX_INSTRUCTION + 1)
    assert failure("edit", f"{path}:1", long) == "The instruction has 4,001 characters: use at most 4,000."
    line = {"id": 1, "before": "a", "start": 1, "end": 1, "instruction": long}
    (answer,) = answers("edit", "--stdin-json", stdin=json.dumps(line).encode())
    assert answer == {"id": 1, "error": "The instruction has 4,001 characters: use at most 4,000."}


def test_a_line_that_no_engine_can_be_started_for_gets_an_error_and_the_rest_goes_on(tmp_path):
    blocked = tmp_path / "engine" / "default.err"
    blocked.mkdir(parents=True)
    stdin = b'{"id":1,"prefix":"a"}\n{"id":2}\n{"id":3,"prefix":"a"}\n'
    got = answers("fill", "--stdin-json", stdin=stdin, DIFFCODER_HOME=str(tmp_path))
    assert [answer["id"] for answer in got] == [1, 2, 3]
    assert [f"{blocked}: Is a directory" in answer["error"] for answer in got] == [True, False, True]


def test_a_model_that_does_not_exist_is_one_sentence(tmp_path):
    path = tmp_path / "code.py"
    path.write_text("x = 1\n")
    for name in ("no-such-model", "../../etc/passwd", "a b"):
        assert "There is no model" in failure("fill", f"{path}:1:1", "--model", name)
    (answer,) = answers("fill", "--stdin-json", stdin=b'{"id":1,"prefix":"a","model":"no-such-model"}\n')
    assert set(answer) == {"id", "error"}
    assert "There is no model 'no-such-model': use one of default, large" in answer["error"]


BAD_FILLS = [
    (b"nonsense", None, "not JSON"),
    (b"[1, 2]", None, "Expected `object`"),
    (b'{"id": 1}', 1, "missing required field `prefix`"),
    (b'{"id": "a", "prefix": "x", "maxtokens": 3}', "a", "unknown field `maxtokens`"),
    (b'{"id": 2, "prefix": 7}', 2, "$.prefix"),
    (b'{"id": 2, "prefix": "x", "max_tokens": "7"}', 2, "$.max_tokens"),
    (b'{"id": 2, "prefix": "x", "max_tokens": true}', 2, "$.max_tokens"),
    (b'{"id": 2, "prefix": "x", "max_tokens": 0}', 2, "$.max_tokens"),
    (b'{"id": 2, "prefix": "x", "rule": "best"}', 2, "$.rule"),
    (b'{"id": 2, "prefix": "x", "verify": 1}', 2, "$.verify"),
    (b'{"id": 2, "prefix": "x", "stop": [1]}', 2, "$.stop"),
    (b'{"id": 2, "prefix": "x", "seed": -1}', 2, "$.seed"),
    (b'{"id": 2, "prefix": "x", "seed": 1' + b"0" * 6000 + b"}", None, "not JSON"),
    (b'{"id": "\\ud800", "prefix": "\\udfff"}', "\ud800", "lone surrogate (U+DFFF)"),
    (b'{"id": NaN, "prefix": "x"}', None, "NaN"),
    (b'{"id": 1e999, "prefix": 1}', None, "$.prefix"),
    (b'{"id": [[]], "prefix": "x"}', None, "$.id"),
    (b'{"id": 3, "prefix": "\xff"}', None, "not UTF-8"),
    (b"[" * 100_000, None, "not JSON"),
    (b'{"id": 4, "prefix": "x"', None, "not JSON"),
]


def test_bad_lines_get_an_error_each_in_order_and_blank_lines_nothing():
    stdin = b"\xef\xbb\xbf\n" + b"\r\n  \n".join(line for line, _, _ in BAD_FILLS)
    got = answers("fill", "--stdin-json", stdin=stdin)
    assert [set(answer) for answer in got] == [{"id", "error"}] * len(BAD_FILLS)
    for answer, (line, name, says) in zip(got, BAD_FILLS, strict=True):
        assert answer["id"] == name, line
        assert says in answer["error"], line
    assert answers("fill", "--stdin-json", stdin=b"") == []


def test_bad_edits_get_an_error_each_whatever_the_locale():
    lines = [
        b'{"id":1,"before":"a\\nb\\n","start":1,"end":3,"instruction":"x"}',
        b'{"id":2,"before":"a","start":0,"end":1,"instruction":"x"}',
        b'{"id":3,"before":"a","start":2,"end":1,"instruction":"x"}',
        b'{"id":"\xc3\xa9","before":"a","start":1,"end":1}',
        b'{"id":5,"before":"a","start":1,"end":1,"instruction":"x","model":"default"}',
    ]
    got = answers("edit", "--stdin-json", stdin=b"\n".join(lines), LC_ALL="POSIX", PYTHONUTF8="0")
    assert [answer["id"] for answer in got] == [1, 2, 3, "é", 5]
    assert ["START ≤ END ≤ 2" in got[0]["error"], "`instruction`" in got[3]["error"]] == [True, True]
    assert "unknown field `model`" in got[4]["error"]


def test_answers_are_flushed_line_by_line_and_an_interrupt_ends_quietly():
    process = subprocess.Popen(
        [*COMMAND, "fill", "--stdin-json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for number in range(3):
        process.stdin.write(b'{"id":%d}\n' % number)
        assert json.loads(process.stdout.readline())["id"] == number
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == b""


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [*COMMAND, "fill", "--stdin-json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(b"{}\n" * 1000, timeout=20)
    assert process.returncode == 141
    assert errors == b""
