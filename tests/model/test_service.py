"""The engine process from outside: its HTTP, who may speak to it, and how it starts and ends.

Every test talks to a real process over a real socket. Where the model does not matter, a scripted generator
stands in its place (scripted_engine.py), so that each step takes a known time; the real model is met at the
end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest

from model import routes
from model.schema import (
    Draft,
    EditResponse,
    Endpoint,
    FillResponse,
    Health,
    Problem,
    ScoreResponse,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SECONDS = 60.0
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
ROUTES = [path for path, *_ in routes.CONTRACT]


def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@dataclass
class Scripted:
    """A running scripted engine."""

    process: subprocess.Popen[bytes]
    socket: Path

    @property
    def endpoint(self) -> Endpoint:
        return msgspec.json.decode(self.socket.with_suffix(".json").read_bytes(), type=Endpoint)

    def http(self) -> httpx.Client:
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=self.address), base_url="http://engine", timeout=SECONDS
        )

    def http_async(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=self.address, limits=httpx.Limits(max_connections=None))
        return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=SECONDS)

    def raw(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(SECONDS)
        connection.connect(self.address)
        return connection

    @property
    def address(self) -> str:
        return self.endpoint.address.removeprefix("unix:")

    def health(self) -> Health:
        with self.http() as http:
            return msgspec.json.decode(http.get("/health").content, type=Health)

    def metric(self, name: str) -> float:
        with self.http() as http:
            text = http.get("/metrics").text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def log(self) -> str:
        return self.socket.with_suffix(".log").read_text()

    def ended(self) -> int:
        return self.process.wait(SECONDS)


Start = Callable[..., Scripted]


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="dc-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Start scripted engines; `ready=False` returns as soon as it listens, `wait=False` at once."""
    engines: list[Scripted] = []

    def start(*options: str, at: Path | None = None, ready: bool = True, wait: bool = True) -> Scripted:
        place = at or folder / "s.sock"
        command = [sys.executable, "-P", str(HERE / "scripted_engine.py"), str(place), *options]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        engine = Scripted(process, place)
        engines.append(engine)
        if wait:
            eventually(lambda: listens(engine) or process.poll() is not None)
            assert process.poll() is None, process.communicate()[1].decode()
            if ready:
                eventually(lambda: engine.health().state == "ready")
        return engine

    yield start
    for engine in engines:
        engine.process.kill()
        engine.process.communicate()


def listens(engine: Scripted) -> bool:
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        if engine.endpoint.pid != engine.process.pid:
            return False
        if engine.endpoint.address.startswith("http"):
            return True
        engine.raw().close()
        return True
    return False


def gap(prefix: str = "a", **limits: object) -> dict[str, object]:
    return {"prefix": prefix, "limits": {"max_tokens": 3, **limits}}


def events(body: str) -> list[tuple[str, str]]:
    return re.findall(r"event: (\w+)\ndata: (.*)\n\n", body)


# The contract


def test_every_route_answers_in_its_type(start: Start) -> None:
    with start().http() as http:
        fill = http.post("/v1/fill", json=gap())
        assert msgspec.json.decode(fill.content, type=FillResponse).text == "a0\u2028a1\u2028a2\u2028"
        edit = http.post("/v1/edit", json={"before": "x\n", "start": 1, "end": 1, "instruction": "y"})
        assert msgspec.json.decode(edit.content, type=EditResponse).text == "y\n"
        score = http.post("/v1/score", json={"text": "word"})
        assert msgspec.json.decode(score.content, type=ScoreResponse).tokens[0].text == "word"
        health = msgspec.json.decode(http.get("/health").content, type=Health)
        assert (health.state, health.model, health.running, health.tokens) == ("ready", "scripted", 0, 4)
        assert health.rss_bytes > 1_000_000
        assert health.ms_per_forward == {"1": 30.0, "8": 65.25}
        models = msgspec.json.decode(http.get("/v1/models").content, type=routes.ModelList)
        assert [(model.id, model.state) for model in models.data] == [("scripted", "loaded")]
        metrics = http.get("/metrics")
        assert 'diffcoder_requests_total{kind="fill",outcome="answered"} 1\n' in metrics.text
        assert metrics.headers["content-type"].startswith("text/plain")


