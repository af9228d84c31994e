"""What any client of the protocol may rely on: what is announced, types, folders and settings that come and go."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import psutil
import pytest
from lsprotocol import converters, types

from benchmarks.lsp_client import CAPABILITIES, Client, Failed
from tests.lsp.scripted import URI, ready, start_engine, texts

GHOST = {"inline": {"confidence": 0.4, "debounceMs": 0, "maxTokens": 2}}
CONVERTER = converters.get_converter()


def typed(client, method: str, params):
    """The answer to a request as lsprotocol's type for it; what is no such answer fails here."""
    answer = client.request(method, params)
    message = {"id": 1, "jsonrpc": "2.0", "result": answer}
    return CONVERTER.structure(message, types.METHOD_TO_TYPES[method][1]).result


def test_what_is_announced_is_what_the_client_can_use(scripted_home):
    def announced(capabilities) -> types.ServerCapabilities:
        with Client("--model", "scripted", DIFFCODER_HOME=str(scripted_home)) as client:
            return CONVERTER.structure(
                client.initialize(None, capabilities), types.InitializeResult
            ).capabilities

    rich = announced(CAPABILITIES)
    assert rich.inline_completion_provider == types.InlineCompletionOptions(work_done_progress=False)
    assert rich.completion_provider is None
    assert rich.code_action_provider.resolve_provider is True
    assert "diffcoder.edit" in rich.execute_command_provider.commands
    assert rich.text_document_sync.change == types.TextDocumentSyncKind.Incremental
    poor = announced({})
    assert poor.completion_provider.trigger_characters
    assert poor.code_action_provider.resolve_provider is False
    assert poor.position_encoding == "utf-16"


def test_answers_have_the_protocols_types(start):
    client = start(completion={"enable": "always"}, **GHOST)
    ready(client)
    client.open(URI, "def f():\n    pass\nda = d\n")
    document = {"textDocument": {"uri": URI}}
    place = document | {"position": {"line": 2, "character": 6}}
    shown = typed(client, "textDocument/inlineCompletion", place | {"context": {"triggerKind": 1}})
    assert shown.items[0].insert_text
    entries = typed(client, "textDocument/completion", place)
    assert isinstance(entries.items[0].text_edit, types.TextEdit)
    where = {"start": {"line": 1, "character": 4}, "end": {"line": 1, "character": 8}}
    asked = document | {
        "range": where,
        "context": {"diagnostics": [{"range": where, "message": "bad"}, {"range": 3}]},
    }
    actions = typed(client, "textDocument/codeAction", asked)
    assert {action.kind for action in actions} == {"quickfix", "refactor.rewrite"}
    raw = client.request("textDocument/codeAction", asked)[1]
    assert typed(client, "codeAction/resolve", raw).edit.document_changes
    for method, params in client.told:
        if method in types.METHOD_TO_TYPES:
            note = {"jsonrpc": "2.0", "method": method, "params": params}
            CONVERTER.structure(note, types.METHOD_TO_TYPES[method][0])


def test_a_folder_that_is_added_brings_its_ignore_files_and_takes_them_along(start, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / ".ignore").write_text("private.py\n")
    client = start(root=first, **GHOST)
    ready(client)
    uri = (second / "private.py").as_uri()
    client.open(uri, "x = ")
    folder = {"uri": second.as_uri(), "name": "second"}

    def shown(**event) -> bool:
        client.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [], "removed": []} | event})
        return client.result(client.inline(uri, 0, 4)) is not None

    assert shown()
    assert not shown(added=[folder])
    assert client.request("diffcoder/status", None)["silent"] == "ignored_file"
    assert shown(removed=[folder])


def test_a_file_alone_is_held_to_its_repositorys_ignore_files(start, tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / ".gitignore").write_text("/sub/private.py\n")
    for root in (None, tmp_path / "sub"):
        client = start(root=root, **GHOST)
        ready(client)
        for name, silent in (("private.py", "ignored_file"), ("open.py", "none")):
            uri = (tmp_path / "sub" / name).as_uri()
            client.open(uri, "x = ")
            client.result(client.inline(uri, 0, 4))
            assert client.request("diffcoder/status", None)["silent"] == silent
        assert "private" not in client.command("diffcoder.showPrompt")


