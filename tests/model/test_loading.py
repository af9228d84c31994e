"""Converted models and adapters on disk: made once, made anew when damaged, never half used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model import disk, loading, profiles, store
from model.checkpoints import Checkpoint, open_checkpoint
from model.decoder import KVCache
from model.generator import Generator
from model.quantise import quantise_weight
from model.sampler import Network
from model.schema import DiffcoderError, FillRequest, Limits
from tests.model.folders import QWEN_MARKS, STABLE_MARKS, write_adapter, write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    write_model(path)
    return path


@pytest.fixture
def place(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the int8 form of the tiny model goes, in a cache of this test's own; there is none yet."""
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    return store.converted_path(str(folder), "int8.safetensors")


def scores(loaded: loading.Loaded) -> torch.Tensor:
    decoder = loaded.decoder
    return Network(decoder).forward(KVCache(decoder.config, 16), list(range(9, 20)), (), 11)[0]


def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The paths that are converted from now on."""
    made: list[Path] = []
    convert = loading.convert

    def noted(checkpoint: Checkpoint, path: Path) -> None:
        made.append(path)
        convert(checkpoint, path)

    monkeypatch.setattr(loading, "convert", noted)
    return made


# --- the int8 form


def test_the_int8_form_is_what_quantising_the_checkpoint_gives(folder: Path, place: Path) -> None:
    loading.load(str(folder))
    checkpoint = open_checkpoint(folder)
    stack = torch.cat([checkpoint.tensor(f"layers.1.{name}.weight") for name in ("q", "k", "v")])
    weight, scale = quantise_weight(stack)
    with safe_open(place, "pt") as file:  # the library's reader, since the writer is ours
        assert torch.equal(file.get_tensor("layers.1.qkv.weight"), weight)
        assert torch.equal(file.get_tensor("layers.1.qkv.scale"), scale)
        assert torch.equal(file.get_tensor("embed.weight"), checkpoint.tensor("embed.weight").half())
        bias = torch.cat([checkpoint.tensor(f"layers.1.{name}.bias") for name in ("q", "k", "v")])
        assert torch.equal(file.get_tensor("layers.1.qkv.bias"), bias)
    assert ((weight * scale[:, None] - stack).abs() <= scale[:, None] / 2 + 1e-6).all()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_int8_scores_are_near_those_of_fp32(
    family: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    write_model(tmp_path / "model", family, tied)
    small, exact = (scores(loading.load(str(tmp_path / "model"), form=form)) for form in ("int8", "fp32"))
    assert (small - exact).norm() < 0.1 * exact.norm()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system does not tell")
def test_rows_that_were_given_back_are_read_again(folder: Path, place: Path) -> None:
    decoder = loading.load(str(folder)).decoder
    rows = decoder.embed(torch.arange(40))
    mapped = resident(place)
    loading.forget_rows()
    assert resident(place) < mapped
    assert torch.equal(decoder.embed(torch.arange(40)), rows)


def resident(file: Path) -> int:
    """How many kB of a mapped file are in this process."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(str(file.resolve()))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


def test_a_model_is_converted_once(folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = conversions(monkeypatch)
    hashed: list[Path] = []

    def noted(path: Path) -> str:
        hashed.append(path)
        return disk.sha256(path)

    monkeypatch.setattr(store, "sha256", noted)
    first = scores(loading.load(str(folder)))
    second = scores(loading.load(str(folder)))
    assert made == [place]
    assert torch.equal(first, second)
    assert not hashed  # of 8B it would take minutes, and only an adapter asks for it


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut to its header": lambda path: os.truncate(path, 1 << 20),
    "emptied": lambda path: os.truncate(path, 0),
    "a flipped bit": lambda path: _flip(path, path.stat().st_size - 100),
    "a flipped bit in its header": lambda path: _flip(path, 20),
    "without its seal": lambda path: path.with_name(path.name + ".sha256").unlink(),
    "with another's seal": lambda path: path.with_name(path.name + ".sha256").write_text("0" * 64),
    "of an older format": lambda path: _rewrite(path, "0"),
    "gone": lambda path: path.unlink(),
}


