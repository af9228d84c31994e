"""What the extension says of itself, held to what the server takes and to what is built beside it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MANIFEST = json.loads((ROOT / "editors/vscode/package.json").read_text("utf-8"))
SOURCES = {path.name: path.read_text("utf-8") for path in (ROOT / "editors/vscode/src").glob("*.ts")}
THE_CLIENTS = {"drafts", "trusted", "completion"}
"""Settings of the server that the extension decides."""


def server_settings() -> dict[str, dict]:
    schema = json.loads((ROOT / "docs/settings.schema.json").read_text("utf-8"))
    found = {}
    for name, each in schema["$defs"]["Settings"]["properties"].items():
        if "$ref" in each:
            inner = schema["$defs"][each["$ref"].rpartition("/")[2]]["properties"]
            found |= {f"{name}.{key}": value for key, value in inner.items()}
        else:
            found[name] = each
    return {name: each for name, each in found.items() if name.partition(".")[0] not in THE_CLIENTS}


def test_the_version_is_the_wheels():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert MANIFEST["version"] == project["version"]


def test_every_setting_of_the_server_is_offered_with_its_words_and_its_default():
    offered = MANIFEST["contributes"]["configuration"]["properties"]
    for name, each in server_settings().items():
        assert offered[f"diffcoder.{name}"]["markdownDescription"] == each["description"], name
        assert offered[f"diffcoder.{name}"]["default"] == each["default"], name


def test_the_server_is_sent_its_settings_and_no_others():
    sent = re.search(r"SERVER_SETTINGS = \[(.*?)\]", SOURCES["server.ts"])
    assert sent is not None
    assert set(re.findall(r"'(\w+)'", sent[1])) == {name.partition(".")[0] for name in server_settings()}


def test_every_command_is_there():
    declared = {each["command"].removeprefix("diffcoder.") for each in MANIFEST["contributes"]["commands"]}
    table = SOURCES["extension.ts"].partition("const table")[2].partition("for (const")[0]
    written = set(re.findall(r"^    (\w+): ", table, re.MULTILINE))
    assert declared <= written
    assert written - declared == {"run", "settings"}  # for menus, not for the palette


def test_what_a_workspace_must_not_choose_is_restricted():
    restricted = set(MANIFEST["capabilities"]["untrustedWorkspaces"]["restrictedConfigurations"])
    settings = MANIFEST["contributes"]["configuration"]["properties"]
    assert {
        name for name in settings if name.startswith(("diffcoder.server.", "diffcoder.install."))
    } == restricted


def test_methods_are_those_of_the_protocol():
    protocol = (ROOT / "docs/protocol.md").read_text("utf-8")
    used = {name for text in SOURCES.values() for name in re.findall(r"'(diffcoder/\w+)'", text)}
    assert used
    assert all(f"`{name}`" in protocol for name in used)