def test_settings_that_change_beside_the_editor_are_read_where_it_watches_files(start, tmp_path):
    watching = CAPABILITIES | {"workspace": {"didChangeWatchedFiles": {"dynamicRegistration": True}}}
    client = start(root=tmp_path, capabilities=watching, **GHOST)
    ready(client)
    registered = [each for method, params in client.asked for each in params["registrations"]]
    assert [each["method"] for each in registered] == ["workspace/didChangeWatchedFiles"]
    file = tmp_path / "diffcoder.toml"
    uri = (tmp_path / "a.py").as_uri()
    client.open(uri, "x = ")
    for text, silent in (("enable = false\n", "disabled"), ("", "none")):
        file.write_text(text)
        client.notify("workspace/didChangeWatchedFiles", {"changes": [{"uri": file.as_uri(), "type": 2}]})
        assert client.request("diffcoder/status", None)["silent"] == "none"  # what was true before is over
        client.result(client.inline(uri, 0, 4))
        assert client.request("diffcoder/status", None)["silent"] == silent


def test_loading_is_no_reason_any_more_once_the_engine_is_ready(start):
    client = start(**GHOST)
    ready(client)
    assert client.request("diffcoder/status", None)["silent"] == "none"


def test_an_engine_that_starts_for_a_cancelled_request_is_seen_to_be_ready(scripted_home):
    """Its state, and any bar with it, would else stay at "starting" until the next request."""
    home = Path(tempfile.mkdtemp(prefix="dc-"))  # short: a socket's path holds about 100 bytes
    shutil.copy(scripted_home / "models.toml", home)
    engine = start_engine(home, load_seconds=1.5)
    try:
        with Client("--model", "scripted", DIFFCODER_HOME=str(home)) as client:
            client.initialize()
            client.open(URI, "x = ")
            id = client.inline(URI, 0, 4, invoked=True)
            client.wait_for(
                lambda: "starting" in [note["state"] for note in client.notes("diffcoder/status")]
            )
            client.cancel(id)
            with pytest.raises(Failed, match="cancelled"):
                client.result(id)
            client.wait_for(lambda: client.notes("diffcoder/status")[-1]["state"] == "ready", 20)
    finally:
        engine.kill()
        engine.wait(20)
        shutil.rmtree(home)


def test_a_workspace_that_becomes_trusted_is_worked_on(start, tmp_path):
    client = start(root=tmp_path, trusted=False, **GHOST)
    uri = (tmp_path / "a.py").as_uri()
    client.open(uri, "x = ")
    assert client.result(client.inline(uri, 0, 4)) is None
    assert client.request("diffcoder/status", None)["silent"] == "untrusted"
    client.notify("workspace/didChangeConfiguration", {"settings": {"diffcoder": {"trusted": True}}})
    assert texts(client.result(client.inline(uri, 0, 4, invoked=True)))
    client.notify("workspace/didChangeConfiguration", {"settings": {"diffcoder": {"trusted": False}}})
    with pytest.raises(Failed, match="not trusted"):
        client.command("diffcoder.fillGaps", uri=uri)


def test_the_model_of_the_clients_settings_is_used_though_they_come_after_the_start(scripted_home):
    with Client(DIFFCODER_HOME=str(scripted_home)) as client:
        client.answers["workspace/configuration"] = lambda params: [{"model": "scripted"}]
        client.initialize(None, {"workspace": {"configuration": True}})
        client.wait_for(lambda: "scripted" in [note["model"] for note in client.notes("diffcoder/status")])
        client.open(URI, "x = ")
        assert texts(client.result(client.inline(URI, 0, 4, invoked=True)))


def test_an_exit_without_a_shutdown_is_a_failure(scripted_home):
    client = Client("--model", "scripted", DIFFCODER_HOME=str(scripted_home))
    client.initialize()
    client.notify("exit", None)
    assert client.process.wait(20) == 1


def test_the_server_is_ready_in_half_a_second_and_light(scripted_home):
    """Its processor time, as it waits for nothing: other programs may make a start slower. The quickest of three."""
    seconds, megabytes = [], []
    for _ in range(3):
        with Client("--model", "scripted", DIFFCODER_HOME=str(scripted_home)) as client:
            client.initialize()
            server = psutil.Process(client.process.pid)
            seconds.append(server.cpu_times().user + server.cpu_times().system)
            ready(client)
            megabytes.append(server.memory_info().rss / 1e6)
    assert min(seconds) < 0.5
    assert max(megabytes) <= 80
