"""A session in a real Neovim with the real default model: each capability once, and the engine killed in the middle.

How good the answers are is measured elsewhere; here each must come, be shown, and be taken or left.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.editors.neovim import (
    BACKSPACE,
    ENTER,
    ESCAPE,
    NEXT,
    TAB,
    WORD,
    command,
    expect,
    neovim,
    project,
    started,
    text,
)

pytestmark = [pytest.mark.model, pytest.mark.timeout(1800)]

BASKET = '''\
"""A basket of fruit, and what it costs."""


def total_price(basket):
    total = 0
    for fruit in basket:
        total += fruit.price * fruit.weight
    return total


def total_weight(basket):
    total = 0
    for fruit in basket:
        total += fruit.weight
    return total
'''
PRICES = BASKET.split("\n\n\n")[1] + "\n"
GAPS = """\
def average(prices):
    return sum(‹?›) / len(‹?›)


def below(prices, limit):
    return [p for p in prices if ‹?›]
"""
WORDS = '''\
"""Words of a text."""


def longest(words):
    best = ""
    for word in words:
        if len(word) > len(best):
            best = wrod
    return best
'''
PATIENCE = 600
"""Seconds for the model: a request takes one or two on a quiet machine, and minutes on a busy one."""


def busy(shown: str) -> bool:
    """Whether the model is at work: the plugin's clock runs."""
    return re.search(r"[◐◓◑◒] \d+ s", shown) is not None


def suggested(shown: str) -> bool:
    """Whether there is a body that nobody typed; there may be one alternative or more."""
    body = shown.partition("def heaviest(basket):\n")[2].partition("\n")[0]
    return body.startswith("    ") and body.strip() != "" and not busy(shown)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {"basket.py": BASKET, "prices.py": PRICES, "shop.py": GAPS, "words.py": WORDS}
    return project(tmp_path / "project", files)


@pytest.fixture
def empty_home() -> Iterator[Path]:
    """A home without any model; its engine ends with the test."""
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    yield folder
    stop = [sys.executable, "-P", "-m", "diffcoder_lsp.cli", "engine", "stop"]
    subprocess.run(stop, env=os.environ | {"DIFFCODER_HOME": str(folder)}, timeout=60, check=False)
    shutil.rmtree(folder)


@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
def test_ghost_text_of_the_model_is_taken(new_neovim, folder, real_home, keep, light):
    few = {"inline": {"alternatives": 2, "maxTokens": 32}}
    with neovim(new_neovim, folder, "basket.py", real_home, light=light, settings=few) as terminal:
        started(terminal)
        terminal.type(f"Go{ENTER}{ENTER}def heaviest(basket):{ENTER}")
        terminal.keys(
            NEXT
        )  # asked for, it comes however slow the machine is; automatic ones end after 8 seconds
        terminal.wait(suggested, PATIENCE)
        keep(terminal, "neovim_ghost_text")
        terminal.keys(WORD)
        terminal.settle()
        terminal.keys(f"{TAB}{ESCAPE}")
        terminal.settle()
        new = text(terminal, folder)
        assert new.startswith(f"{BASKET}\n\ndef heaviest(basket):\n    ")
        assert new.splitlines()[-1].strip()


@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
def test_an_edit_is_drafted_and_reviewed(new_neovim, folder, real_home, keep, film, light):
    with neovim(new_neovim, folder, "prices.py", real_home, light=light, rows=16) as terminal:
        started(terminal)
        command(terminal, "1,5Diffcoder edit Rename basket to fruits")
        terminal.wait(lambda shown: shown.count("def total_price(") > 1, PATIENCE)  # the draft
        film(terminal, "neovim_denoising", "1 of 2", PATIENCE)
        keep(terminal, "neovim_review")
        terminal.keys(ENTER)
        terminal.wait("1 of 1", 20)
        terminal.keys(BACKSPACE)
        terminal.wait("1 of 2 changes taken", 20)
        expect(terminal, folder, PRICES.replace("total_price(basket)", "total_price(fruits)"))
        terminal.keys("u")
        expect(terminal, folder, PRICES)


