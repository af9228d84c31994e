"""A real Neovim with the plugin, in a project of its own, for the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.editors.installing import Editor
from tests.editors.terminal import Terminal

PLUGIN = Path(__file__).parents[2] / "editors" / "nvim"
SERVER = Path(sys.executable).with_name("diffcoder")
ENTER, ESCAPE, TAB, BACKSPACE, INTERRUPT = "\r", "\x1b", "\t", "\x7f", "\x03"
WORD, LINE, NEXT, PREVIOUS = "\x1bw", "\x1bl", "\x1bn", "\x1bp"
"""The plugin's keys, as a terminal sends them."""

_INIT = """\
vim.g.loaded_python3_provider = 0 -- looked for when a Python file is opened, for seconds on a busy machine
vim.opt.rtp:append({plugin})
vim.opt.swapfile, vim.opt.shadafile, vim.opt.ruler, vim.opt.showcmd = false, 'NONE', false, false
vim.opt.termguicolors, vim.opt.background = true, {background}
vim.opt.statusline = ' %f %m%=%{{v:lua.require("diffcoder").statusline()}} '
vim.opt.laststatus, vim.opt.signcolumn = 2, 'no'
vim.diagnostic.config({{ virtual_text = true }})
vim.lsp.config('ruff', {{ cmd = {{ {ruff}, 'server' }}, filetypes = {{ 'python' }}, root_markers = {{ '.git' }} }})
vim.lsp.enable('ruff', {lint})
require('diffcoder').setup(vim.json.decode({options}))
"""


def project(folder: Path, files: Mapping[str, str]) -> Path:
    """A git repository with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True, timeout=30)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@contextmanager
def neovim(
    editor: Editor,
    folder: Path,
    name: str,
    home: Path,
    *,
    light: bool = False,
    rows: int = 24,
    path: str | None = None,
    lint: bool = False,
    **options: Any,
) -> Iterator[Terminal]:
    """Neovim with file `name` of `folder` open; `path` its PATH, `options` the plugin's; with `lint` another
    server runs beside ours. Ends with the block."""
    options.setdefault("cmd", [str(SERVER), "lsp"])
    own = folder.parent / "xdg"
    own.mkdir(exist_ok=True)
    init = own / "init.lua"
    quoted = {
        "plugin": json.dumps(str(PLUGIN)),
        "background": json.dumps("light" if light else "dark"),
        "lint": json.dumps(lint),
        "ruff": json.dumps(str(SERVER.with_name("ruff"))),
        "options": f"[==[{json.dumps(options)}]==]",
    }
    init.write_text(_INIT.format(**quoted), encoding="utf-8")
    places = {f"XDG_{kind}_HOME": str(own) for kind in ("CONFIG", "DATA", "STATE", "CACHE")}
    environment = {**os.environ, **editor.environment, **places, "DIFFCODER_HOME": str(home)}
    environment.pop("NVIM", None)
    if path is not None:
        environment["PATH"] = path
    command = [editor.program, "-u", init, name]
    with Terminal(command, cwd=folder, environment=environment, rows=rows, light=light) as terminal:
        yield terminal


def command(terminal: Terminal, text: str) -> None:
    """Give a command in normal mode."""
    terminal.keys(f":{text}{ENTER}")


def started(terminal: Terminal, seconds: float = 60) -> None:
    """Wait until the server serves the file."""
    terminal.wait(lambda shown: re.search(r"  diffcoder: [a-z]+", shown) is not None, seconds)


def rows(terminal: Terminal) -> list[str]:
    """What the window shows, without the lines after the buffer's end and the last two of the screen."""
    return [row for row in terminal.text().split("\n")[:-2] if row != "~"]


def text(terminal: Terminal, folder: Path) -> str:
    """The buffer itself: what is on the screen may be no text at all."""
    place = folder.parent / "buffer"
    place.unlink(missing_ok=True)
    command(terminal, f"silent keepalt write! {place}")
    end = time.monotonic() + 10
    while not place.exists():
        assert time.monotonic() < end, terminal.text()
        time.sleep(0.05)
    return place.read_text(encoding="utf-8")


def expect(terminal: Terminal, folder: Path, wanted: str, seconds: float = 10) -> None:
    """Wait until the buffer is `wanted`."""
    end = time.monotonic() + seconds
    while (found := text(terminal, folder)) != wanted:
        assert time.monotonic() < end, f"{found!r} is not {wanted!r}\n{terminal.text()}"
        terminal.settle(0.1, 0.3)