def _flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def _rewrite(path: Path, form: str) -> None:
    tensors = load_file(path)
    store.write_sealed(path, lambda file: save_file(tensors, file, {"format": form}))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_int8_form_is_made_anew(
    damage: Callable[[Path], object], folder: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = scores(loading.load(str(folder)))
    damage(place)
    made = conversions(monkeypatch)
    assert torch.equal(scores(loading.load(str(folder))), expected)
    assert made == [place]
    assert store.is_sealed(place)


def test_a_model_that_changes_gets_another_int8_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    write_model(tmp_path / "model")
    first = scores(loading.load(str(tmp_path / "model")))
    write_model(tmp_path / "model", num_hidden_layers=3)
    assert not torch.equal(scores(loading.load(str(tmp_path / "model"))), first)


LOAD = "import sys; from model import loading; loading.load(sys.argv[1]); print('loaded')"


def start(folder: Path, code: str = LOAD) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_loads_at_once_share_one_conversion(folder: Path, place: Path) -> None:
    processes = [start(folder) for _ in range(3)]
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert (out, process.returncode) == ("loaded\n", 0), err
    assert store.is_sealed(place)
    assert not list(place.parent.glob(".*.tmp"))


def test_a_conversion_killed_in_the_middle_leaves_nothing_that_is_used(folder: Path, place: Path) -> None:
    """Killed before its last tensor: the file under its real name is not there."""
    killer = """
import os, signal, sys
from model import loading
tensors = loading._converted
def doomed(checkpoint):
    for name, tensor in tensors(checkpoint):
        yield name, tensor
        if name.startswith("layers.1"):
            os.kill(os.getpid(), signal.SIGKILL)
loading._converted = doomed
loading.load(sys.argv[1])
"""
    process = start(folder, killer)
    process.communicate(timeout=300)
    assert process.returncode == -9
    assert not place.exists()
    loading.load(str(folder))
    assert store.is_sealed(place)


def test_no_room_for_the_int8_form_is_one_sentence_and_leaves_nothing(folder: Path, place: Path) -> None:
    limit = (400_000, 400_000)  # bytes of a file: the tokenizer fits, the weights do not
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, {limit})
from model import loading
from model.schema import DiffcoderError, FillRequest, Limits
try:
    loading.load(sys.argv[1])
except DiffcoderError as error:
    print(error.code, error.message)
"""
    process = start(folder, code)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.split()[0] in ("no_space", "disk_error")
    assert str(place.parent) in out
    assert out.count("\n") == 1
    assert [path.name for path in place.parent.iterdir() if "int8" in path.name] == []


def test_a_conversion_takes_the_memory_of_a_tensor_not_of_the_model(tmp_path: Path) -> None:
    """Twelve layers of 4 MB: written one after the other, at most a few of them are in memory."""
    write_model(tmp_path / "model", "llama", hidden_size=256, intermediate_size=1024, num_hidden_layers=12)
    code = """
import resource, sys
from pathlib import Path
from model import loading
from model.checkpoints import open_checkpoint
checkpoint = open_checkpoint(sys.argv[1])
loading.quantise_weight(checkpoint.tensor("layers.0.gate.weight"))  # what torch itself takes at first use
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loading.convert(checkpoint, Path(sys.argv[1]) / "out" / "int8.safetensors")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    out, err = start(tmp_path / "model", code).communicate(timeout=300)
    assert int(out) < 25, err  # MB; the int8 form alone has 13, as floats it has 50


@pytest.mark.model
def test_the_real_model_loads_in_seconds(generator: Generator, default_model: str) -> None:
    """Once it is converted (which the fixture saw to). Processor seconds: this test may not be alone here."""
    start = time.process_time()
    loading.load(default_model)
    assert time.process_time() - start < 12


