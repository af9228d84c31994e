"""Which files of a folder may be learnt from as far as its owners say: ignore files by git's rules, at every depth.

Those of the folders above count too, up to where the repository begins. Never followed: symbolic links, hidden folders.
Reads names, and the ignore files' text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from model import ignoring


def files(folder: Path) -> Iterator[Path]:
    """Every file under `folder` that nothing ignores, in no particular order. A folder that is named although it lies in
    an ignored one (node_modules, .venv, pyenv's versions) is meant: then its own rules alone count."""
    real = folder.resolve()
    rules: dict[Path, ignoring.Rules] = {}
    root = ignoring.repository(real) or real

    def ignored(path: Path, is_folder: bool) -> bool:
        return ignoring.ignored(path, is_folder, root, rules.get)

    above = [real, *real.parents]
    for here in reversed(above[: above.index(root)]):
        rules[here.parent] = ignoring.read(ignoring.files(here.parent))
        if ignored(here, True):
            root = real
            break
    for place, folders, names in os.walk(real):
        here = Path(place)
        if not {*ignoring.NAMES, ".git"}.isdisjoint(folders + names):
            rules[here] = ignoring.read(ignoring.files(here))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not (here / name).is_symlink() and not ignored(here / name, True)
        ]
        for name in names:
            path = here / name
            if not path.is_symlink() and not ignored(path, False):
                yield folder / path.relative_to(real)
