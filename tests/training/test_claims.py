"""The script that tries the paper's claims: slices add up, every claim gets its verdict from all seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.schema import DiffcoderError
from training import claims


def test_a_verdict_needs_all_seeds_and_more_than_their_spread() -> None:
    assert claims.verdict([0.2, 0.3, 0.25]) == "holds"
    assert claims.verdict([-0.2, -0.3, -0.25]) == "the contrary"
    assert claims.verdict([0.2, -0.01, 0.3]) == "not seen"
    assert claims.verdict([0.01, 0.02, 0.4]) == "not seen"


def test_slices_add_up_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "SEEDS": (0, 1),
        "VOCAB": 300,
        "LAYERS": 1,
        "WIDTH": 64,
        "CONTEXT": 64,
        "BASE_STEPS": 4,
        "STEPS": 4,
    }
    for name, value in (small | {"MOST_FILES": 40}).items():
        monkeypatch.setattr(claims, name, value)
    changed = {claims._BASE: {"steps": 4}, "direct": {"steps": 8}}
    monkeypatch.setattr(
        claims,
        "VARIANTS",
        tuple(claims.Variant(v.name, v.changes | changed.get(v.name, {}), v.after) for v in claims.VARIANTS),
    )
    with pytest.raises(DiffcoderError, match="more slices"):
        claims.write_report(tmp_path / "runs", tmp_path / "out")
    assert not claims.advance(tmp_path / "runs", 0.0, say=lambda text: None)  # one step of the first run
    slices = 0
    while not claims.advance(tmp_path / "runs", 0.05, say=lambda text: None):
        slices += 1
        assert slices < 200
    claims.write_report(tmp_path / "runs", tmp_path / "out")
    table = (tmp_path / "out" / "README.md").read_text()
    assert all(claim.text in table for claim in claims.CLAIMS)
    assert table.count("holds") + table.count("not seen") + table.count("the contrary") == len(claims.CLAIMS)
    assert (tmp_path / "out" / "claims.svg").read_text().startswith("<svg")
    first = [json.loads(line) for line in (tmp_path / "runs" / "ar-base-0" / "log.jsonl").open()]
    assert [line["step"] for line in first if "loss" in line] == [1, 2, 3, 4]