# --- adapters


@pytest.fixture
def gated(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model under a name whose profile takes a gated adapter."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "models.toml").write_text(
        f'[mine]\ntitle = "Mine"\nprofile = "qwen-coder"\nblock = 4\n'
        f'[[mine.sources]]\nkind = "folder"\npath = "{folder}"\n'
    )
    monkeypatch.setenv("DIFFCODER_HOME", str(cache))
    return "mine"


def sha_of(folder: Path) -> str:
    return store.sha256(folder / "model.safetensors")


def test_an_adapter_is_read_as_it_was_written(folder: Path, gated: str, tmp_path: Path) -> None:
    config = open_checkpoint(folder).config
    path = write_adapter(tmp_path / "a.safetensors", config, sha_of(folder))
    loaded = loading.load(gated, adapter=path)
    assert loaded.adapter is not None
    assert loaded.draft_head is not None
    written = load_file(path)
    linear, x = loaded.decoder.layers[1].gate_up, torch.randn(3, config.width)
    y, expected = linear(x), linear(x)[:, : linear.width].clone()
    loaded.adapter.add_(1, ("gate", "up"), x, y)
    for name, half in zip(("gate", "up"), expected.chunk(2, -1), strict=True):
        down, up = (written[f"layers.1.{name}.lora_{part}"].float() for part in "AB")
        half += 2.0 * (x @ down.T) @ up.T
    assert (y[:, : linear.width] - expected).norm() < 0.01 * expected.norm()
    assert torch.equal(loaded.adapter.mask_embedding, written["mask_embedding"].float())
    hidden = torch.randn(3, config.width)
    rows = loaded.decoder.logits(hidden)[:, loaded.draft_vocab_S]
    assert torch.equal(loaded.draft_head(hidden), rows)


def spoilt(path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    tensors = load_file(path)
    tensor = change(tensors.pop(name))
    save_file(tensors if tensor is None else tensors | {name: tensor.contiguous()}, path, facts)


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"kind": "merged"}, "not a gated adapter"),
        ({"base_sha256": "0" * 64}, "another base"),
        ({"rank": "8"}, "does not fit"),
        ({"rank": "many"}, "rank and scale"),
        ({"scale": ""}, "rank and scale"),
        ({"scale": "NaN"}, "not a number"),
    ],
)
def test_an_adapter_that_says_the_wrong_thing_is_refused(
    facts: dict[str, str], says: str, folder: Path, gated: str, tmp_path: Path
) -> None:
    config = open_checkpoint(folder).config
    path = write_adapter(tmp_path / "a.safetensors", config, sha_of(folder), changes=facts)
    with pytest.raises(DiffcoderError, match=says) as error:
        loading.load(gated, adapter=path)
    assert error.value.code == "bad_adapter"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layers.0.q.lora_A", lambda t: t[:, :-1]),
        ("layers.1.down.lora_B", lambda t: t.T),
        ("layers.1.k.lora_A", lambda t: None),
        ("layers.1.k.lora_A", lambda t: t.to(torch.int32)),
        ("layers.1.k.lora_B", lambda t: t * float("inf")),
        ("mask_embedding", lambda t: t[1:]),
        ("draft_vocab", lambda t: t + 1000),
        ("draft_vocab", lambda t: t - 1),
        ("draft_vocab", lambda t: t[:0]),
        ("draft_vocab", lambda t: t[None]),
    ],
)
def test_an_adapter_with_wrong_weights_is_refused(
    name: str, change: Callable[[torch.Tensor], torch.Tensor | None], folder: Path, gated: str, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "a.safetensors", open_checkpoint(folder).config, sha_of(folder))
    spoilt(path, name, change)
    with pytest.raises(DiffcoderError) as error:
        loading.load(gated, adapter=path)
    assert error.value.code == "bad_adapter"
    assert error.value.message.endswith(".")