def test_a_stream_sends_every_draft_and_then_the_answer(start: Start) -> None:
    with start().http() as http:
        response = http.post("/v1/fill", json={**gap("z"), "stream": True})
    assert response.headers["content-type"] == "text/event-stream"
    *drafts, last = events(response.text)
    texts = [msgspec.json.decode(data, type=Draft).text for name, data in drafts if name == "draft"]
    assert texts == ["z0\u2028", "z0\u2028z1\u2028", "z0\u2028z1\u2028z2\u2028"]
    assert last[0] == "answer"
    assert msgspec.json.decode(last[1], type=FillResponse).text == texts[-1]


def test_a_stream_that_fails_ends_in_the_problem(start: Start) -> None:
    with start().http() as http:
        response = http.post("/v1/fill", json={**gap("ERROR"), "stream": True})
    name, data = events(response.text)[-1]
    assert (name, msgspec.json.decode(data, type=Problem).code) == ("problem", "bad_gap")


def test_the_description_is_up_to_date_and_complete() -> None:
    written = json.loads((ROOT / "docs" / "openapi.json").read_text())
    made = json.loads(msgspec.json.encode(routes.openapi()))
    assert written == made, "refresh it: python -P -m model.service --write-openapi docs/openapi.json"
    assert set(written["paths"]) == set(ROUTES)
    schemas = written["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(written)):
        assert name in schemas


def test_the_shape_that_openai_clients_speak(start: Start) -> None:
    with start().http() as http:
        body = {
            "prompt": "q",
            "suffix": ")",
            "max_tokens": 2,
            "model": "scripted",
            "top_p": 0.9,
            "user": "me",
        }
        answer = http.post("/v1/completions", json=body).json()
        assert answer["object"] == "text_completion"
        assert answer["choices"][0]["text"] == "q0\u2028q1\u2028"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
        stream = http.post("/v1/completions", json={**body, "stream": True}).text
        first, last = stream.removeprefix("data: ").split("\n\ndata: ")
        assert json.loads(first)["choices"] == answer["choices"]
        assert last == "[DONE]\n\n"
        for wrong, code in (
            ({"n": 2}, "unsupported"),
            ({"echo": True}, "unsupported"),
            ({"prompt": ["a", "b"]}, "unsupported"),
            ({"model": "gpt"}, "wrong_model"),
            ({"prompt": None}, "bad_request"),
        ):
            refused = http.post("/v1/completions", json={**body, **wrong})
            assert refused.status_code in (400, 404)
            assert refused.json()["error"]["code"] == code


def test_the_shape_that_llama_cpp_clients_speak(start: Start) -> None:
    with start().http() as http:
        body = {
            "input_prefix": "k\n",
            "prompt": "    ret",
            "input_suffix": "\n",
            "input_extra": [{"filename": "a.py", "text": "x = 1", "time": 3}],
            "n_predict": 2,
            "samplers": ["top_k"],
            "cache_prompt": True,
        }
        answer = http.post("/infill", json=body).json()
        assert answer["content"] == "k0\u2028k1\u2028"
        assert (answer["stop"], answer["stop_type"], answer["timings"]["predicted_n"]) == (True, "limit", 2)
        assert http.post("/infill", json={**body, "n_predict": 0}).json()["content"] == ""
        stream = http.post("/infill", json={**body, "stream": True}).text
        assert json.loads(stream.removeprefix("data: "))["content"] == answer["content"]


# What is refused


BAD_BODIES: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"[" * 200_000, 400),
    (b'{"prefix":' * 5_000, 400),
    (b"\xff\xfe", 400),
    (b'{"prefix": "\xff"}', 400),
    (b'{"prefix": "\\ud800"}', 400),
    (b'{"prefix": 1}', 400),
    (b'{"prefix": "a", "limits": {"max_tokens": 1e400}}', 400),
    (b'{"prefix": "a", "limits": {"temperature": NaN}}', 400),
    (b'{"prefix": "a", "limits": {"max_tokens": -1}}', 400),
    (b'{"prefix": "a", "limits": {"max_tokens": 9223372036854775808}}', 400),
    (b'{"prefix": "a", "limits": {"max_tokns": 5}}', 400),
    (b'{"prefix": "a", "limits": {"rule": "best"}}', 400),
    (b'{"prefix": "a", "model": "/etc/passwd"}', 404),
    (b'{"prefix": "%s"}' % (b"x" * 4_000_001), 413),
    (b'{"prefix": "%s"}' % (b"x" * routes.MAX_BODY_BYTES), 413),
]


