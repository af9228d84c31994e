"""The whole server with the real engine and the real default model, and our messages held to lsprotocol's types."""

from __future__ import annotations

import os
import signal
import time

import msgspec
import pytest
from lsprotocol import converters, types

from benchmarks.lsp_client import Client, Failed
from diffcoder_lsp import engine_process
from diffcoder_lsp.engine_client import EngineClient
from model.sampler import PREFILL_ROWS
from model.schema import FillRequest

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
        client.answer = client.initialize(drafts=True, inline={"alternatives": 2})
        yield client


def cancelled_at_once(client, endpoint):
    """A request that is cancelled while the model reads or writes is answered within 150 ms, and no forward begins after
    the one in work. Forwards are counted, not timed: other programs slow them."""

    def health():
        found = engine_process.health_of(endpoint)
        assert found is not None
        return found

    def wait_for(condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline

    def cancel(id: int):
        began = time.monotonic()
        client.cancel(id)
        with pytest.raises(Failed) as failed:
            client.result(id)
        assert failed.value.code == -32800
        assert time.monotonic() - began < 0.15
        wait_for(lambda: not health().running)

    def asked(name: str) -> int:
        uri = f"file:///w/{name}.py"
        client.open(
            uri, f"# {name}\n" + "".join(f"value_{n} = compute_{n}({n * 7 % 101})\n" for n in range(80))
        )
        return client.inline(uri, 81, 0, invoked=True)

    id = asked("reading")
    wait_for(lambda: health().running)
    cancel(id)
    prompt = msgspec.json.decode(client.command("diffcoder.showPrompt"), type=FillRequest)
    with EngineClient(start=False) as engine:
        usage = engine.fill(prompt).usage
    # What was read is kept. One forward was in work when the request was seen; another may have begun since.
    assert usage.cached_tokens <= 2 * PREFILL_ROWS
    assert usage.cached_tokens + usage.prefill_tokens > 4 * PREFILL_ROWS

    drafts, forwards = len(client.notes("diffcoder/draft")), health().forwards
    id = asked("writing")
    client.wait_for(lambda: len(client.notes("diffcoder/draft")) > drafts)
    cancel(id)
    # One wrote the draft, one was in work when it was seen; another may have begun since.
    assert health().forwards - forwards <= 3


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

    # Alternatives, where the model is sure of one.
    greeting = "file:///w/greeting.py"
    client.open(greeting, "def greeting(name):\n    ")
    shown = client.result(client.inline(greeting, 1, 4, invoked=True))["items"]
    assert len({item["insertText"] for item in shown}) == 2

    endpoint = engine_process.find()
    assert endpoint is not None
    cancelled_at_once(client, endpoint)

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
    # The user saw the engine start, both times.
    bars = [params["value"] for method, params in client.told if method == "$/progress"]
    kinds = [bar["kind"] for bar in bars]
    assert kinds.count("begin") == kinds.count("end") == 2
    assert "report" in kinds
    for method, params in client.told:
        if method == "$/progress":
            converter.structure(params, types.ProgressParams)
