"""The sandbox holds against every hostile program, as root and as an ordinary user, and fails closed."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from evaluation.sandbox import Limits, Sandbox
from evaluation.verdicts import judge_python

ROOMY = Limits(wall_s=120.0)  # where the clock is not what is tested: machines have other work too
ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests" / "evaluation" / "hostile_suite.py"

# An ordinary user may not reach the interpreter or the checkout (both can lie in root's HOME): show them to
# it under a folder of its own.
AS_ORDINARY_USER = """
set -e
mount --bind "$PYTHON" "$FOLDER/python"; mount --bind "$REPOSITORY" "$FOLDER/repository"
mount --bind "$PACKAGES" "$FOLDER/packages"; cd "$FOLDER/repository"
exec setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH="$FOLDER/repository:$FOLDER/packages" "$FOLDER/python/bin/$INTERPRETER" "$@"
"""


def run_suite(kind: str, *names: str, wrapper: tuple[str, ...] = (), environment=None) -> dict:
    script = SUITE if not wrapper else Path("tests/evaluation/hostile_suite.py")
    command = [
        *wrapper,
        *(() if wrapper else (sys.executable,)),
        str(script),
        kind,
        str(ROOT),
        str(ROOT / "pyproject.toml"),
        *names,
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {})
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_hostile_programs_get_nothing(capsys) -> None:
    answer = run_suite("unshare")
    won = {name: what for name, what in answer["got"].items() if what}
    with capsys.disabled():
        print(f"\nhostile programs, user {answer['user']}: {len(won)} of {len(answer['got'])} succeeded")
    assert len(answer["got"]) >= 40
    assert not won


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite above has run as an ordinary user already")
def test_hostile_programs_get_nothing_from_an_ordinary_user(tmp_path: Path, capsys) -> None:
    for name in ("python", "repository", "packages"):
        (tmp_path / name).mkdir()
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/tmp") and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    environment = {
        "FOLDER": str(tmp_path),
        "PYTHON": sys.base_prefix,
        "INTERPRETER": Path(os.path.realpath(sys.executable)).name,
        "REPOSITORY": str(ROOT),
        "PACKAGES": sysconfig.get_paths()["purelib"],
    }
    wrapper = ("unshare", "-m", "--propagation", "private", "bash", "-c", AS_ORDINARY_USER, "suite")
    answer = run_suite("unshare", wrapper=wrapper, environment=environment)
    won = {name: what for name, what in answer["got"].items() if what}
    with capsys.disabled():
        print(f"\nhostile programs, user {answer['user']}: {len(won)} of {len(answer['got'])} succeeded")
    assert answer["user"] == 65534
    assert not won


def test_without_isolation_the_harmless_ones_win() -> None:
    """The control: the suite sees an escape when there is one."""
    answer = run_suite("unsafe", *runpy.run_path(str(SUITE))["CONTROLS"])
    assert [name for name, what in answer["got"].items() if not what] == []


def test_where_no_namespace_can_be_made_nothing_runs() -> None:
    """Under our own seccomp filter `unshare` is refused, as on a locked-down machine."""
    script = (
        "from evaluation import jail, sandbox\n"
        "from model.schema import DiffcoderError\n"
        "jail.install_filter()\n"
        "try:\n    sandbox.Sandbox.find()\nexcept DiffcoderError as e:\n    print(e.code, e.message)\n"
        "try:\n    print(sandbox.Sandbox('unshare').run(['/bin/echo', 'ran'], {}, sandbox.Limits()))\n"
        "except DiffcoderError as e:\n    print(e.code)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=env, timeout=300
    )
    assert "sandbox_missing" in done.stdout, done.stdout + done.stderr
    assert "--unsafe" in done.stdout
    assert "sandbox_refused" in done.stdout
    assert "ran" not in done.stdout.replace("nothing was run", "").split()


@pytest.mark.parametrize(
    ("script", "killed", "wall_s"),
    [
        ("exec yes", "output", 120.0),
        ("exec yes >&2", "output", 120.0),
        ("sleep 600", "time", 2.0),
        ("tail /dev/zero", "memory", 120.0),
    ],
)
def test_limits_are_named(sandbox: Sandbox, script: str, killed: str, wall_s: float) -> None:
    limits = Limits(wall_s=wall_s, memory_mb=200, address_space=False, output_bytes=10_000)
    outcome = sandbox.run(["/bin/sh", "-c", script], {}, limits)
    assert outcome.killed == killed
    assert len(outcome.stdout) <= 10_000
    assert len(outcome.stderr) <= 10_000


def test_a_room_has_its_files_and_nothing_of_the_user(sandbox: Sandbox) -> None:
    script = "cat a/b.txt; pwd; echo $HOME; ls /home /mnt /var /sys 2>/dev/null; wc -l < /proc/net/dev"
    outcome = sandbox.run(
        ["/bin/sh", "-c", script], {"a/b.txt": "naïve\n"}, Limits(wall_s=120.0, address_space=False)
    )
    lines = outcome.stdout.decode().splitlines()
    assert lines[:3] == ["naïve", "/tmp", "/tmp"]
    assert lines[3:] == ["3"]  # two lines of heading and the loopback, which is down


def test_an_honest_program_passes(sandbox: Sandbox) -> None:
    program = "import collections\n\ndef f(x):\n    return {'n': [x, (1, 2.5)], 's': {x}}\n"
    assert judge_python(
        sandbox, program, "assert f(3) == {'n': [3, (1, 2.5)], 's': {3}}", limits=ROOMY
    ).passed
    wrong = judge_python(sandbox, program, "assert f(3) == {'n': [3, [1, 2.5]], 's': {3}}", limits=ROOMY)
    assert not wrong.passed
    assert wrong.reason == "AssertionError"


def test_data_survives_the_wire(sandbox: Sandbox) -> None:
    program = "def f(x):\n    return x\n"
    tests = """