def test_bad_requests_get_a_sentence_and_hurt_nobody(start: Start) -> None:
    engine = start()
    with engine.http() as http:
        for body, status in BAD_BODIES:
            response = http.post("/v1/fill", content=body)
            assert response.status_code == status, (body[:80], response.text)
            problem = msgspec.json.decode(response.content, type=Problem)
            assert problem.message.endswith(".")
            assert "Traceback" not in problem.message
        chunks = (b"x" * 1_000_000 for _ in range(20))
        assert http.post("/v1/fill", content=chunks).status_code == 413
        assert http.post("/v1/fill", json=gap()).status_code == 200


def test_unknown_paths_and_methods(start: Start) -> None:
    with start().http() as http:
        for path in (
            "/",
            "/v1",
            "/v1/fill/",
            "/admin",
            "/v1/models/load",
            "/props",
            "/docs",
        ):
            response = http.get(path)
            assert (response.status_code, response.json()["code"]) == (404, "no_route"), path
        for path, allowed, *_ in routes.CONTRACT:
            for method in set(METHODS) - {allowed.upper(), "HEAD", "CONNECT"}:
                response = http.request(method, path)
                assert response.status_code == 405, (method, path)
                assert allowed.upper() in response.headers["allow"]


def test_no_browser_is_answered_and_no_header_invites_one(start: Start) -> None:
    with start().http() as http:
        for path in [*ROUTES, "/nowhere"]:
            for method in METHODS:
                for origin in ("null", "http://localhost", "http://evil.example", ""):
                    response = http.request(method, path, headers={"Origin": origin})
                    assert response.status_code == 403
                    assert not [name for name in response.headers if name.startswith("access-control")]
        answered = http.post("/v1/fill", json=gap())
        assert not [name for name in answered.headers if name.startswith("access-control")]


def test_a_failing_request_leaves_the_next_one_and_the_log_clean(start: Start) -> None:
    engine = start()
    with engine.http() as http:
        secret = "RAISE hunter2-secret"
        failed = http.post("/v1/fill", json=gap(secret))
        assert (failed.status_code, failed.json()["code"]) == (500, "internal")
        refused = http.post("/v1/fill", json=gap("ERROR hunter2-secret"))
        assert (refused.status_code, refused.json()["code"]) == (422, "bad_gap")
        assert http.post("/v1/fill", json=gap()).status_code == 200
    log = engine.log()
    assert "a bug in the sampler" in log
    assert "hunter2" not in log


def test_mutated_requests_kill_nothing(start: Start) -> None:
    engine = start("--forward-seconds", "0")
    body = b'{"prefix": "a", "limits": {"max_tokens": 3}}'
    seed = (
        b"POST /v1/fill HTTP/1.1\r\nhost: e\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    before = engine.health().rss_bytes
    chance = random.Random(5)
    for _ in range(400):
        raw = bytearray(seed)
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(raw))
            match chance.randrange(4):
                case 0:
                    raw[at] = chance.randrange(256)
                case 1:
                    del raw[at : at + chance.randrange(1, 20)]
                case 2:
                    raw[at:at] = chance.randbytes(chance.randrange(1, 20))
                case 3:
                    raw[at:at] = raw[at : at + 30] * chance.randrange(1, 100)
        with engine.raw() as connection, contextlib.suppress(OSError):
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    health = engine.health()
    assert health.pid == engine.process.pid
    assert health.rss_bytes - before < 64 * 2**20
    eventually(lambda: engine.metric("diffcoder_requests_running") == 0)
    with engine.http() as http:
        assert http.post("/v1/fill", json=gap()).status_code == 200


