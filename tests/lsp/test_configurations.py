"""The settings that we publish for editors without an extension: they parse, and start the language server."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from diffcoder_lsp.documents import Document

EDITORS = Path(__file__).parents[2] / "editors"
COMMAND = ["diffcoder", "lsp"]


def test_each_starts_the_language_server():
    helix = tomllib.loads((EDITORS / "helix" / "languages.toml").read_text())
    server = helix["language-server"]["diffcoder"]
    assert [server["command"], *server["args"]] == COMMAND
    assert all("diffcoder" in language["language-servers"] for language in helix["language"])
    kate = json.loads((EDITORS / "kate" / "settings.json").read_text())
    assert [server["command"] for server in kate["servers"].values()] == [COMMAND]
    sublime = json.loads((EDITORS / "sublime" / "LSP.sublime-settings").read_text())
    assert sublime["clients"]["diffcoder"]["command"] == COMMAND


def test_zeds_languages_are_called_as_the_protocol_does():
    zed = tomllib.loads((EDITORS / "zed" / "extension.toml").read_text())["language_servers"]["diffcoder"]
    assert set(zed["language_ids"]) == set(zed["languages"])
    names = {
        "cpp": "cc",
        "typescriptreact": "tsx",
        "typescript": "ts",
        "javascript": "js",
        "shellscript": "sh",
    }
    names |= {"python": "py", "rust": "rs", "ruby": "rb"}
    for language in zed["language_ids"].values():
        by_name = Document.of(f"file:///a.{names.get(language, language)}", "").language
        assert Document.of("file:///a", "", language=language).language == by_name