@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
def test_two_gaps_are_filled_together(new_neovim, folder, real_home, keep, light):
    with neovim(new_neovim, folder, "shop.py", real_home, light=light, rows=16) as terminal:
        started(terminal)
        command(terminal, "Diffcoder fill")
        terminal.wait("1 of 2", PATIENCE)
        keep(terminal, "neovim_gaps")
        terminal.keys(f"g{ENTER}")
        terminal.wait("2 of 2 changes taken", 20)
        new = text(terminal, folder)
        assert "‹?›" not in new
        terminal.keys("u")
        expect(terminal, folder, GAPS)


@pytest.mark.parametrize("light", [False, True], ids=["dark", "light"])
def test_a_diagnostic_of_another_server_is_fixed(new_neovim, folder, real_home, keep, light):
    with neovim(new_neovim, folder, "words.py", real_home, light=light, rows=16, lint=True) as terminal:
        started(terminal)
        terminal.wait("Undefined name `wrod`", 60)
        command(terminal, "8")
        command(terminal, "Diffcoder fix")
        terminal.wait("1 of 1", PATIENCE)
        keep(terminal, "neovim_fix")
        terminal.keys(ENTER)
        expect(terminal, folder, WORDS.replace("wrod", "word"))
        terminal.wait("Undefined name", 60, absent=True)


def test_the_session_goes_on_when_the_engine_is_killed(new_neovim, folder, real_home):
    with neovim(new_neovim, folder, "words.py", real_home) as terminal:
        started(terminal)
        command(terminal, "4,9Diffcoder edit Rename words to names")
        terminal.wait(lambda shown: shown.count("def longest(") > 1, PATIENCE)
        (engine,) = [
            process.pid
            for process in psutil.process_iter(["cmdline"])
            if "model.service" in (process.info["cmdline"] or [])
            and any(part.startswith(str(real_home)) for part in process.info["cmdline"])
        ]
        os.kill(engine, signal.SIGKILL)
        terminal.wait(busy, PATIENCE, absent=True)
        if "1 of" not in terminal.settle():  # an answer that was lost is said to be, and the next one comes
            terminal.keys(ENTER)
            command(terminal, "4,9Diffcoder edit Rename words to names")
            terminal.wait("1 of", PATIENCE)
        terminal.keys(f"g{ENTER}")
        terminal.wait("changes taken", 20)
        assert text(terminal, folder) != WORDS


def test_a_model_that_is_missing_is_offered_fetched_in_sight_and_used(new_neovim, folder, empty_home):
    def fetch(terminal) -> None:
        command(terminal, "Diffcoder model")
        shown = terminal.wait("tiny", 60)
        (row,) = [row.strip() for row in shown.splitlines() if "  tiny " in row]
        assert re.fullmatch(r"\d+: fetch +tiny +0\.1 GB +\d\.\d GB +Apache-2\.0", row), row
        terminal.keys(f"{row.partition(':')[0]}{ENTER}")

    with neovim(new_neovim, folder, "basket.py", empty_home, rows=30) as terminal:
        started(terminal)
        terminal.type(f"Go{ENTER}{ENTER}def heaviest(basket):{ENTER}")
        terminal.settle(1)
        terminal.keys(ESCAPE)
        terminal.wait("the model 'default' is not on this machine", 60)  # asked when it takes no key
        shown = terminal.wait("Not now", 10)
        (choice,) = re.findall(r"(\d): Not now", shown)
        assert "Download (491 MB)" in shown
        terminal.keys(f"{choice}{ENTER}")
        fetch(terminal)
        terminal.wait(lambda shown: re.search(r"\d+ (of \d+ )?MB|\d+ ?%", shown) is not None, 120)
        terminal.wait("the model is tiny now", PATIENCE)
        assert (empty_home / "models" / "tiny").is_dir()
        terminal.keys(ENTER)
        terminal.wait("tiny", 60)
        terminal.keys("Go")
        terminal.keys(NEXT)
        terminal.wait(lambda shown: not busy(shown) and "def heaviest" in shown, PATIENCE)


def test_a_model_that_cannot_be_fetched_says_why(new_neovim, folder, empty_home, monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with neovim(new_neovim, folder, "basket.py", empty_home, rows=30) as terminal:
        started(terminal)
        command(terminal, "Diffcoder model tiny")
        terminal.wait("tiny was not fetched: the terminal says why; a next try goes on from there", 300)
        assert "network" in terminal.text()