# Clients that go away, queues, deadlines


async def abandoned(http: httpx.AsyncClient, body: dict[str, object]) -> None:
    """Send a request and leave without waiting for the answer."""
    with contextlib.suppress(httpx.ReadTimeout):
        await http.post("/v1/fill", json=body, timeout=httpx.Timeout(SECONDS, read=0.2))
        raise AssertionError("it was answered")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_request(start: Start, stream: bool) -> None:
    engine = start("--forward-seconds", "0.02")
    body = {**gap(max_tokens=8000), "stream": stream}
    with engine.raw() as connection:
        data = json.dumps(body).encode()
        connection.sendall(
            b"POST /v1/fill HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n" % len(data) + data
        )
        eventually(lambda: engine.health().running == 1)
        if stream:
            assert b"draft" in connection.recv(65536) + connection.recv(65536)
    began = time.monotonic()
    eventually(lambda: engine.health().running == 0)
    assert time.monotonic() - began < 5  # 8,000 forwards would have taken 160 s
    assert engine.metric('diffcoder_requests_total{kind="fill",outcome="cancelled"}') == 1
    with engine.http() as http:
        assert http.post("/v1/fill", json=gap()).status_code == 200


def test_a_full_queue_answers_503_at_once_and_recovers(start: Start) -> None:
    engine = start("--forward-seconds", "0.05")

    async def crowd() -> list[httpx.Response]:
        async with engine.http_async() as http:
            first = asyncio.create_task(http.post("/v1/fill", json=gap("first", max_tokens=40)))
            while (await http.get("/health")).json()["running"] == 0:
                await asyncio.sleep(0.01)
            crowd = [asyncio.create_task(http.post("/v1/fill", json=gap(max_tokens=1))) for _ in range(80)]
            return list(await asyncio.gather(first, *crowd))

    responses = asyncio.run(crowd())
    refused = [response for response in responses if response.status_code == 503]
    assert len(refused) == 80 - 64
    for response in refused:
        assert response.json()["code"] == "busy"
        assert int(response.headers["retry-after"]) >= 1
    assert sum(response.status_code == 200 for response in responses) == 65
    health = engine.health()
    assert (health.running, health.waiting) == (0, 0)


def test_a_deadline_holds_while_waiting_and_while_running(start: Start) -> None:
    engine = start("--forward-seconds", "0.05")

    async def both() -> tuple[httpx.Response, httpx.Response, float]:
        async with engine.http_async() as http:
            running = asyncio.create_task(http.post("/v1/fill", json=gap(max_tokens=1000, deadline_ms=1500)))
            while (await http.get("/health")).json()["running"] == 0:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            waiting = await http.post("/v1/fill", json=gap(deadline_ms=200))
            seconds = time.monotonic() - began
            return await running, waiting, seconds

    running, waiting, seconds = asyncio.run(both())
    assert (running.status_code, running.json()["stop_reason"]) == (200, "deadline")
    assert (waiting.status_code, waiting.json()["code"]) == (503, "deadline")
    assert seconds < 1.2


def test_the_newest_request_of_a_session_wins(start: Start) -> None:
    engine = start("--forward-seconds", "0.02")

    async def typing() -> list[httpx.Response]:
        async with engine.http_async() as http:
            tasks = []
            for number in range(5):
                call = http.post(
                    "/v1/fill", json=gap(f"{number}", max_tokens=20), headers={"diffcoder-session": "editor"}
                )
                tasks.append(asyncio.create_task(call))
                while (await http.get("/metrics")).text.count("superseded") < (number > 0):
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
            return list(await asyncio.gather(*tasks))

    *older, newest = asyncio.run(typing())
    assert newest.status_code == 200
    assert newest.json()["text"].startswith("40")
    assert {(response.status_code, response.json()["code"]) for response in older} == {(409, "superseded")}


# Who may speak to it


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_files_are_the_users_alone(start: Start, folder: Path) -> None:
    engine = start(at=folder / "new" / "s.sock")
    assert mode(engine.socket) == 0o600
    assert mode(engine.socket.parent) == 0o700
    for ending in (".json", ".log", ".lock"):
        assert mode(engine.socket.with_suffix(ending)) == 0o600


