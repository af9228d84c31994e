"""Which files of a folder may be learnt from as far as its owners say: ignore files by git's rules, at every depth.

`.gitignore`, `.ignore` and `.diffcoderignore` are read; the deepest that speaks of a path decides. Never followed:
symbolic links, hidden folders. Reads names, and the ignore files' text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

NAMES = (".gitignore", ".ignore", ".diffcoderignore")


def files(folder: Path) -> Iterator[Path]:
    """Every file under `folder` that nothing ignores, in no particular order."""
    rules: dict[Path, GitIgnoreSpec] = {}

    def ignored(path: Path, is_folder: bool) -> bool:
        for above in path.parents:
            if above in rules:
                name = path.relative_to(above).as_posix() + "/" * is_folder
                if (included := rules[above].check_file(name).include) is not None:
                    return included
            if above == folder:
                return False
        return False

    for place, folders, names in os.walk(folder):
        here = Path(place)
        lines = [line for name in NAMES if name in names for line in _lines(here / name)]
        if lines:
            rules[here] = GitIgnoreSpec.from_lines(filter(_is_pattern, lines))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not (here / name).is_symlink() and not ignored(here / name, True)
        ]
        for name in names:
            path = here / name
            if not path.is_symlink() and not ignored(path, False):
                yield path


def _is_pattern(line: str) -> bool:
    """Git passes over a line that is no pattern (`!`, a backslash at the end); so do we."""
    try:
        GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
