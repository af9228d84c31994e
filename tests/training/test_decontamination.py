"""Benchmark sets as they lie about: half fetched, damaged, with blank lines, not there."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from model.schema import DiffcoderError
from training.decontamination import SETS, benchmark_ngrams, sets, shares

ROW = json.dumps({"prompt": " ".join(f"word{n}" for n in range(20))}).encode()
WHOLE = gzip.compress(b"\n".join([ROW, *(os.urandom(9).hex().join('""').encode() for _ in range(2000))]))


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 255 for byte in data[middle : middle + 4]) + data[middle + 4 :]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("half.jsonl.gz", WHOLE[: len(WHOLE) // 2]),
        ("flipped.jsonl.gz", flipped(WHOLE)),
        ("page.json.gz", b"<html>not found</html>"),
        ("nothing.jsonl.gz", WHOLE[:5]),
        ("half.jsonl", ROW + b"\n" + ROW[:9]),
        ("bytes.json", b"\xff\xfe\x00"),
    ],
)
def test_a_damaged_set_is_named_with_what_to_do(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DiffcoderError, match=rf"{name} cannot be read .*: fetch it again") as error:
        benchmark_ngrams(sets(tmp_path))
    assert error.value.code == "bad_benchmarks"


def test_blank_lines_and_folders_that_are_called_like_sets_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    (tmp_path / "a.json" / "b.jsonl").write_bytes(b"\n" + ROW + b"\r\n\r\n  \n" + b'{"prompt": "more"}\n\n')
    grams = benchmark_ngrams(sets(tmp_path))
    assert shares(grams, " + ".join(f"word{n}" for n in range(3, 18)))


@pytest.mark.parametrize("folder", ["none", "empty", None])
def test_missing_sets_are_said_with_what_every_command_understands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    (tmp_path / "empty").mkdir()
    if folder is None:
        monkeypatch.delenv(SETS, raising=False)
    else:
        monkeypatch.setenv(SETS, str(tmp_path / folder))
    with pytest.raises(
        DiffcoderError, match=rf"{folder or 'not set'}; set {SETS} to their folder, or .*train"
    ):
        sets(None)
