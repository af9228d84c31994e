"""What every test may need: the real default model, and a home of its own where it meets no user's engine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import store
from model.schema import DiffcoderError

ROOT = Path(__file__).resolve().parents[1]

# A shell starts background jobs with interrupts ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def default_model() -> str:
    """The name of the real default model, which is in the cache: a missing one fails the test."""
    try:
        store.model_path("default")
    except DiffcoderError as error:
        pytest.fail(f"{error.message} (`make setup` does that)")
    return "default"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A `DIFFCODER_HOME` of this test's own that shares the real models; its engines are stopped afterwards.

    The folder's name is short because a Unix socket's path holds about 100 bytes.
    """
    models = store.cache_folder() / "models"
    models.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    (folder / "models").symlink_to(models, target_is_directory=True)
    monkeypatch.setenv("DIFFCODER_HOME", str(folder))
    yield folder
    subprocess.run(
        [sys.executable, "-P", "-m", "diffcoder_lsp.cli", "engine", "stop"],
        env=os.environ | {"DIFFCODER_HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    (folder / "models").unlink()
    shutil.rmtree(folder)
