"""The extension in a real VS Code where nothing is there yet: from an untrusted folder, without server, Python, network
and model, by the buttons that it offers, to ghost text of the server that it installed itself.

One window goes through all steps of vscode_bare.mjs, each from where the one before has left it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.editors import code_server
from tests.editors.code_server import steps_of
from tests.editors.machines import of_another_version, program
from tests.editors.test_package import VERSION, built_wheel

STEPS = Path(__file__).with_name("vscode_bare.mjs")
FILES = {"prices.py": "def total(prices, discount):\n    return sum(prices) - discount\n"}

pytestmark = [pytest.mark.model, pytest.mark.timeout(2700)]


@pytest.fixture(scope="module")
def found(
    tools: code_server.Tools, vsix: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    root = tmp_path_factory.mktemp("bare")
    ran, pip = root / "ran", root / "pip.conf"
    # A folder that would have a program of its own started as the server.
    program(root / "project" / "server", f"#!/bin/sh\ntouch {ran}\n")
    own = {".vscode/settings.json": json.dumps({"diffcoder.server.path": str(root / "project" / "server")})}
    settings = {
        "diffcoder.inline.confidence": 0,
        "diffcoder.inline.alternatives": 1,
        "diffcoder.install.package": str(built_wheel(tmp_path_factory.mktemp("wheel"))),
        "security.workspace.trust.startupPrompt": "never",
        "security.workspace.trust.banner": "never",
    }
    more = {
        "python": str(Path(sys.base_prefix) / "bin" / "python3"),
        "pip": str(pip),
        "ran": str(ran),
        "other": str(of_another_version(root / "other", "0.9.0")),
    }
    environment = {"PIP_CONFIG_FILE": str(pip)}
    return steps_of(
        tools, vsix, root, STEPS, FILES | own, settings, bare=True, more=more, environment=environment
    )


def test_without_a_server_one_is_offered(found):
    step = found("noServer")
    assert "The server is not installed on this machine." in step["text"]
    assert step["buttons"] == ["Install It", "I Have It"]
    assert "not installed" in step["entry"]


def test_without_a_python_one_can_be_chosen(found):
    step = found("noPython")
    assert "The server needs Python 3.11 or newer, and none was found." in step["text"]
    assert step["buttons"] == ["Get Python", "Choose a Python"]
    assert step["setting"]


def test_without_a_network_the_installation_says_so_and_leaves_nothing_behind(found):
    step = found("noNetwork")
    assert "the package index was not reached" in step["text"]
    assert "Try Again" in step["buttons"]
    assert step["installed"] == []


def test_an_installation_is_stopped_by_its_button(found):
    step = found("stopped")
    assert step["installed"] == []
    assert "not installed" in step["entry"]


def test_the_server_is_installed_with_progress_and_starts(found):
    step = found("install")
    assert step["cancel"]
    assert any("fetching" in text for text in step["seen"]), step["seen"]
    assert step["installed"] == [f"server-{VERSION}"]


def test_a_folder_that_is_not_trusted_is_left_alone_until_it_is(found):
    step = found("untrusted")
    assert not step["ran"]
    assert "Manage Trust" in step["buttons"]
    assert "not trusted" not in step["trusted"]


def test_a_model_that_is_missing_is_offered_once(found):
    step = found("noModel")
    assert any("Download" in button for button in step["buttons"])
    assert "Not now" in step["buttons"]


def test_a_download_without_a_network_can_be_tried_again(found):
    step = found("noNetworkForModels")
    assert step["buttons"] == ["Try Again", "Choose Model", "Show Log"]


def test_the_installed_server_writes(found):
    assert found("model")["shown"]


def test_a_server_of_another_version_is_named(found):
    step = found("otherVersion")
    assert f"The server is 0.9.0 and this extension is {VERSION}: they may not fit." in step["text"]
    assert step["buttons"] == ["Open Setting", "Copy Path"]
    assert step["setting"]


def test_a_program_that_is_no_server_is_told(found):
    step = found("noSuchServer")
    assert "The server did not start (/bin/true ended before it answered)." in step["text"]
    assert step["buttons"][0] == "Open Setting"
