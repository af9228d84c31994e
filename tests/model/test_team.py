"""A team's adapter in the engine: in its weights, exact under verification, taken up and left off between requests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model import loading, store
from model.adapters import read_adapter, read_team_adapter, seconds
from model.checkpoints import open_checkpoint
from model.decoder import FUSED, KVCache, fused_bias, fused_weight
from model.generator import Generator
from model.schema import FillRequest, Limits, ScoreRequest
from tests.model.folders import write_adapter, write_model

TEXT = ScoreRequest(text="def add(first, second):\n    return first + second\n")
GAP = FillRequest(prefix="def add(a, b):\n    ", limits=Limits(max_tokens=12))


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    write_model(tmp_path / "model")
    return tmp_path / "model"


def put_team(base: Path, drafting: dict[str, torch.Tensor] | None = None, **changes: str) -> Path:
    """A team's adapter where the engine looks for the one of this base; `drafting` goes into it as it is."""
    path = store.team_path(str(base))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    sha = store.sha256(base / "model.safetensors")
    write_adapter(part, open_checkpoint(base).config, sha, changes={"kind": "team"} | changes)
    if drafting:
        with safe_open(part, "pt") as file:
            tensors, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        save_file(tensors | drafting, part, facts)
    part.replace(path)
    return path


def scores(generator: Generator) -> list[float]:
    return [token.logprob for token in generator.score(TEXT).tokens]


def test_an_engine_takes_up_and_leaves_off_a_team_adapter_between_two_requests(base: Path) -> None:
    generator = Generator.load(str(base), team=store.team_path(str(base)))
    alone, filled = scores(generator), generator.fill(GAP).text
    path = put_team(base)
    tuned = scores(generator)
    assert tuned != alone
    assert scores(Generator.load(str(base), team=path)) == tuned  # a fresh engine starts with it
    path.unlink()
    assert scores(generator) == alone
    assert generator.fill(GAP).text == filled


def test_without_a_team_adapter_nothing_changes(base: Path) -> None:
    put_team(base)
    assert scores(Generator.load(str(base))) == scores(Generator.load(str(base), team=base / "nothing"))


def test_what_a_team_made_of_the_drafting_adapter_drafts_and_changes_no_text(base: Path) -> None:
    config, sha = open_checkpoint(base).config, store.sha256(base / "model.safetensors")
    shipped = write_adapter(base.parent / "shipped.safetensors", config, sha)
    store.cache_folder().mkdir(exist_ok=True)
    (store.cache_folder() / "models.toml").write_text(
        '[mine]\ntitle = "Mine"\nprofile = "qwen-coder"\nblock = 4\n'
        f'[[mine.sources]]\nkind = "folder"\npath = "{base}"\n'
    )
    generator = Generator.load("mine", adapter=shipped, team=store.team_path(str(base)))
    own, alone = generator.network.adapter, scores(generator)
    put_team(base)
    plain = generator.fill(GAP).text
    assert generator.network.adapter is own
    anew = {name: value * 0.5 for name, value in seconds(read_adapter(shipped, config, sha)).items()}
    put_team(base, anew, drafting_sha256=store.sha256(shipped))
    assert generator.fill(GAP).text == plain  # verified, so drafts change its speed alone
    adapter = generator.network.adapter
    assert own is not None
    assert adapter is not None
    assert adapter is not own
    assert torch.equal(adapter.mask_embedding, own.mask_embedding * 0.5)
    put_team(
        base, anew, drafting_sha256="0" * 64
    )  # of another one, whose first factors are not in the base's linears
    assert generator.fill(GAP).text == plain
    assert generator.network.adapter is own
    put_team(base, dict(list(anew.items())[:-1]), drafting_sha256=store.sha256(shipped))
    assert scores(generator) == alone  # drafting weights that do not fit: all of it stays off
    assert generator.network.adapter is own


@pytest.mark.parametrize("changes", [{"base_sha256": "0" * 64}, {"kind": "gated"}, {"rank": "none"}, {}])
def test_a_team_adapter_that_does_not_fit_stays_off(base: Path, changes: dict[str, str]) -> None:
    generator = Generator.load(str(base), team=store.team_path(str(base)))
    alone = scores(generator)
    path = put_team(base, **changes)
    if not changes:
        os.truncate(path, 1000)
    assert scores(generator) == alone


def test_linears_are_the_sums_of_base_and_low_rank_pairs_to_int8s_precision(base: Path) -> None:
    alone = loading.load(str(base)).decoder
    path = put_team(base)
    checkpoint, sha = open_checkpoint(base), store.sha256(base / "model.safetensors")
    pairs = read_team_adapter(path, checkpoint.config, sha).pairs
    tuned = loading.load_team(str(base), path, None, alone).decoder
    assert tuned.head is alone.head
    again = loading.without_team(str(base), None, tuned)
    for fused, names in FUSED.items():
        weight = fused_weight(checkpoint.tensor, 1, fused)
        added = torch.cat([pairs[1][name][1] @ pairs[1][name][0] for name in names])
        x = torch.randn(5, weight.shape[1], generator=torch.Generator().manual_seed(1))
        bias = fused_bias(checkpoint.tensor, checkpoint.config, 1, fused)
        exact = x @ (weight + added).T + (0 if bias is None else bias)
        assert (getattr(tuned.layers[1], fused)(x) - exact).norm() < 0.2 * (x @ added.T).norm()
        assert torch.equal(getattr(again.layers[1], fused)(x), getattr(alone.layers[1], fused)(x))


def test_a_row_does_not_depend_on_its_neighbours_nor_on_the_rows_that_are_asked_for(base: Path) -> None:
    net = Generator.load(str(base), team=put_team(base)).network
    ids = torch.randint(0, 60, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    whole, _ = net.forward(KVCache(net.decoder.config, 64), ids, (), len(ids))
    last, _ = net.forward(KVCache(net.decoder.config, 64), ids, (), 3)
    assert torch.equal(whole[-3:], last)
    cache = KVCache(net.decoder.config, 64)
    for start in range(0, 40, 5):
        some, _ = net.forward(cache, ids[start : start + 5], (), 5)
        cache.keep(5)
        assert torch.equal(some, whole[start : start + 5])
