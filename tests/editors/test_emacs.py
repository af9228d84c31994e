"""A real Emacs with the file that we publish: gaps, an edit of the region, an entry in the completion list."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.editors.neovim import SERVER, project

HERE = Path(__file__).parent
CONFIGURATION = HERE.parents[1] / "editors" / "emacs" / "diffcoder.el"


def test_eglot_fills_edits_and_completes(emacs, known_home, tmp_path):
    folder = project(tmp_path / "project", {"gaps.py": '# answer: "1 + 2"\nx = ‹?›\nedited = 0\n'})
    environment = {
        **os.environ,
        **emacs.environment,
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "PATH": f"{SERVER.parent}{os.pathsep}{os.environ['PATH']}",
        "DIFFCODER_HOME": str(known_home),
    }
    command = [emacs.program, "--batch", "-Q", "-l", CONFIGURATION, "-l", HERE / "emacs.el"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.stdout.splitlines() == ["server: diffcoder", "gaps filled", "edited", "completed"], (
        done.stderr
    )
