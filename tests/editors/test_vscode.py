"""The extension in a real VS Code (code-server in a headless Chromium) with the real default model: keys in, screen out.

One window goes through all steps of vscode.mjs, and each test looks at what one of them found. Skipped, with the
reason, where code-server or Chromium cannot be had.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.editors import code_server

STEPS = Path(__file__).with_name("vscode.mjs")
FILES = {
    "ghost.py": '"""Small numbers."""\n\n\n',
    "prices.py": (
        "def total(prices, discount):\n    result = 0\n    for price in prices:\n        result += price\n"
        "    return result - discount\n"
    ),
    "gaps.py": "def cheapest(prices):\n    return ‹?›\n\n\ndef average(prices):\n    pass\n",
    "colours.json": '{\n  "red": 1\n  "green": 2\n}\n',
    "locked.py": "def one():\n    return 1\n",
}
SETTINGS = {
    "diffcoder.inline.confidence": 0,  # the test is about the editor, not about when the model is sure
    "diffcoder.inline.alternatives": 1,
    "files.readonlyInclude": {"**/locked.py": True},
}

pytestmark = [pytest.mark.model, pytest.mark.timeout(2700)]


@pytest.fixture(scope="module")
def found(
    tools: code_server.Tools, vsix: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """What a step found; fails with the step's own words."""
    root = tmp_path_factory.mktemp("vscode")
    try:
        with code_server.driven(tools, vsix, root, FILES, SETTINGS) as options:
            with (root / "steps.jsonl").open("wb") as lines, (root / "steps.log").open("wb") as log:
                subprocess.run(
                    ["node", str(STEPS), json.dumps(options)],
                    env=tools.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=lines,
                    stderr=log,
                    timeout=2400,
                    check=False,
                )
    finally:
        if keep := os.environ.get("DIFFCODER_TEST_SHOTS"):
            shutil.copytree(root / "shots", keep, dirs_exist_ok=True)
    said = (root / "steps.jsonl").read_text("utf-8").splitlines()
    steps = {line["step"]: line for line in map(json.loads, said)}

    def found(step: str) -> dict[str, Any]:
        assert step in steps, f"the browser ended before {step}: {(root / 'steps.log').read_text()}"
        assert "error" not in steps[step], steps[step]["error"]
        return steps[step]["found"]

    return found


def test_ghost_text_is_accepted_by_word_then_whole(found):
    step = found("ghost")
    typed = step["typed"]
    assert step["shown"]
    taken = step["word"].removeprefix(typed)
    assert taken
    assert step["shown"].startswith(taken.strip())
    assert len(taken) < len(step["shown"])
    assert step["all"].startswith(step["word"])
    assert step["shown"].splitlines()[0] in step["all"]


def test_an_edit_shows_its_draft_and_is_taken_hunk_by_hunk(found):
    step = found("edit")
    assert step["before"] == FILES["prices.py"]
    assert any("money" in draft for draft in step["drafts"])
    assert step["made"].count("money") == 3
    before, made, decided = (step[name].splitlines() for name in ("before", "made", "decided"))
    assert decided[1] == made[1] == "    money = 0"  # accepted
    assert decided[2:] == before[2:]  # rejected


def test_one_undo_takes_the_edit_and_its_review_back(found):
    assert found("edit")["undone"] == FILES["prices.py"]
    assert found("gaps")["undone"] == FILES["gaps.py"]


def test_two_gaps_are_filled_together(found):
    step = found("gaps")
    assert step["drafts"]
    assert any("Change 1 of 2" in lens for lens in step["lenses"])
    assert "‹?›" not in step["filled"]
    assert "average(prices):\n    pass" not in step["filled"]
    compile(step["filled"], "gaps.py", "exec")


def test_a_problem_of_another_extension_is_fixed(found):
    step = found("fix")
    assert "comma" in step["offered"].lower()
    assert json.loads(step["fixed"]) == {"red": 1, "green": 2}


def test_the_prompt_that_was_sent_is_shown(found):
    assert '"prefix"' in found("prompt")["text"] or '"before"' in found("prompt")["text"]


def test_a_killed_engine_is_started_again(found):
    step = found("kill")
    assert step["after"] != step["before"]
    assert step["shown"].splitlines()[0] in step["text"]


def test_a_review_survives_a_reload_of_the_window(found):
    step = found("reload")
    assert step["made"].count("money") == 3
    assert 0 < step["one"].count("money") < 3
    assert step["all"] == FILES["prices.py"]


def test_a_model_is_pulled_with_progress(found):
    step = found("pull")
    assert "98 MB to download" in step["offered"]
    assert "of memory" in step["offered"]
    assert "Apache-2.0" in step["offered"]
    assert step["cancel"]
    assert any("MB" in text for text in step["seen"])
    assert step["here"]


def test_statistics_are_shown(found):
    assert "Ghost text" in found("statistics")["text"]


def test_a_server_that_is_not_there_is_named_and_mended_by_a_button(found):
    step = found("noServer")
    assert "diffcoder.server.path names /nowhere/diffcoder, which is no program here." in step["text"]
    assert "Use Another" in step["buttons"]
    assert "no program" in step["entry"]


def test_a_read_only_file_is_left_alone_until_the_user_says_so(found):
    step = found("readOnly")
    assert "Make It Writable" in step["buttons"]
    assert step["before"].rstrip() == FILES["locked.py"].rstrip()
    assert len(step["after"]) > len(step["before"])
    assert step["saved"].rstrip() == step["after"].rstrip()
