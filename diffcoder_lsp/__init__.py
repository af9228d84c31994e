"""The editor side: the `diffcoder` command and the language server. Never imports torch."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


class _Siblings:
    """Finds our `model` beside this package before any other: a workspace on PYTHONPATH may have one too."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ("model", "training", "evaluation"):
            return PathFinder.find_spec(name, [str(Path(__file__).resolve().parents[1])])
        return None


sys.meta_path.insert(0, _Siblings)
