"""Machines on which something is not as it should be, for the tests of editors: made of links and small programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def without_python(folder: Path, path: str) -> Path:
    """A new folder with all programs of a PATH but Python and ours."""
    folder.mkdir()
    for each in map(Path, path.split(os.pathsep)):
        for program in each.iterdir() if each.is_dir() else ():
            link = folder / program.name
            if not program.name.startswith(("python", "diffcoder")) and not os.path.lexists(link):
                link.symlink_to(program)
    return folder


def program(path: Path, text: str) -> Path:
    """A program in a file of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def of_another_version(folder: Path, version: str) -> Path:
    """The server of this checkout, installed as another version."""
    metadata = folder / f"diffcoder-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: diffcoder\nVersion: {version}\n")
    return program(
        folder / "diffcoder",
        f"#!{sys.executable} -P\nimport sys\nsys.path.insert(0, {str(folder)!r})\n"
        "from diffcoder_lsp.cli import main\nsys.exit(main())\n",
    )
