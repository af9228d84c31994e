"""What is counted of suggestions: by the session in memory, and by a real server whose client accepts ghost text."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from diffcoder_lsp import statistics
from diffcoder_lsp.statistics import Statistics, Tally, tallies
from model.schema import DiffcoderError
from tests.lsp.scripted import URI, ready


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path))
    return tmp_path


def counted(script, text="ab(cd)") -> Tally:
    """What the file says of ghost text after `script` was done with a session's counts."""

    async def run():
        texts = {"u": text}
        session = Statistics(texts.get)
        script(session, texts)
        await asyncio.sleep(0.05)
        session.write()

    asyncio.run(run())
    return tallies()[0]


def test_typing_along_is_not_accepting_and_shows_nothing_new(cache):
    def script(session, _):
        session.ghost("u", "value")
        for character, rest in zip("valu", ("alue", "lue", "ue", "e"), strict=True):
            session.inserted("u", character)
            session.ghost("u", rest)

    assert counted(script) == Tally("inline", shown=1)


def test_words_of_one_suggestion_are_accepted_once(cache):
    def script(session, _):
        session.ghost("u", "one two three")
        session.inserted("u", "one ")
        session.inserted("u", "two ")
        session.inserted("u", "three")
        session.inserted("u", "one two three")  # pasted: there is no ghost text any more

    assert counted(script) == Tally("inline", shown=1, accepted=1)


def test_what_is_typed_instead_ends_the_suggestion(cache):
    def script(session, _):
        session.ghost("u", "value")
        session.inserted("u", "x")
        session.inserted("u", "value")

    assert counted(script) == Tally("inline", shown=1)


@pytest.mark.parametrize(
    ("after", "tally"),
    [
        ({"u": "x = value"}, Tally("inline", shown=1, accepted=1, kept=1)),
        ({"u": "x = 0"}, Tally("inline", shown=1, accepted=1, gone=1)),
        ({}, Tally("inline", shown=1, accepted=1)),
    ],
    ids=["it stands", "it is gone", "the document is closed"],
)
def test_what_is_accepted_is_looked_at_again(cache, monkeypatch, after, tally):
    monkeypatch.setattr(statistics, "KEPT_SECONDS", 0.01)

    def script(session, texts):
        session.ghost("u", "value")
        session.inserted("u", "value")
        texts.clear()
        texts.update(after)

    assert counted(script, "x = value") == tally


def test_counts_of_sessions_add_up_and_a_torn_line_is_passed_over(cache):
    counted(lambda session, _: session.count("inline", "shown", 2))
    with statistics.path().open("ab") as file:
        file.write(b'{"day":"2026-')
        file.write(b"\n")
    assert counted(lambda session, _: session.count("inline", "shown", 3)).shown == 5
    assert statistics.path().stat().st_mode & 0o077 == 0


def test_days_leave_out_what_is_older(cache):
    statistics.path().write_text('{"day":"2020-01-01","kind":"gap","counts":{"shown":7}}\n')
    assert tallies()[2].shown == 7
    assert tallies(1)[2].shown == 0


def test_counts_that_cannot_be_read_name_their_path(tmp_path, monkeypatch):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("")
    (folder / "statistics.jsonl").mkdir(parents=True)
    for home in (file, folder):
        monkeypatch.setenv("DIFFCODER_HOME", str(home))
        with pytest.raises(DiffcoderError) as caught:
            tallies()
        assert caught.value.message.startswith(f"{home / 'statistics.jsonl'} cannot be read (")


def test_a_client_that_accepts_ghost_text_is_counted_without_telling(start, scripted_home):
    with start() as client:
        ready(client)
        client.open(URI, "d = ")
        (item,) = client.result(client.inline(URI, 0, 4))["items"]
        place = {"line": 0, "character": 4}
        client.change(URI, 2, {"range": {"start": place, "end": place}, "text": item["insertText"]})
        client.command("diffcoder.outcome", uri=URI, kind="edit", outcome="rejected", texts=["a", "b"])
        rows = client.command("diffcoder.statistics")
        assert [rows[0][key] for key in ("shown", "accepted")] == [1, 1]
        assert rows[1]["rejected"] == 2
    command = [sys.executable, "-m", "diffcoder_lsp.cli", "stats", "--json"]
    said = subprocess.run(
        command, env={"DIFFCODER_HOME": str(scripted_home)}, capture_output=True, check=True, cwd="/"
    )
    assert json.loads(said.stdout) == rows