def test_a_folder_that_others_can_enter_is_refused(start: Start, folder: Path) -> None:
    (folder / "open").mkdir(mode=0o755)
    (folder / "open").chmod(0o755)
    engine = start(at=folder / "open" / "s.sock", wait=False)
    assert engine.ended() == 1
    assert b"Other users can enter" in engine.process.communicate()[1]
    (folder / "target").mkdir(mode=0o700)
    (folder / "link").symlink_to(folder / "target")
    engine = start(at=folder / "link" / "s.sock", wait=False)
    assert engine.ended() == 1
    assert list((folder / "target").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_cut_off_even_where_the_files_would_let_him_in(start: Start, folder: Path) -> None:
    engine = start()
    folder.chmod(0o755)
    engine.socket.chmod(0o777)
    program = (
        "import os, socket, sys\n"
        "os.setuid(int(sys.argv[2]))\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.settimeout(30)\n"
        "s.connect(sys.argv[1])\n"
        "try:\n"
        "    s.sendall(b'GET /health HTTP/1.1\\r\\nhost: e\\r\\nconnection: close\\r\\n\\r\\n')\n"
        "    print(s.makefile('rb').read())\n"
        "except OSError as error: print(error)\n"
    )

    def ask(uid: int) -> str:
        command = [sys.executable, "-c", program, str(engine.socket), str(uid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout

    assert "200 OK" in ask(0)
    assert "HTTP" not in ask(65534)
    assert engine.health().state == "ready"


def test_a_path_too_long_for_a_socket_gets_a_short_stand_in(start: Start, folder: Path) -> None:
    place = folder / ("n" * 90) / "s.sock"
    engine = start(at=place)
    short = Path(engine.address)
    assert short != place
    assert len(os.fsencode(short)) <= 103
    assert (mode(short), mode(short.parent), short.stat().st_uid) == (0o600, 0o700, os.getuid())
    with engine.http() as http:
        assert http.post("/v1/fill", json=gap()).status_code == 200
    engine.process.terminate()
    assert engine.ended() == 0
    assert not short.exists()


def test_tcp_wants_the_token_and_a_loopback_name(start: Start) -> None:
    engine = start("--tcp", "0", ready=False)
    endpoint = engine.endpoint
    assert endpoint.address.startswith("http://127.0.0.1:")
    assert endpoint.token is not None
    assert mode(engine.socket.with_suffix(".json")) == 0o600
    assert not engine.socket.exists()
    good = {"authorization": f"Bearer {endpoint.token}"}
    with httpx.Client(base_url=endpoint.address, timeout=SECONDS, trust_env=False) as http:
        eventually(lambda: http.get("/health", headers=good).status_code == 200)
        assert http.post("/v1/fill", json=gap(), headers=good).status_code == 200
        for path in [*ROUTES, "/nowhere"]:
            for method in METHODS:
                for wrong in (
                    {},
                    {"authorization": "Bearer x"},
                    {"authorization": f"Bearer {endpoint.token}x"},
                ):
                    assert http.request(method, path, headers=wrong).status_code == 401
        for host in ("evil.example", "evil.example:80", "127.0.0.1", "localhost.evil.example"):
            assert http.get("/health", headers=good | {"host": host}).status_code == 403
        assert http.get("/health", headers=good | {"origin": endpoint.address}).status_code == 403


# Starting and ending


def test_it_listens_while_it_loads_and_answers_when_it_has(start: Start) -> None:
    engine = start("--load-seconds", "1", ready=False)
    with engine.http() as http:
        health = http.get("/health")
        assert (health.status_code, health.json()["state"]) == (503, "loading")
        assert http.post("/v1/fill", json=gap()).status_code == 200
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        ("It is missing; run `diffcoder model pull`.", "It is missing", "model_missing"),
        ("BUG", "the loader is broken", "engine_start"),
    ],
)
def test_a_failed_load_ends_the_process_with_its_sentence(
    start: Start, error: str, sentence: str, code: str
) -> None:
    engine = start("--load-error", error, wait=False)
    assert engine.ended() == 1
    _, stderr = engine.process.communicate()
    assert sentence in stderr.decode()
    assert b"Traceback" not in stderr
    problem = engine.endpoint.problem
    assert problem is not None
    assert problem.code == code
    assert sentence in problem.message
    assert not engine.socket.exists()


def test_a_second_engine_finds_the_first_and_says_so(start: Start) -> None:
    first = start()
    second = start(wait=False)
    assert second.ended() != 0
    assert b"running already" in second.process.communicate()[1]
    with first.http() as http:
        assert http.post("/v1/fill", json=gap()).status_code == 200


def test_a_killed_engine_leaves_nothing_in_the_way(start: Start) -> None:
    first = start()
    first.process.kill()
    first.ended()
    assert first.socket.exists()
    second = start()
    assert second.health().pid == second.process.pid


def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest(start: Start) -> None:
    engine = start("--forward-seconds", "0.02")

    async def under_load() -> tuple[list[httpx.Response], httpx.Response]:
        async with engine.http_async() as http:
            accepted = [asyncio.create_task(http.post("/v1/fill", json=gap(max_tokens=10))) for _ in range(5)]
            while (await http.get("/health")).json()["waiting"] < 4:
                await asyncio.sleep(0.01)
            engine.process.send_signal(signal.SIGTERM)
            while (health := await http.get("/health")).json()["state"] != "stopping":
                await asyncio.sleep(0.01)
            assert health.status_code == 503
            late = await http.post("/v1/fill", json=gap())
            return list(await asyncio.gather(*accepted)), late

    accepted, late = asyncio.run(under_load())
    assert [response.json()["stop_reason"] for response in accepted] == ["budget"] * 5
    assert (late.status_code, late.json()["code"]) == (503, "stopping")
    assert engine.ended() == 0
    assert {path.suffix for path in engine.socket.parent.iterdir()} == {".log", ".lock"}


def test_a_second_sigterm_does_not_wait(start: Start) -> None:
    engine = start("--forward-seconds", "0.02")

    async def cut_off() -> httpx.Response:
        async with engine.http_async() as http:
            long = asyncio.create_task(http.post("/v1/fill", json=gap(max_tokens=8000)))
            while (await http.get("/health")).json()["running"] == 0:
                await asyncio.sleep(0.01)
            engine.process.send_signal(signal.SIGTERM)
            while (await http.get("/health")).json()["state"] != "stopping":
                await asyncio.sleep(0.01)
            engine.process.send_signal(signal.SIGTERM)
            return await long

    response = asyncio.run(cut_off())
    assert (response.status_code, response.json()["code"]) == (503, "stopping")
    assert engine.ended() == 0


def test_an_idle_engine_ends(start: Start) -> None:
    engine = start("--idle-seconds", "0.5")
    assert engine.ended() == 0
    assert not engine.socket.exists()


def test_looking_at_its_health_keeps_no_engine_alive(start: Start) -> None:
    engine = start("--idle-seconds", "0.5")
    with engine.http() as http, contextlib.suppress(httpx.TransportError):
        while engine.process.poll() is None:
            http.get("/health")
    assert engine.ended() == 0


def test_an_engine_that_nobody_can_find_any_more_ends(start: Start, folder: Path) -> None:
    for lost in (".sock", ".json"):
        engine = start()
        engine.socket.with_suffix(lost).unlink()
        assert engine.ended() == 0


def test_an_engine_whose_place_is_taken_ends_and_leaves_the_new_one_alone(start: Start) -> None:
    first = start()
    first.socket.with_suffix(".lock").unlink()
    second = start()
    assert first.ended() == 0
    assert second.health().pid == second.process.pid


def test_the_log_is_bounded(folder: Path) -> None:
    program = (
        "import logging, sys; from pathlib import Path; from model.service import _log_to\n"
        "_log_to(Path(sys.argv[1]))\n"
        "for number in range(30000): logging.info('x' * 100)\n"
    )
    path = folder / "s.log"
    subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert sum(file.stat().st_size for file in folder.glob("s.log*")) <= 2_000_000
