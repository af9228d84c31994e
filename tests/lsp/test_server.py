"""The whole server, a real process, around an engine whose every answer is known (tests/model/scripted_engine.py).

That engine writes one word a forward, "d0" and a line separator, "d1" ..., the letter being the first of the
prefix, with a confidence of a half; its edits are the instruction. Line separators never reach a document.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from benchmarks.lsp_client import CAPABILITIES, Client, Failed
from tests.lsp.scripted import SCRIPTED, URI, ready, start_engine, texts


def test_ghost_text_is_served_reused_superseded_and_cancelled(start):
    client = start(inline={"confidence": 0.4, "debounceMs": 0, "maxTokens": 3})
    ready(client)
    assert client.notes("diffcoder/status")[-2]["silent"] == "loading"
    client.open(URI, "d = 1\nx = \n")
    answer = client.result(client.inline(URI, 1, 4))
    assert texts(answer) == ["d0d1d2"]
    assert answer["items"][0]["range"] == {
        "start": {"line": 1, "character": 4},
        "end": {"line": 1, "character": 4},
    }
    # Typed along: no model call.
    place = {"line": 1, "character": 4}
    client.change(URI, 2, {"range": {"start": place, "end": place}, "text": "d0"})
    assert texts(client.result(client.inline(URI, 1, 6))) == ["d1d2"]
    status = client.request("diffcoder/status", None)
    assert (status["reused"], status["suggestions"], status["silent"]) == (1, 2, "none")
    # A newer request supersedes the older; both are answered, the older with nothing.
    client.open("file:///w/b.py", "e = \n")
    first = client.inline("file:///w/b.py", 0, 4)
    second = client.inline("file:///w/b.py", 0, 3)
    assert client.result(first) is None
    assert texts(client.result(second)) == ["e0e1e2"]
    # A cancelled one says so at once, and what is asked next is answered.
    client.open("file:///w/c.py", "f = \n")
    id = client.inline("file:///w/c.py", 0, 4, invoked=True)
    client.cancel(id)
    began = time.monotonic()
    with pytest.raises(Failed) as failed:
        client.result(id)
    assert failed.value.code == -32800
    assert time.monotonic() - began < 5
    assert len(texts(client.result(client.inline("file:///w/c.py", 0, 4, invoked=True)))) == 1  # all alike
    prompt = json.loads(client.command("diffcoder.showPrompt", uri="file:///w/c.py"))
    assert (prompt["prefix"], prompt["suffix"]) == ("f = ", "\n")


def test_an_engine_that_the_system_does_not_let_start_is_said_once(tmp_path):
    blocked = tmp_path / "engine" / "default.err"
    blocked.mkdir(parents=True)
    with Client(DIFFCODER_HOME=str(tmp_path)) as client:
        client.initialize(None, None)
        client.open(URI, "x = \n")
        assert client.result(client.inline(URI, 0, 4)) is None
        client.wait_for(lambda: client.notes("diffcoder/status")[-1]["state"] == "failed")
        assert client.result(client.inline(URI, 0, 4)) is None
        status = client.request("diffcoder/status", None)
        assert (status["state"], status["silent"]) == ("failed", "failed")
        with pytest.raises(Failed, match=f"{blocked}: Is a directory"):
            client.result(client.inline(URI, 0, 4, invoked=True))
        (said,) = client.notes("window/showMessage")
        assert str(blocked) in said["message"]
        # A bar that ends before the client has made it never begins.
        kinds = [note["value"]["kind"] for note in client.notes("$/progress")]
        assert kinds.count("begin") == kinds.count("end")


def test_silence_has_a_reason_that_does_not_stick(start, tmp_path):
    (tmp_path / ".gitignore").write_text("ignored.py\n")
    (tmp_path / "diffcoder.toml").write_text("[languages]\nrust = false\n[inline]\nautomatik = 1\n")
    client = start(root=tmp_path, inline={"confidence": 0.6, "debounceMs": 0, "maxTokens": 2})
    ready(client)

    def silence(name: str, text: str, character: int) -> str:
        uri = (tmp_path / name).as_uri()
        client.open(uri, text, "")
        assert client.result(client.inline(uri, 0, character)) is None
        return client.request("diffcoder/status", None)["silent"]

    assert silence("a.py", "x = ", 4) == "unsure"
    assert silence("ignored.py", "x = ", 4) == "ignored_file"
    assert silence(".env", "x = ", 4) == "ignored_file"
    assert silence("a.rs", "x = ", 4) == "disabled"
    assert silence("b.py", "# abc", 5) == "literal"
    assert silence("slow.py", "x = SLOW(", 9) == "slow"
    client.command("diffcoder.pause")
    assert silence("c.py", "x = ", 4) == "paused"
    assert client.request("diffcoder/status", None)["state"] == "paused"
    client.command("diffcoder.resume")
    assert texts(client.result(client.inline((tmp_path / "a.py").as_uri(), 0, 4, invoked=True))) == ["x0x1"]
    assert client.request("diffcoder/status", None)["silent"] == "none"
    client.notify(
        "workspace/didChangeConfiguration", {"settings": {"diffcoder": {"inline": {"confidence": "high"}}}}
    )
    client.wait_for(lambda: len(client.notes("window/showMessage")) == 2)
    said = [note["message"] for note in client.notes("window/showMessage")]
    assert (
        said[0]
        == "diffcoder: diffcoder.toml: there is no setting inline.automatik; did you mean inline.automatic?"
    )
    assert said[1].startswith("diffcoder: editor settings: inline.confidence is not used")


def test_edits_are_versioned_small_annotated_and_stay_inside_the_selection(start):
    client = start(drafts=True)
    text = "a = 1\r\nb = 😀\r\nc = 3\r\n"
    client.open(URI, text, version=7)
    selection = {"start": {"line": 1, "character": 0}, "end": {"line": 2, "character": 0}}
    done = client.command("diffcoder.edit", uri=URI, range=selection, instruction="b = 😀2")
    assert done == {"applied": True, "edits": 1}
    edit = client.applied[0]["edit"]
    assert edit == {
        "documentChanges": [
            {
                "textDocument": {"uri": URI, "version": 7},
                "edits": [
                    {
                        "range": {"start": {"line": 1, "character": 6}, "end": {"line": 1, "character": 6}},
                        "newText": "2",
                        "annotationId": "diffcoder",
                    }
                ],
            }
        ],
        "changeAnnotations": {"diffcoder": {"label": "diffcoder: edit", "description": "written by a model"}},
    }
    assert client.notes("diffcoder/draft")[-1]["done"] is True
    for wrong in ("", "x" * 10_000):
        with pytest.raises(Failed, match="instruction"):
            client.command("diffcoder.edit", uri=URI, range=selection, instruction=wrong)
    with pytest.raises(Failed, match="not open"):
        client.command("diffcoder.edit", uri="file:///w/none.py", range=selection, instruction="x")
    with pytest.raises(Failed, match="argument"):
        client.command("diffcoder.edit", uri=URI, range=selection)


def test_code_actions_are_resolved_and_offered_as_commands_to_those_who_cannot(start):
    client = start()
    text = "# make it two\nx = 1\n\ndef f():\n    pass\n"
    client.open(URI, text)
    diagnostic = {
        "range": {"start": {"line": 1, "character": 0}, "end": {"line": 1, "character": 1}},
        "message": "bad x",
    }
    params = {
        "textDocument": {"uri": URI},
        "range": {"start": {"line": 0, "character": 0}, "end": {"line": 2, "character": 0}},
        "context": {"diagnostics": [diagnostic]},
    }
    actions = client.request("textDocument/codeAction", params)
    assert [(action["title"], action["kind"]) for action in actions] == [
        ("diffcoder: fix bad x", "quickfix"),
        ("diffcoder: make it two", "refactor.rewrite"),
        ("diffcoder: Add type hints", "refactor.rewrite"),
        ("diffcoder: Add a docstring", "refactor.rewrite"),
        ("diffcoder: Simplify this", "refactor.rewrite"),
    ]
    assert actions[0]["diagnostics"] == [diagnostic]
    resolved = client.request("codeAction/resolve", actions[0])
    (change,) = resolved["edit"]["documentChanges"]
    assert change["textDocument"] == {"uri": URI, "version": 1}
    only = client.request(
        "textDocument/codeAction", params | {"context": {"diagnostics": [diagnostic], "only": ["quickfix"]}}
    )
    assert len(only) == 1
    client.change(URI, 2, {"text": text + "\n"})
    with pytest.raises(Failed) as failed:
        client.request("codeAction/resolve", actions[0])
    assert failed.value.code == -32801
    place = {"start": {"line": 4, "character": 4}, "end": {"line": 4, "character": 4}}
    (action,) = client.request(
        "textDocument/codeAction", params | {"range": place, "context": {"diagnostics": []}}
    )
    assert action["title"] == "diffcoder: implement f"
    assert client.request("codeAction/resolve", action)["edit"]["documentChanges"][0]["edits"]

    poor = start(capabilities={"workspace": {"applyEdit": True}})
    poor.open(URI, text)
    action = poor.request("textDocument/codeAction", params)[1]
    assert "data" not in action
    assert action["command"]["command"] == "diffcoder.edit"
    assert poor.request("workspace/executeCommand", action["command"])["applied"] is True
    assert set(poor.applied[0]["edit"]) == {"changes"}


def test_gaps_are_filled_together_in_one_edit(start):
    client = start()
    client.open(URI, "g = ‹?›\nh = ‹?›\n")
    done = client.command("diffcoder.fillGaps", uri=URI)
    assert done["applied"] is True
    assert len(client.applied) == 1
    (change,) = client.applied[0]["edit"]["documentChanges"]
    assert len(change["edits"]) == 2
    assert all("‹" not in edit["newText"] and "g0" in edit["newText"] for edit in change["edits"])
    prompt = json.loads(client.command("diffcoder.showPrompt"))
    assert "g0g1" in prompt["prefix"] + prompt["suffix"]  # the second gap saw the first one's filling
    assert "‹?›" not in prompt["prefix"] + prompt["suffix"]


def test_the_text_that_changed_is_not_edited_and_a_change_beside_it_is_lived_with(start):
    client = start()
    client.open(URI, "i = ‹?›\nend\n")
    top = {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 0}}

    def filled_while(change) -> dict:
        id = client.ask(
            "workspace/executeCommand", {"command": "diffcoder.fillGaps", "arguments": [{"uri": URI}]}
        )
        client.change(URI, 2, change)
        return client.result(id)

    assert filled_while({"range": top, "text": "first\n"})["applied"] is True
    (change,) = client.applied[0]["edit"]["documentChanges"]
    assert change["textDocument"]["version"] == 2
    assert change["edits"][0]["range"]["start"] == {"line": 1, "character": 4}
    client.change(URI, 3, {"text": "i = ‹?›\nend\n"})
    done = filled_while({"text": "nothing\n"})
    assert done["applied"] is False
    assert "changed" in done["reason"]
    assert len(client.applied) == 1


def test_a_completion_list_for_clients_without_ghost_text(start):
    client = start(capabilities={}, inline={"confidence": 0.4, "debounceMs": 0, "maxTokens": 2})
    ready(client)
    client.open(URI, "jay = ja\n")
    position = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 8}}
    answer = client.request("textDocument/completion", position)
    assert answer["isIncomplete"] is True
    (item,) = answer["items"]
    assert item["label"] == item["textEdit"]["newText"] == item["filterText"] == "jaj0j1"
    assert item["textEdit"]["range"]["start"] == {"line": 0, "character": 6}
    assert (
        client.request("textDocument/completion", {**position, "textDocument": {"uri": "file:///no"}})[
            "items"
        ]
        == []
    )


def test_a_completion_list_is_of_the_text_as_it_is_when_it_comes(start):
    client = start(capabilities={}, inline={"confidence": 0.4, "debounceMs": 500, "maxTokens": 1})
    ready(client)
    uri, top = "file:///w/moved.py", {"line": 0, "character": 0}
    client.open(uri, "x = 1\nvalue = kamp\nlonger_line_here = 1")
    asked = {"textDocument": {"uri": uri}, "position": {"line": 1, "character": 12}}
    id = client.ask("textDocument/completion", asked)
    client.change(uri, 2, {"range": {"start": top, "end": top}, "text": "import os\n"})
    (item,) = client.result(id)["items"]
    assert item["textEdit"] == {
        "range": {"start": {"line": 2, "character": 8}, "end": {"line": 2, "character": 12}},
        "newText": "kampx0",
    }
    id = client.ask("textDocument/completion", asked | {"position": {"line": 2, "character": 11}})
    client.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    assert client.result(id)["items"] == []


def test_what_is_asked_for_below_the_last_line_is_written_there(start):
    client = start()

    def edited(text: str, line: int, instruction: str) -> list[dict]:
        client.open(URI, text)
        place = {"line": line, "character": 0}
        done = client.command(
            "diffcoder.edit", uri=URI, range={"start": place, "end": place}, instruction=instruction
        )
        return client.applied.pop()["edit"]["documentChanges"][0]["edits"] if done["applied"] else []

    for end in ("\n", "\r\n", "\r"):
        text = f"def f():{end}    return 1{end}{end}"
        (edit,) = edited(text, 3, "def g():\n    return 2\n\n\u200b")
        assert edit["range"] == {"start": {"line": 3, "character": 0}, "end": {"line": 3, "character": 0}}
        assert edit["newText"] == f"def g():{end}    return 2{end}"
        assert json.loads(client.command("diffcoder.showPrompt"))["before"] == text + end
    assert edited("", 0, "y")[0]["newText"] == "y"
    assert edited("x = 1\n", 1, "\u200b") == []  # nothing that shows


def test_no_action_is_offered_that_would_be_refused(start):
    client = start(edit={"instructions": ["Tidy"]})
    client.open(URI, f"# {'do this ' * 1000}\nx = 1\n")
    selection = {"start": {"line": 1, "character": 0}, "end": {"line": 1, "character": 3}}
    params = {"textDocument": {"uri": URI}, "range": selection, "context": {"diagnostics": []}}
    actions = client.request("textDocument/codeAction", params)
    assert [action["title"] for action in actions] == ["diffcoder: Tidy"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32"])
def test_positions_in_the_clients_encoding(start, encoding):
    client = start(capabilities=CAPABILITIES | {"general": {"positionEncodings": [encoding]}})
    assert client.encoding == encoding
    line = "k = '😀ß' + "
    column = len(line.encode(encoding if encoding == "utf-8" else f"{encoding}-le"))
    column //= {"utf-8": 1, "utf-16": 2, "utf-32": 4}[encoding]
    client.open(URI, f"{line}\n")
    answer = client.result(client.inline(URI, 0, column, invoked=True))
    assert answer["items"][0]["range"]["start"] == {"line": 0, "character": column}
    assert json.loads(client.command("diffcoder.showPrompt"))["prefix"] == line


def test_bad_messages_are_answered_and_the_session_goes_on(start):
    client = start()
    for body, code in [
        (b"{", -32700),
        (b"[]", -32600),
        (b'{"jsonrpc":"2.0","id":"a","method":5}', -32600),
        (b'{"jsonrpc":"2.0","id":"b","method":"no/such"}', -32601),
        (b'{"jsonrpc":"2.0","id":"c","method":"textDocument/inlineCompletion","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":"d","method":"initialize","params":{}}', -32600),
        (b"\xff\xfe", -32700),
    ]:
        before = len(client.failures)
        client.send_body(body)
        client.wait_for(lambda before=before: len(client.failures) > before)
        assert client.failures[-1][1] == code
    client.send_bytes(b"rubbish\r\n\r\nrubbish")
    client.send_body(
        b'{"jsonrpc":"2.0","method":"textDocument/didChange","params":{"textDocument":{"uri":"file:///no"}}}'
    )
    client.notify("no/such", None)
    client.open(URI, "s = '\ud83d' \n")  # half of an emoji
    assert texts(client.result(client.inline(URI, 0, 8, invoked=True)))
    assert client.replies["a"] == client.replies["b"] == client.replies["c"] == client.replies["d"] == 1


def test_an_engine_that_cannot_come_back_is_one_question_and_when_it_is_back_it_serves(start, scripted_home):
    """It dies in mid-answer, and the model to start it with again is not there."""
    client = start()
    asked: list[dict] = []
    client.answers["window/showMessageRequest"] = asked.append
    client.open(URI, "ABORT = ‹?›\n")
    for _ in range(2):
        with pytest.raises(Failed, match=r"none.gguf"):
            client.command("diffcoder.fillGaps", uri=URI)
    client.wait_for(lambda: asked)
    assert client.request("diffcoder/status", None)["state"] == "failed"
    engine = start_engine(scripted_home)
    try:
        client.change(URI, 2, {"text": "l = ‹?›\n"})
        assert client.command("diffcoder.fillGaps", uri=URI)["applied"] is True
        assert [len(asked), client.notes("window/showMessage")] == [1, []]
    finally:
        engine.kill()
        engine.wait(20)


def test_nothing_is_left_of_a_server_whose_editor_died(scripted_home):
    """The editor is killed while somebody else still holds its end of the stream."""
    script = (
        "import json, os, sys, time\n"
        "from benchmarks.lsp_client import Client\n"
        f"client = Client('--model', 'scripted', DIFFCODER_HOME={str(scripted_home)!r})\n"
        "client.initialize()\n"
        "keeper = os.fork()\n"
        "if keeper: print(client.process.pid, keeper, flush=True)\n"
        "time.sleep(120)\n"
    )
    editor = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=SCRIPTED.parents[2]
    )
    assert editor.stdout is not None
    server, keeper = map(int, editor.stdout.readline().split())
    try:
        assert psutil.Process(server).memory_info().rss < 80e6
        editor.kill()
        editor.wait()
        psutil.wait_procs([psutil.Process(server)] if psutil.pid_exists(server) else [], timeout=5)
        assert not psutil.pid_exists(server)
    finally:
        os.kill(keeper, signal.SIGKILL)


def test_shutdown_and_exit(scripted_home):
    client = Client("--model", "scripted", DIFFCODER_HOME=str(scripted_home))
    with pytest.raises(Failed, match="not initialized"):
        client.request("diffcoder/status", None)
    client.initialize()
    assert client.request("shutdown", None) is None
    with pytest.raises(Failed, match="shutting down"):
        client.request("diffcoder/status", None)
    client.notify("exit", None)
    assert client.process.wait(20) == 0
