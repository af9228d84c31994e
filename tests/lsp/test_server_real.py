"""The whole server with the real engine and the real default model, and our messages held to lsprotocol's types."""

from __future__ import annotations

import os
import signal
import time

import pytest
from lsprotocol import converters, types

from benchmarks.lsp_client import Client
from diffcoder_lsp import engine_process

pytestmark = pytest.mark.model

URI = "file:///w/sums.py"
TEXT = '''def add(a, b):
    """The sum of both."""
    pass


def product(a, b):
    return a‹?›


def test_product():
    assert product(2, 3) == 6


'''


@pytest.fixture
def client(home, default_model):
    with Client(DIFFCODER_HOME=str(home)) as client:
        began = time.monotonic()
        client.answer = client.initialize(drafts=True, inline={"alternatives": 2})
        client.ready_seconds = time.monotonic() - began
        yield client


def test_an_editors_session(client):
    converter = converters.get_converter()
    assert converter.structure(client.answer, types.InitializeResult).capabilities.inline_completion_provider

    # The engine starts in the background; meanwhile there is silence, and a reason for it.
    client.open(URI, TEXT + "print(add(1, ")
    line = TEXT.count("\n")
    assert client.result(client.inline(URI, line, 13)) is None
    client.wait_for(lambda: client.notes("diffcoder/status")[-1]["state"] == "ready", 300)
    assert "loading" in {note["silent"] for note in client.notes("diffcoder/status")}

    # Ghost text, then the rest of it for one who types along.
    answer = client.result(client.inline(URI, line, 13, invoked=True))
    items = converter.structure(answer, types.InlineCompletionList).items
    assert items[0].insert_text.startswith("2)")
    end = {"line": line, "character": 13}
    client.change(URI, 2, {"range": {"start": end, "end": end}, "text": items[0].insert_text[:1]})
    typed = client.result(client.inline(URI, line, 14))
    assert typed["items"][0]["insertText"] == items[0].insert_text[1:]
    assert client.request("diffcoder/status", None)["reused"] == 1

    # A cancelled request ends within a forward, and the engine is idle then.
    id = client.inline(URI, 0, 0, invoked=True)
    client.wait_for(lambda: any(note["position"]["line"] == 0 for note in client.notes("diffcoder/draft")))
    client.cancel(id)
    with pytest.raises(Exception, match="cancelled"):
        client.result(id)
    endpoint = engine_process.find()
    assert endpoint is not None
    deadline = time.monotonic() + 10
    while (health := engine_process.health_of(endpoint)) is None or health.running:
        assert time.monotonic() < deadline

    # Both gaps in one edit, though the engine is killed while it writes.
    drafts = len(client.notes("diffcoder/draft"))
    params = {"command": "diffcoder.fillGaps", "arguments": [{"uri": URI}]}
    id = client.ask("workspace/executeCommand", params)
    client.wait_for(lambda: len(client.notes("diffcoder/draft")) > drafts)
    os.kill(endpoint.pid, signal.SIGKILL)
    assert client.result(id, 300)["applied"] is True
    edit = converter.structure(client.applied[-1], types.ApplyWorkspaceEditParams).edit
    assert edit.document_changes is not None
    new = " ".join(change.new_text for change in edit.document_changes[0].edits)
    assert "return a + b" in new
    assert "* b" in new
    assert client.notes("window/showMessage") == []

    # An edit with an instruction; nothing but the selected line changes.
    client.change(URI, 3, {"text": "x = 1\nname = 'anna'\ny = 2\n"})
    place = {"start": {"line": 1, "character": 0}, "end": {"line": 1, "character": 3}}
    done = client.command("diffcoder.edit", uri=URI, range=place, instruction="Change the name to 'otto'.")
    assert done["applied"] is True
    (change,) = client.applied[-1]["edit"]["documentChanges"]
    assert {each["range"]["start"]["line"] for each in change["edits"]} == {1}
    actions = client.request(
        "textDocument/codeAction",
        {"textDocument": {"uri": URI}, "range": place, "context": {"diagnostics": []}},
    )
    assert converter.structure(actions, list[types.CodeAction])
    for method, params in client.told:
        if method == "$/progress":
            converter.structure(params, types.ProgressParams)
