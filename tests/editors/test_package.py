"""What `make package` makes: a wheel and an extension of one version, which work where nothing else of ours is."""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VERSION = PROJECT["project"]["version"]
MOST_BYTES = 1_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(tmp_path_factory.mktemp("dist"))


def built_wheel(folder: Path) -> Path:
    command = ["make", "--no-print-directory", "wheel", f"DIST={folder}"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    (built,) = folder.iterdir()
    return built


def test_the_wheel_holds_our_packages_with_their_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(f"diffcoder-{VERSION}.dist-info/METADATA").decode()
    assert email.message_from_string(metadata)["Version"] == VERSION
    packages = {name.partition("/")[0] for name in names}
    assert packages - {f"diffcoder-{VERSION}.dist-info"} == {
        name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]
    }
    tracked = subprocess.run(
        ["git", "ls-files", "model/*.toml", "model/adapters/*.safetensors", "training/recipes/*.toml"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert tracked
    assert set(tracked) <= set(names)


def test_the_extension_is_small_and_of_the_same_version(vsix, wheel):
    assert vsix.name == f"diffcoder-{VERSION}.vsix"
    assert wheel.name.startswith(f"diffcoder-{VERSION}-")
    assert vsix.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(vsix) as archive:
        names = set(archive.namelist())
        assert json.loads(archive.read("extension/package.json"))["version"] == VERSION
        # What it installs the server with is what this checkout is tested with.
        assert archive.read("extension/constraints.txt") == (ROOT / "constraints.txt").read_bytes()
    assert "extension/dist/extension.js" in names
    assert not any("/src/" in name or "/test/" in name or "node_modules" in name for name in names)


@pytest.mark.model
@pytest.mark.timeout(1200)
def test_the_wheel_works_in_an_empty_environment(wheel, home, tmp_path):
    """Nothing of this environment or checkout is seen: torch and all else come from where pip gets them."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "trial"], check=True, timeout=120)
    programs = tmp_path / "trial" / "bin"
    own = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    own["DIFFCODER_HOME"] = str(home)

    def run(*command: str | Path, seconds: float = 300) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path, env=own, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    torch = next(
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch==")
    )
    pip = [programs / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "-c", ROOT / "constraints.txt", torch, wheel, seconds=900)
    assert run(programs / "diffcoder", "--version").split()[-1] == VERSION
    said = json.loads(run(programs / "diffcoder", "doctor", "--json"))
    found = {check["name"]: check for check in said}
    assert all(check["state"] != "problem" for check in said), said
    assert str(programs) in found["Python"]["detail"]
    assert f"diffcoder {VERSION}" in found["packages"]["detail"]
    assert "starts and answers" in found["engine"]["detail"]
    # The engine of the wheel writes, with the adapter that came in it.
    (tmp_path / "one.py").write_text("def add(a, b):\n    return \n")
    filled = json.loads(run(programs / "diffcoder", "fill", "one.py:2:12", "--json"))
    assert filled["text"].strip() == "a + b", filled
    run(programs / "diffcoder", "engine", "stop")
