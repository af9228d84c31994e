"""The engine's clients and its life as a process: found, started, shared, killed, replaced, stopped.

Engines here are real processes. Most run a tiny model with random weights, which the real loader, sampler and
service serve like any other; where a request must take a known time, tests/model/scripted_engine.py stands
in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from diffcoder_lsp import engine_process
from diffcoder_lsp.engine_client import AsyncEngineClient, EngineClient
from model.schema import (
    PROTOCOL_VERSION,
    DiffcoderError,
    Draft,
    EditRequest,
    Endpoint,
    FillRequest,
    Health,
    Limits,
    ScoreRequest,
)

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120.0
GAP = FillRequest(prefix="def add(a, b):\n    return ", suffix="\n", limits=Limits(max_tokens=24))


def eventually(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


# A tiny model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a random model in Hugging Face's layout: 2 layers, width 64, 400 tokens."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab, width, mlp = tokenizer.get_vocab_size(), 64, 128
    config = {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocab,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(1)

    def weight(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.2, shape).astype(np.float32)

    tensors = {"model.embed_tokens.weight": weight(vocab, width), "lm_head.weight": weight(vocab, width)}
    tensors["model.norm.weight"] = np.ones(width, np.float32)
    for layer in range(2):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{name}{norm}.weight"] = np.ones(width, np.float32)
        for part, rows in (("q", width), ("k", width // 2), ("v", width // 2), ("o", width)):
            tensors[f"{name}self_attn.{part}_proj.weight"] = weight(rows, width)
        tensors[f"{name}mlp.gate_proj.weight"] = weight(mlp, width)
        tensors[f"{name}mlp.up_proj.weight"] = weight(mlp, width)
        tensors[f"{name}mlp.down_proj.weight"] = weight(width, mlp)
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def tiny_home(home: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A home of the test's own; gives the tiny model's path, whose engine is stopped afterwards."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tiny
    engine_process.stop(tiny, drain_seconds=0.2)


# Clients of an engine whose every step takes a known time


@pytest.fixture
def scripted(home: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a scripted engine where the clients look for that of `default`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        program = ROOT / "tests" / "model" / "scripted_engine.py"
        place = engine_process.files("default")["sock"]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen([sys.executable, "-P", str(program), str(place), *options], env=env)
        processes.append(process)
        eventually(lambda: (found := engine_process.find()) is not None and found.pid == process.pid)
        eventually(lambda: health().state == "ready")
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def health(name: str = "default") -> Health:
    endpoint = engine_process.find(name)
    assert endpoint is not None
    health = engine_process.health_of(endpoint)
    assert health is not None
    return health


def fill(prefix: str = "a", **limits: object) -> FillRequest:
    return FillRequest(prefix=prefix, limits=Limits(**{"max_tokens": 3, **limits}))  # type: ignore[arg-type]


def test_the_blocking_client_speaks_every_route(scripted: Callable[..., object]) -> None:
    scripted()
    with EngineClient(start=False) as client:
        drafts: list[Draft] = []
        assert client.fill(fill()).text == "a0\u2028a1\u2028a2\u2028"
        assert client.fill(fill("z"), drafts.append).text == drafts[-1].text == "z0\u2028z1\u2028z2\u2028"
        assert client.edit(EditRequest(before="x\n", start=1, end=1, instruction="y")).text == "y\n"
        assert client.score(ScoreRequest(text="word")).tokens[0].logprob == -0.5
        assert client.health().state == "ready"
        assert [model.name for model in client.models()] == ["scripted"]
        for wrong, code, status in (("ERROR", "bad_gap", 422), ("RAISE", "internal", 500)):
            for on_draft in (None, drafts.append):
                with pytest.raises(DiffcoderError) as caught:
                    client.fill(fill(wrong), on_draft)
                assert caught.value.code == code
                assert caught.value.status == (status if on_draft is None else 500)
        assert client.fill(fill()).text


def test_the_async_client_speaks_every_route(scripted: Callable[..., object]) -> None:
    scripted()

    async def session() -> None:
        async with AsyncEngineClient(start=False) as client:
            drafts: list[Draft] = []
            assert (await client.fill(fill("z"), drafts.append)).text == drafts[-1].text
            edited = await client.edit(EditRequest(before="x\n", start=1, end=1, instruction="y"))
            assert edited.text == "y\n"
            assert (await client.score(ScoreRequest(text="word"))).tokens[0].logprob == -0.5
            assert (await client.health()).state == "ready"
            assert [model.name for model in await client.models()] == ["scripted"]
            answers = await asyncio.gather(*(client.fill(fill(max_tokens=1)) for _ in range(60)))
            assert {answer.text for answer in answers} == {"a0\u2028"}

    asyncio.run(session())


def test_a_cancelled_task_ends_its_request_in_the_engine(scripted: Callable[..., object]) -> None:
    scripted("--forward-seconds", "0.02")

    async def session(streams: bool) -> None:
        async with AsyncEngineClient(start=False) as client:
            begun = asyncio.Event()
            on_draft = (lambda _: begun.set()) if streams else None
            task = asyncio.create_task(client.fill(fill(max_tokens=8000), on_draft))
            while not begun.is_set() and (await client.health()).running == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            began = time.monotonic()
            while (await client.health()).running:
                await asyncio.sleep(0.01)
            assert time.monotonic() - began < 5
            assert (await client.fill(fill())).text

    asyncio.run(session(streams=False))
    asyncio.run(session(streams=True))


def test_a_task_that_is_cancelled_twice_ends_its_request_too(scripted: Callable[..., object]) -> None:
    """An editor cancels, and then asks anew: the second blow must not hit the closing of the connection."""
    scripted("--forward-seconds", "0.02")

    async def session(turns: int) -> None:
        async with AsyncEngineClient(start=False) as client:
            task = asyncio.create_task(client.fill(fill(max_tokens=2000)))
            while (await client.health()).running == 0:
                await asyncio.sleep(0.01)
            for _ in range(3):
                task.cancel()
                for _ in range(turns):
                    await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await task
            began = time.monotonic()
            while (await client.health()).running:
                await asyncio.sleep(0.01)
            assert time.monotonic() - began < 5

    for turns in (1, 2, 3):
        asyncio.run(session(turns))


def test_an_interrupted_command_ends_its_request_in_the_engine(scripted: Callable[..., object]) -> None:
    scripted("--forward-seconds", "0.02")
    program = (
        "from diffcoder_lsp.engine_client import EngineClient\n"
        "from model.schema import FillRequest, Limits\n"
        "EngineClient(start=False).fill(FillRequest(prefix='a', limits=Limits(max_tokens=8000)))\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen([sys.executable, "-c", program], env=env, stderr=subprocess.DEVNULL)
        eventually(lambda: health().running == 1)
        process.send_signal(number)
        process.wait(SECONDS)
        eventually(lambda: health().running == 0, seconds=10)


def test_a_client_that_may_not_start_an_engine_says_what_to_do(scripted: Callable[..., object]) -> None:
    with EngineClient(start=False) as client:
        with pytest.raises(DiffcoderError) as caught:
            client.fill(fill())
        assert caught.value.code == "engine_down"
        assert "diffcoder engine start" in caught.value.message
        scripted()
        assert client.fill(fill()).text
        with pytest.raises(DiffcoderError) as caught:
            client.fill(fill("ABORT", max_tokens=9))
        assert caught.value.code in ("engine_died", "engine_down")
        scripted()
        assert client.fill(fill()).text


def test_an_async_client_outlives_its_engine(scripted: Callable[..., subprocess.Popen[bytes]]) -> None:
    first = scripted()

    async def session() -> None:
        async with AsyncEngineClient(start=False) as client:
            assert (await client.fill(fill())).text
            first.kill()
            first.wait()
            await asyncio.to_thread(scripted)
            assert (await client.fill(fill())).text

    asyncio.run(session())


# The process


def test_importing_the_client_is_cheap() -> None:
    program = "import sys; import diffcoder_lsp.engine_client; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"httpx", "asyncio", "filelock", "torch", "numpy", "starlette", "model.registry"}


def test_a_missing_model_is_the_engines_own_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(home / "empty"))
    began = time.monotonic()
    with EngineClient("default") as client, pytest.raises(DiffcoderError) as caught:
        client.fill(fill())
    assert caught.value.code == "model_missing"
    assert "diffcoder model pull" in caught.value.message
    assert time.monotonic() - began < 60
    assert engine_process.find() is None


def test_an_unknown_model_starts_nothing(home: Path) -> None:
    for name in ("gpt-9", "../nowhere", "a b"):
        with EngineClient(name) as client, pytest.raises(DiffcoderError) as caught:
            client.fill(fill())
        assert caught.value.code == "unknown_model"
    assert list(home.glob("engine/*")) == []


def test_a_home_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "file"))
    with pytest.raises(DiffcoderError) as caught:
        engine_process.ensure("default")
    assert "DIFFCODER_HOME" in caught.value.message


@pytest.mark.parametrize("ending", ["err", "lock", "starting"])
def test_a_file_of_the_engine_that_the_system_refuses_is_named(home: Path, ending: str) -> None:
    blocked = home / "engine" / f"default.{ending}"
    blocked.mkdir(parents=True)
    with pytest.raises(DiffcoderError) as caught:
        engine_process.ensure("default")
    assert caught.value.code == "engine_start"
    assert f"The engine cannot be started: {blocked}: Is a directory" in caught.value.message
    assert "DIFFCODER_HOME" in caught.value.message
    assert not engine_process.stop("default")


def test_a_process_that_the_system_refuses_blames_no_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:  # the fixture's own end starts a process
        patched.setattr(subprocess, "Popen", refuse)
        with pytest.raises(DiffcoderError) as caught:
            engine_process.ensure("default")
    assert caught.value.message == "The engine cannot be started: Resource temporarily unavailable."


def test_a_reader_of_the_progress_that_goes_away_is_no_failed_start(home: Path) -> None:
    def gone(*_: object) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        engine_process.ensure("default", on_progress=gone)


def test_one_engine_serves_every_client_and_stops_when_told(tiny_home: str) -> None:
    heard: list[str] = []
    first = engine_process.ensure(tiny_home, on_progress=lambda what, seconds: heard.append(what))
    assert heard[0] == "starting the engine"
    assert "loading the model" in heard
    assert engine_process.ensure(tiny_home) == first
    with EngineClient(tiny_home) as client:
        answer = client.fill(GAP)
        assert answer.usage.forwards > 0
        assert client.health().pid == first.pid
    assert [engine.pid for engine in engine_process.status()] == [first.pid]
    assert "ready after" in engine_process.logs(tiny_home)
    assert engine_process.stop(tiny_home)
    assert not engine_process.stop(tiny_home)
    assert engine_process.status() == []
    assert engine_process.find(tiny_home) is None


def test_starters_that_race_share_one_engine(tiny_home: str) -> None:
    program = (
        "import sys; from diffcoder_lsp.engine_client import EngineClient\n"
        "from model.schema import FillRequest, Limits\n"
        "client = EngineClient(sys.argv[1])\n"
        "client.fill(FillRequest(prefix='x', limits=Limits(max_tokens=4)))\n"
        "print(client.health().pid)\n"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", program, tiny_home], env=env, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    with ThreadPoolExecutor(3) as threads:
        endpoints = list(threads.map(lambda _: engine_process.ensure(tiny_home), range(3)))
    pids = {int(racer.communicate(timeout=SECONDS)[0]) for racer in racers}
    assert pids == {endpoint.pid for endpoint in endpoints}
    assert len(pids) == 1


def test_a_killed_engine_comes_back_and_a_request_that_kills_every_engine_is_given_up(tiny_home: str) -> None:
    killed: list[int] = []
    kills = 1

    def kill(draft: Draft) -> None:
        endpoint = engine_process.find(tiny_home)
        if len(killed) < kills and endpoint is not None and endpoint.pid not in killed:
            killed.append(endpoint.pid)
            os.kill(endpoint.pid, signal.SIGKILL)

    with EngineClient(tiny_home) as client:
        undisturbed = client.fill(GAP)
        again = client.fill(GAP, kill)
        assert (again.text, again.stop_reason) == (undisturbed.text, undisturbed.stop_reason)
        assert len(killed) == 1
        assert client.health().pid not in killed
        eventually(lambda: not Path(f"/proc/{killed[0]}").exists())  # its starter collected it
        kills = 9
        with pytest.raises(DiffcoderError) as caught:
            client.fill(GAP, kill)
        assert caught.value.code == "engine_died"
        assert "diffcoder engine logs" in caught.value.message
        assert len(killed) == 3
        assert client.fill(GAP).text == undisturbed.text


def test_an_engine_killed_while_it_loads_is_started_again(tiny_home: str) -> None:
    killed: list[int] = []

    def kill_loading(what: str, seconds: float) -> None:
        if what == "loading the model" and not killed:
            endpoint = engine_process.find(tiny_home)
            assert endpoint is not None
            killed.append(endpoint.pid)
            os.kill(endpoint.pid, signal.SIGKILL)

    with EngineClient(tiny_home, on_progress=kill_loading) as client:
        assert client.fill(GAP).usage.forwards > 0
    assert killed


def test_an_engine_of_another_protocol_or_on_its_way_out_is_replaced(tiny_home: str) -> None:
    old = engine_process.ensure(tiny_home)
    changed = msgspec.structs.replace(old, protocol=PROTOCOL_VERSION + 1)
    (engine_process.files(tiny_home)["json"]).write_bytes(msgspec.json.encode(changed))
    with pytest.raises(DiffcoderError) as caught, EngineClient(tiny_home, start=False) as client:
        client.health()
    assert caught.value.code == "engine_version"
    with EngineClient(tiny_home) as client:
        second = client.health().pid
        assert second != old.pid
        assert client.fill(GAP).usage.forwards > 0
        os.kill(second, signal.SIGTERM)
        # It may take one more request before it hears the signal; none is lost on the way.
        eventually(
            lambda: client.fill(GAP).usage.forwards > 0 and client.health().pid not in (old.pid, second)
        )


def test_an_engine_that_listens_no_more_but_has_not_ended_is_waited_for(tiny_home: str) -> None:
    """Between closing its socket and its end it holds the lock, on which its successor would fail."""
    from filelock import FileLock

    lock = FileLock(engine_process.files(tiny_home)["lock"], thread_local=False)
    lock.acquire()
    heard: list[str] = []

    def end(what: str, seconds: float) -> None:
        heard.append(what)
        if len(heard) == 1:  # longer than an engine waits for its lock
            threading.Timer(4.0, lock.release).start()

    assert engine_process.ensure(tiny_home, on_progress=end).pid != os.getpid()
    assert heard[0] == "waiting for the engine before this one to end"


def test_a_record_of_a_later_version_can_be_read() -> None:
    later = b'{"pid":1,"model":"m","protocol":9,"address":"unix:/x","started":"2030","problem":null}'
    assert msgspec.json.decode(later, type=Endpoint).protocol == 9


def test_the_engine_outlives_its_starter_and_a_wedged_one_can_be_stopped(tiny_home: str) -> None:
    program = "import sys; from diffcoder_lsp import engine_process as e; print(e.ensure(sys.argv[1]).pid)"
    command = [sys.executable, "-c", program, tiny_home]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    starter = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    pid = int(starter.communicate(timeout=SECONDS)[0])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(starter.pid, signal.SIGHUP)
    assert health(tiny_home).pid == os.getsid(pid) == pid
    os.kill(pid, signal.SIGSTOP)
    assert engine_process.find(tiny_home) is not None
    assert engine_process.stop(tiny_home, drain_seconds=0.1)
    assert engine_process.find(tiny_home) is None


def test_a_long_and_relative_home_means_the_starters(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIFFCODER_HOME", str(Path("deep" * 20) / ("er" * 20)))
    try:
        with EngineClient(os.path.relpath(tiny)) as client:
            assert client.fill(GAP).usage.forwards > 0
            assert client.health().pid == health(tiny).pid
    finally:
        engine_process.stop(tiny, drain_seconds=0.2)
    assert [path.name for path in tmp_path.glob("*")] == ["deep" * 20]
    assert not list(tmp_path.rglob("engine/deep*"))


def test_a_workspace_with_our_folders_shadows_nothing(
    tiny_home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own model/, training/ and diffcoder_lsp/, in the current folder and on PYTHONPATH."""
    for package in ("model", "training", "diffcoder_lsp"):
        (tmp_path / package).mkdir()
        for module in ("__init__", "service", "schema", "engine_process", "cli"):
            (tmp_path / package / f"{module}.py").write_text("raise SystemExit('the workspace ran')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([".", str(tmp_path), ""]))
    with EngineClient(tiny_home) as client:
        assert client.fill(GAP).usage.forwards > 0
    assert not list(tmp_path.rglob("__pycache__"))


def test_loopback_tcp_where_there_are_no_unix_sockets(tiny_home: str) -> None:
    endpoint = engine_process.ensure(tiny_home, tcp_port=0)
    assert endpoint.address.startswith("http://127.0.0.1:")
    with EngineClient(tiny_home, start=False) as client:
        assert client.fill(GAP).usage.forwards > 0
    os.kill(endpoint.pid, signal.SIGKILL)
    eventually(lambda: engine_process.find(tiny_home) is None)


def test_a_stranger_on_a_dead_engines_port_is_not_taken_for_it(tiny_home: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as stranger:
        address = f"http://127.0.0.1:{stranger.getsockname()[1]}"
        dead = Endpoint(pid=1, model=tiny_home, protocol=PROTOCOL_VERSION, address=address, token="t")
        engine_process.files(tiny_home)["json"].write_bytes(msgspec.json.encode(dead))
        assert engine_process.find(tiny_home) is None


@pytest.mark.model
def test_the_default_model_answers_alike_before_and_after_a_kill(default_model: str, home: Path) -> None:
    request = FillRequest(
        prefix="def is_even(number):\n    return ",
        suffix="\n\n\nprint(is_even(4))\n",
        limits=Limits(max_tokens=16),
    )
    with EngineClient(default_model) as client:
        first = client.fill(request)
        assert "number % 2" in first.text
        pid = client.health().pid

        def kill(draft: Draft) -> None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

        assert client.fill(request, kill).text == first.text
        assert client.health().pid != pid
