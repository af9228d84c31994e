"""A real Helix with the configuration that we publish: completion, and code actions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.editors.neovim import BACKSPACE, ENTER, ESCAPE, SERVER, TAB, project
from tests.editors.terminal import Terminal

CONFIGURATION = Path(__file__).parents[2] / "editors" / "helix" / "languages.toml"
ANSWER = '# answer: "n * phi(n - 1)"\n\n\ndef two(n):\n    return \n'

COMPLETE = "\x18"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return project(
        tmp_path / "project",
        {"phi.py": ANSWER, "stub.py": '# answer: "return 1"\n\n\ndef one():\n    pass\n'},
    )


@contextmanager
def running(helix, folder: Path, name: str, home: Path, model: str = "answering") -> Iterator[Terminal]:
    own = folder.parent / "xdg"
    (own / "helix").mkdir(parents=True)
    # Ours as it stands, with a server that is here in the place of the language's usual one.
    languages = CONFIGURATION.read_text().replace('"pylsp"', '"ruff"')
    languages += f'\n[language-server.diffcoder.config]\nmodel = "{model}"\n'
    (own / "helix" / "languages.toml").write_text(languages)
    (own / "helix" / "config.toml").write_text('theme = "default"\n[editor]\nidle-timeout = 100\n')
    places = {f"XDG_{kind}_HOME": str(own) for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
    path = f"{SERVER.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **helix.environment, **places, "PATH": path, "DIFFCODER_HOME": str(home)}
    with Terminal([helix.program, name], cwd=folder, environment=environment, rows=24) as terminal:
        terminal.wait("NOR", 20)
        yield terminal


def offered(
    terminal: Terminal, what: str | Callable[[str], bool], ask: str, undo: str, seconds: float = 90
) -> str:
    """Press `ask`, and `undo` and again, until the server and its engine are there and offer it."""
    end = time.monotonic() + seconds
    while True:
        terminal.keys(ask)
        try:
            return terminal.wait(what, 5)
        except AssertionError:
            assert time.monotonic() < end, terminal.text()
            terminal.keys(undo)
            terminal.settle()


def test_completion_has_an_entry_that_the_model_wrote(helix, folder, known_home, keep):
    with running(helix, folder, "phi.py", known_home) as terminal:
        terminal.keys("5ggA")
        offered(terminal, lambda shown: shown.count("n * phi(n - 1)") > 1, COMPLETE, f"x{BACKSPACE}")
        keep(terminal, "helix_completion")
        terminal.keys(f"{TAB}{ENTER}{ESCAPE}")
        terminal.settle()
        terminal.keys(f":write{ENTER}")
        terminal.settle()
        assert (folder / "phi.py").read_text().endswith("def two(n):\n    return n * phi(n - 1)\n")


def test_a_code_action_implements_a_stub(helix, folder, known_home, keep):
    with running(helix, folder, "stub.py", known_home) as terminal:
        terminal.keys("5ggx")
        terminal.settle()
        offered(terminal, "diffcoder: implement", " a", ESCAPE)
        keep(terminal, "helix_code_action")
        terminal.keys(ENTER)
        terminal.wait("    pass", 30, absent=True)
        terminal.keys(f":write{ENTER}")
        terminal.settle()
        assert (folder / "stub.py").read_text().endswith("def one():\n    return 1\n")
