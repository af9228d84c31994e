"""Settings from several places; wrong ones give a sentence and leave the default."""

from __future__ import annotations

import json
from pathlib import Path

from diffcoder_lsp.settings import Settings, from_file, merged, schema

SCHEMA = Path(__file__).parents[2] / "docs" / "settings.schema.json"


def test_later_places_win_and_wrong_values_leave_the_default():
    settings, problems = merged(
        [
            ("file", {"model": "tiny", "inline": {"confidence": 2, "maxTokens": 32}, "colour": 1}),
            ("options", None),
            ("editor", {"inline": {"automatic": False, "confidense": 0.5}, "edit": 3, "drafts": "yes"}),
        ]
    )
    assert (settings.model, settings.inline.max_tokens, settings.inline.automatic) == ("tiny", 32, False)
    assert settings.inline.confidence == Settings().inline.confidence
    assert [problem.partition(" (")[0] for problem in problems] == [
        "file: inline.confidence is not used",
        "file: there is no setting colour.",
        "editor: there is no setting inline.confidense; did you mean inline.confidence?",
        "editor: edit must be an object; its defaults are used.",
        "editor: drafts is not used",
    ]
    assert merged([("editor", [1])])[1] == ["editor: the settings are not an object; the defaults are used."]


def test_every_default_is_allowed_by_the_schema_and_the_published_one_is_this():
    assert json.loads(SCHEMA.read_text()) == json.loads(json.dumps(schema()))


def test_languages_and_globs_switch_files_on_and_off():
    settings, problems = merged(
        [
            (
                "x",
                {
                    "languages": {"markdown": False},
                    "files": {"*.min.js": False, "docs/*": False, "docs/a.md": True},
                },
            )
        ]
    )
    assert problems == []
    assert settings.works_on("/w/a.py", "python")
    assert not settings.works_on("/w/a.md", "markdown")
    assert not settings.works_on("/w/a.min.js", "javascript")
    assert not settings.works_on("/w/docs/b.py", "python")
    assert settings.works_on("/w/docs/a.md", "markdown")
    assert not merged([("x", {"enable": False})])[0].works_on("/w/a.py", "python")


def test_a_broken_file_is_one_sentence(tmp_path):
    assert from_file(tmp_path) == (None, None)
    (tmp_path / "diffcoder.toml").write_text("[inline\n")
    values, problem = from_file(tmp_path)
    assert values is None
    assert problem is not None
    assert problem.startswith("diffcoder.toml is not used")
    (tmp_path / "diffcoder.toml").write_text("[inline]\nautomatic = false\n")
    assert from_file(tmp_path) == ({"inline": {"automatic": False}}, None)