def test_a_damaged_adapter_is_refused(folder: Path, gated: str, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", open_checkpoint(folder).config, sha_of(folder))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DiffcoderError) as error:
        loading.load(gated, adapter=path)
    assert error.value.code == "corrupt_model"


def test_a_model_that_takes_no_adapter_says_so(folder: Path, place: Path, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a.safetensors", open_checkpoint(folder).config, sha_of(folder))
    with pytest.raises(DiffcoderError, match="takes no adapter"):
        loading.load(str(folder), adapter=path)


# --- profiles


@pytest.mark.parametrize(
    ("marks", "profile"),
    [
        (QWEN_MARKS, "qwen"),
        (STABLE_MARKS, "stable-diffcoder"),
        (STABLE_MARKS[:-1], "seed-coder"),
        (("</s>",), "plain"),
    ],
    ids=["qwen", "stable", "seed", "plain"],
)
def test_a_models_profile_is_found_by_its_marks(
    marks: tuple[str, ...], profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    write_model(tmp_path / "model", marks=marks)
    assert loading.load(str(tmp_path / "model"), form="fp32").profile.name == profile


MADE = {"objective": "diffusion", "block": 4, "causal": False, "mask_token": 6, "end_token": 0, "step": 7}


def noted(folder: Path, made: object) -> Path:
    """A tiny model whose config.json says what a recipe made of it."""
    write_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"diffcoder": made}))
    return folder


@pytest.mark.parametrize("causal", [False, True])
def test_what_a_diffusion_recipe_made_of_a_base_denoises(
    causal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    made = MADE | {"causal": causal, "block": 2, "end_token": 7}
    generator = Generator.load(str(noted(tmp_path / "model", made)), threads=1)
    net, profile = generator.network, generator.profile
    assert (net.mask_id, net.block, net.block_causal, net.aligned, net.shift) == (6, 2, not causal, True, 0)
    assert (profile.weights, profile.infill, profile.ends[0]) == (
        "merged",
        profiles.QWEN.infill,
        "<|file_sep|>",
    )
    answer = generator.fill(
        FillRequest(prefix="def f(", suffix=")", limits=Limits(max_tokens=7, verify="none"))
    )
    assert answer.usage.tokens
    with pytest.raises(DiffcoderError, match="cannot verify"):
        generator.fill(FillRequest(prefix="a", limits=Limits(verify="ar")))


def test_what_the_ar_twin_made_is_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    generator = Generator.load(str(noted(tmp_path / "model", MADE | {"objective": "ar"})), threads=1)
    assert not generator.network.diffuses
    assert generator.fill(FillRequest(prefix="def f(", limits=Limits(max_tokens=3))).usage.tokens


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("diffusion", "Expected `object`"),
        ({"objective": "diffusion"}, "required field `block`"),
        (MADE | {"objective": "gated"}, "objective"),
        (MADE | {"block": 0}, "block"),
        (MADE | {"block": 1000}, "block"),
        (MADE | {"causal": "yes"}, "causal"),
        (MADE | {"mask_token": 200}, "mask_token 200 is no special token"),
        (MADE | {"end_token": -1}, "end_token -1 is no special token"),
    ],
)
def test_a_note_in_config_json_that_cannot_be_meant_is_one_sentence(
    made: object, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    with pytest.raises(DiffcoderError, match=re.escape(says)) as error:
        loading.load(str(noted(tmp_path / "model", made)), form="fp32")
    assert error.value.code == "corrupt_model"
    assert "export the model again" in error.value.message


def test_a_model_without_any_known_mark_needs_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    write_model(tmp_path / "model", marks=("<nothing>",))
    with pytest.raises(DiffcoderError, match="No profile") as error:
        loading.load(str(tmp_path / "model"), form="fp32")
    assert error.value.code == "unsupported_model"