import collections, datetime, decimal, fractions, math
for value in [None, True, 0, -1, 10**5000, 1.5, -0.0, float("inf"), "", "naïve \\ud800 \\x00", b"\\xff",
              1j, (), (1,), [], [[]], {}, {1: {2: 3}}, {(1, 2): [3]}, set(), {1, 2}, frozenset({3}), range(3),
              slice(1, 2), collections.deque([1]), decimal.Decimal("1.10"), fractions.Fraction(1, 3),
              datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3, 4), datetime.timedelta(1, 2), int]:
    got = f(value)
    assert type(got) is type(value), (got, value)
    assert repr(got) == repr(value), (got, value)
assert math.isnan(f(float("nan")))
assert list(f(iter([1, 2]))) == [1, 2]
"""
    verdict = judge_python(sandbox, program, tests, limits=ROOMY)
    assert verdict.passed, verdict.reason


def test_objects_stay_where_they_are(sandbox: Sandbox) -> None:
    program = (
        "class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\n"
        "def last(n):\n    while n.next:\n        n = n.next\n    return n.v\n"
        "def broken():\n    raise KeyError('k')\n"
    )
    tests = (
        "a, b = Node(1), Node(2)\na.next = b\nassert last(a) == 2\nassert a.next.v == 2\nassert a != 1\n"
        "assert isinstance(a, Node)\ntry:\n    broken()\nexcept KeyError:\n    pass\n"
        "else:\n    raise SystemExit\n"
    )
    verdict = judge_python(sandbox, program, tests, objects=True, limits=ROOMY)
    assert verdict.passed, verdict.reason
    verdict = judge_python(sandbox, program, tests, limits=ROOMY)
    assert verdict.reason == "CandidateError: the program answered with an object that is no plain data"


def test_of_a_match_object_the_tests_learn_that_there_is_one(sandbox: Sandbox) -> None:
    program = "import re\ndef find(text):\n    return re.search('b+', text)\n"
    tests = "assert find('abb') is not None\nassert find('a') is None\nassert find('abb') != 'bb'\n"
    assert judge_python(sandbox, program, tests, limits=ROOMY).passed
    more = "assert find('abb').group() == 'bb' and find('abb').span() == (1, 3)\n"
    assert judge_python(sandbox, program, tests + more, objects=True, limits=ROOMY).passed
    assert not judge_python(sandbox, program, tests + more, limits=ROOMY).passed
    forged = "import re\nclass Match(re.Match.__class__):\n    pass\ndef find(text):\n    return Match('M', (), {})()\n"
    assert not judge_python(sandbox, forged, tests, limits=ROOMY).passed


def test_a_room_ends_with_its_caller(sandbox: Sandbox) -> None:
    mark = f"{600 + os.getpid() / 1e7:.7f}"
    script = (
        "from evaluation.sandbox import *\n"
        f"Sandbox.find().run(['/bin/sleep', '{mark}'], {{}}, Limits(wall_s=600, cpu_s=600))\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)})

    def alive() -> bool:
        return any(
            mark.encode() in p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if readable(p)
        )

    def readable(path: Path) -> bool:
        try:
            return path.read_bytes().startswith(b"/bin/sleep")
        except OSError:
            return False

    wait_until(alive)
    caller.kill()
    caller.wait()
    wait_until(lambda: not alive())


def wait_until(true, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)
