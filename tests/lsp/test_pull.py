"""A missing model: the user is asked once, and nothing is fetched unless they agree."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from benchmarks.faults_models import register
from benchmarks.lsp_client import Client, Failed
from tests.lsp.scripted import URI, start_engine, texts

CONTENT = bytes(range(256)) * 8_000


@pytest.fixture
def missing(tmp_path):
    """A home in which the model `ours` is registered but not here; its file lies in a folder, as a source."""
    home = Path(tempfile.mkdtemp(prefix="dc-"))  # short: a socket's path holds about 100 bytes
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "ours.gguf").write_bytes(CONTENT)
    register(home, {"ours": ("ours.gguf", {"kind": "folder", "path": str(tmp_path / "share")}, CONTENT)})
    yield home
    shutil.rmtree(home)


def asked(home: Path, answer: str, uses: int = 1) -> tuple[Client, list[dict]]:
    """A client whose user answers `answer`, after `uses` requests that need the model; and what the user was asked."""
    questions: list[dict] = []

    def answered(params):
        questions.append(params)
        return next((each for each in params["actions"] if each["title"].startswith(answer)), None)

    client = Client("--model", "ours", DIFFCODER_HOME=str(home))
    client.answers["window/showMessageRequest"] = answered
    client.initialize()
    client.open(URI, "x = ")
    for _ in range(uses):
        with pytest.raises(Failed, match="ours"):
            client.result(client.inline(URI, 0, 4, invoked=True))
    client.wait_for(lambda: questions)
    return client, questions


def test_a_model_is_fetched_when_the_user_agrees_and_its_progress_is_shown(missing):
    file = missing / "models" / "ours" / "ours.gguf"
    client, questions = asked(missing, "Download")
    with client:
        client.wait_for(lambda: client.notes("window/showMessage"))
        assert client.notes("window/showMessage") == [{"type": 3, "message": "diffcoder: ours is ready."}]
        assert [each["title"] for each in questions[0]["actions"]] == ["Download (2 MB)", "Not now"]
        assert file.read_bytes() == CONTENT
        begun = [
            note["token"]
            for note in client.notes("$/progress")
            if note["value"].get("title") == "Downloading ours"
        ]
        kinds = [note["value"]["kind"] for note in client.notes("$/progress") if note["token"] == begun[0]]
        assert (kinds[0], kinds[-1]) == ("begin", "end")


def test_not_now_is_the_last_word(missing):
    client, questions = asked(missing, "Not now", uses=3)
    with client:
        status = client.request("diffcoder/status", None)
        assert (status["state"], status["silent"]) == ("failed", "no_model")
        assert "diffcoder model pull ours" in status["message"]
        assert len(questions) == 1
        assert client.notes("window/showMessage") == []
        assert not (missing / "models" / "ours").exists()


def test_what_is_fetched_wrongly_is_one_message(missing, tmp_path):
    (tmp_path / "share" / "ours.gguf").write_bytes(CONTENT[:-1] + b"?")
    client, _ = asked(missing, "Download")
    with client:
        client.wait_for(lambda: client.notes("window/showMessage"))
        (said,) = client.notes("window/showMessage")
        assert "hash" in said["message"]
        assert not (missing / "models" / "ours" / "ours.gguf").exists()


def test_another_model_serves_instead(missing):
    with open(missing / "models.toml", "a") as file:
        (missing / "here.gguf").touch()
        file.write('[scripted]\ntitle = "Scripted"\n[[scripted.sources]]\nkind = "file"\n')
        file.write(f'path = "{missing / "here.gguf"}"\n')
    (missing / "engine").mkdir(mode=0o700)
    engine = start_engine(missing)
    try:
        client, _ = asked(missing, "Use scripted")
        with client:
            client.wait_for(lambda: client.notes("diffcoder/status")[-1]["model"] == "scripted")
            assert texts(client.result(client.inline(URI, 0, 4, invoked=True)))
    finally:
        engine.kill()
        engine.wait(20)
