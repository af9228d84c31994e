"""What the tests of editors share. They run with `make test-editors` alone: editors are large, and not everywhere.

`--screens FOLDER` keeps what the screens showed, as text and as pictures, where the documentation has them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model import store
from tests.editors import code_server, installing
from tests.editors.installing import Editor, Missing
from tests.editors.picture import animate, picture, save
from tests.editors.terminal import Terminal

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screens", type=Path, help="keep the screens of editors in this folder")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if any("editors" in argument for argument in config.args) else True


def editor(find: Callable[[], Editor]) -> Editor:
    try:
        return find()
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session", params=["0.12 or newer", "0.11"])
def any_neovim(request: pytest.FixtureRequest) -> Editor:
    """Both Neovims: the one that shows ghost text itself, and the one that does not."""
    return editor(installing.old_neovim if request.param == "0.11" else installing.neovim)


@pytest.fixture(scope="session")
def new_neovim() -> Editor:
    return editor(installing.neovim)


@pytest.fixture(scope="session")
def helix() -> Editor:
    return editor(installing.helix)


@pytest.fixture(scope="session")
def emacs() -> Editor:
    return editor(installing.emacs)


@pytest.fixture(scope="session")
def tools() -> code_server.Tools:
    """What builds the VS Code extension and runs VS Code."""
    try:
        return code_server.tools()
    except Missing as missing:
        pytest.skip(f"VS Code cannot be tested here: {missing}")


@pytest.fixture(scope="session")
def vsix(tools: code_server.Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return code_server.package(tools, tmp_path_factory.mktemp("vsix"))


@pytest.fixture(scope="session")
def known_home() -> Iterator[Path]:
    """A home whose engine answers what the document says (answering_engine.py)."""
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    entry = '[answering]\ntitle = "Answering"\n[[answering.sources]]\nkind = "file"\npath = "none.gguf"\n'
    (folder / "models.toml").write_text(entry)
    (folder / "engine").mkdir(mode=0o700)
    socket = folder / "engine" / "answering.sock"
    program = [
        sys.executable,
        "-P",
        str(HERE / "answering_engine.py"),
        str(socket),
        "--forward-seconds",
        "0.05",
    ]
    engine = subprocess.Popen(program, cwd=HERE.parents[1])
    end = time.monotonic() + 60
    while not socket.with_suffix(".json").exists():
        assert engine.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    yield folder
    engine.kill()
    engine.wait(20)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def real_home() -> Iterator[Path]:
    """A home with the real models and an engine of its own for all the tests that use it."""
    models = store.cache_folder() / "models"
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    (folder / "models").symlink_to(models, target_is_directory=True)
    environment = os.environ | {"DIFFCODER_HOME": str(folder)}
    diffcoder = [sys.executable, "-P", "-m", "diffcoder_lsp.cli"]
    subprocess.run([*diffcoder, "engine", "start"], env=environment, timeout=600, check=True)
    yield folder
    subprocess.run([*diffcoder, "engine", "stop"], env=environment, timeout=60, check=False)
    (folder / "models").unlink()
    shutil.rmtree(folder)


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Callable[[Terminal, str], None]:
    """Keep a screen under a name: as text and, in colour, as a picture."""
    folder: Path | None = request.config.getoption("--screens", None)

    def keep(terminal: Terminal, name: str) -> None:
        if folder is not None:
            terminal.settle(0.2, 2)
            name += "_light" if terminal.light else ""
            save(picture(terminal.cells(), terminal.cursor(), light=terminal.light), folder / f"{name}.png")
            if not terminal.light:
                (folder / f"{name}.txt").write_text(terminal.text().rstrip() + "\n", encoding="utf-8")

    return keep


@pytest.fixture
def film(request: pytest.FixtureRequest) -> Callable[[Terminal, str, str, float], None]:
    """Wait until a terminal shows a text, and keep what it showed meanwhile as an animation, without long waits."""
    folder: Path | None = request.config.getoption("--screens", None)

    def film(terminal: Terminal, name: str, wanted: str, seconds: float) -> None:
        seen: list[tuple[str, list, tuple[int, int]]] = []

        def look(shown: str) -> bool:
            still = re.sub(r"[◐◓◑◒] \d+ s", "", shown)
            if not seen or still != seen[-1][0]:
                seen.append((still, terminal.cells(), terminal.cursor()))
            return wanted in shown

        terminal.wait(look, seconds)
        terminal.settle(0.2, 2)
        if folder is not None and not terminal.light:
            images = [picture(cells, cursor) for _, cells, cursor in seen]
            last = picture(terminal.cells(), terminal.cursor())
            animate([(image, 0.25) for image in images] + [(last, 3.0)], folder / f"{name}.gif")

    return film
