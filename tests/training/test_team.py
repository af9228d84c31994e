"""The team recipe's task: what its rows see and learn, and that merging its weights changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.adapters import read_adapter, read_team_adapter, with_seconds
from model.checkpoints import open_checkpoint
from model.decoder import LINEARS, KVCache
from model.loading import load_team
from model.masks import causal
from model.schema import DiffcoderError
from tests.model.folders import write_adapter
from training.attention import MaskedAttention
from training.corpus import Corpus
from training.frozen import FrozenLinear
from training.gated import checkpoint_sha256
from training.layouts import Sequence, as_ids
from training.network import network
from training.recipe import Diffusion, Team
from training.team import TeamModel, TeamTask, head_losses, merged, team_bytes

RECIPE = Team(rank=4, length=40, sequences=2, infill=0.0, noisy_rows=12, steps=4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    documents = [(start * 13 + np.arange(size)) % 250 for start, size in enumerate((100, 30, 57, 90, 41))]
    np.save(folder / "tokens.npy", np.concatenate(documents).astype(np.uint32))
    np.save(folder / "documents.npy", np.cumsum([0, *map(len, documents)]))
    records = [{"held_out": n == 0, "language": "python"} for n in range(5)]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (folder / "corpus.json").write_text("{}")
    return Corpus(folder)


@pytest.fixture
def drafting(tiny_base: Path, tmp_path: Path) -> Path:
    return write_adapter(
        tmp_path / "draft.safetensors", open_checkpoint(tiny_base).config, checkpoint_sha256(tiny_base)
    )


def stirred(model: TeamModel) -> TeamModel:
    """With second factors that are not zero."""
    generator = torch.Generator().manual_seed(5)
    for name, value in model.parameters.items():
        if name.endswith("lora_B"):
            value.data = torch.randn(value.shape, generator=generator) * 0.05
    return model


def test_every_window_is_read_once_an_epoch(tiny_base: Path, corpus: Corpus) -> None:
    task = TeamTask(RECIPE, tiny_base, corpus, None)
    for epoch in range(2):
        found = sorted(map(tuple, task.windows[task._order(epoch)].tolist()))
        covered = {(document, at) for document, start in found for at in range(start, start + 40)}
        for document in range(1, 5):
            assert {at for d, at in covered if d == document} >= set(range(len(corpus.document(document))))
    assert task._order(0).tolist() != task._order(1).tolist()
    assert {document for document, _ in task.held_out.tolist()} == {0}


def test_the_loss_of_the_head_and_its_gradient_are_cross_entropys() -> None:
    generator = torch.Generator().manual_seed(0)
    head = FrozenLinear.head(torch.randn(300, 64, generator=generator))
    hidden = torch.randn(150, 64, generator=generator, requires_grad=True)
    targets = torch.randint(0, 300, (150,), generator=generator)
    losses = head_losses(hidden, targets, head)
    plain = F.cross_entropy(head.product(hidden.detach()), targets, reduction="none")
    assert torch.allclose(losses, plain, atol=1e-5)
    weights = torch.rand(150, generator=generator)
    (losses * weights).sum().backward()
    slope = torch.softmax(head.product(hidden.detach()), -1) - F.one_hot(targets, 300)
    exact = head.transposed(slope * weights[:, None])
    assert hidden.grad is not None
    assert (hidden.grad - exact).norm() < 1e-3 * exact.norm()


def test_noisy_rows_see_the_text_before_them_and_clean_rows_never_see_them(
    tiny_base: Path, drafting: Path
) -> None:
    model = stirred(TeamModel(tiny_base, rank=4, scale=2.0, seed=1, drafting=drafting))
    ids = torch.arange(40)
    with torch.no_grad():
        clean, noisy = model.forward(ids, np.array([5, 20]), 3)
        alone, _ = model.forward(ids, np.zeros(0, dtype=np.int64), 3)
        other = ids.clone()
        other[6:] += 100
        _, after = model.forward(other, np.array([5, 20]), 3)
    assert torch.allclose(clean, alone, atol=1e-4)
    assert torch.allclose(noisy[:3], after[:3], atol=1e-4)
    assert not torch.allclose(noisy[3:], after[3:], atol=1e-2)


def test_both_kinds_of_rows_teach_the_same_weights(tiny_base: Path, corpus: Corpus, drafting: Path) -> None:
    sequence = Sequence(np.arange(40), 0)
    gradients = {}
    for weight in (0.0, 0.2):
        recipe = Team(rank=4, length=40, infill=0.0, noisy_rows=12, noisy_weight=weight)
        task = TeamTask(recipe, tiny_base, corpus, None, drafting)
        stirred(task.model)
        task.sequence_loss(sequence, np.random.default_rng(0)).total.backward()
        gradients[weight] = task.parameters["layers.0.v.lora_A"].grad.clone()
    assert gradients[0.0].norm() > 0
    assert (gradients[0.2] - gradients[0.0]).norm() > 1e-3 * gradients[0.0].norm()


def test_the_drafting_adapter_learns_what_the_tuned_model_would_write(
    tiny_base: Path, corpus: Corpus, drafting: Path
) -> None:
    """Noisy rows teach it, clean ones do not; first factors stay the file's; drafts come to agree with the model."""
    sequence = Sequence(np.arange(40), 0)
    task = TeamTask(
        Team(rank=4, length=40, infill=0.0, noisy_rows=60, noisy_weight=1.0),
        tiny_base,
        corpus,
        None,
        drafting,
    )
    model, own = task.model, {n: v for n, v in task.parameters.items() if n.startswith("drafting.")}
    firsts = [pair[0].clone() for layer in model.drafting_pairs.pairs for pair in layer.values()]
    clean, _ = model.forward(as_ids(sequence.ids), np.array([5]), 3)
    clean.sum().backward()
    assert not any(value.grad is not None and value.grad.any() for value in own.values())
    losses = []
    optimiser = torch.optim.Adam(own.values(), 0.01)
    for _ in range(25):
        optimiser.zero_grad()
        hidden, noisy = model.forward(as_ids(sequence.ids), np.array([5, 20, 30]), 3)
        asked = task._noisy_loss(
            np.random.default_rng(0), sequence, np.array([5, 20, 30]), hidden.detach(), noisy
        )
        (asked[0] / asked[1]).backward()
        assert all(value.grad is not None and value.grad.any() for value in own.values())
        optimiser.step()
        losses.append(float(asked[0]))
    assert losses[-1] < 0.5 * losses[0]
    now = [pair[0] for layer in model.drafting_pairs.pairs for pair in layer.values()]
    assert all(map(torch.equal, now, firsts))


def test_the_engine_drafts_as_training_did(tiny_base: Path, drafting: Path, tmp_path: Path) -> None:
    model = stirred(TeamModel(tiny_base, rank=4, scale=2.0, seed=1, drafting=drafting))
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(team_bytes(model.parameters, 2.0, model.base_sha256, {}))
    file = read_team_adapter(path, model.config, model.base_sha256)
    gated = with_seconds(read_adapter(drafting, model.config, model.base_sha256), file.drafting)
    for n, layer in enumerate(gated.pairs):
        for name, (down, up) in layer.items():
            x = torch.randn(3, down.shape[1], generator=torch.Generator().manual_seed(n))
            added = torch.zeros(3, len(up))
            model.drafting_pairs.add_(n, [name], x, added)
            assert torch.allclose(added, x @ down.T @ up.T, atol=2e-3)
    assert torch.allclose(gated.mask_embedding, model.mask_embedding, atol=1e-3)


def test_only_the_answer_of_an_edit_is_learnt(tiny_base: Path, corpus: Corpus) -> None:
    task = TeamTask(RECIPE, tiny_base, corpus, None)
    ids = np.arange(30)
    loss = task.sequence_loss(Sequence(ids, 19), np.random.default_rng(0))
    assert loss.weight == 10


def test_merged_weights_equal_the_unmerged_adapter(tiny_base: Path, tmp_path: Path) -> None:
    model = stirred(TeamModel(tiny_base, rank=4, scale=2.0, seed=1, drafting=None))
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(team_bytes(model.parameters, 2.0, model.base_sha256, {}))
    weights, base = merged(tiny_base, path), open_checkpoint(tiny_base)
    for name in LINEARS:
        plain = base.tensor(f"layers.1.{name}.weight")
        down, up = (model.parameters[f"layers.1.{name}.lora_{side}"] for side in "AB")
        x = torch.randn(6, plain.shape[1], generator=torch.Generator().manual_seed(0))
        added = 2.0 * (x @ down.T) @ up.T
        assert (x @ weights[f"layers.1.{name}.weight"].T - x @ plain.T - added).norm() < 2e-3 * added.norm()


def test_low_rank_weights_do_what_pefts_do(tiny_base: Path) -> None:
    """The oracle: transformers' model of the base with peft's adapter of the same numbers."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    source = open_checkpoint(tiny_base)
    parameters, decoder = network(Diffusion(rank=4, scale=2.0, seed=1), source.config, source.tensor)
    generator = torch.Generator().manual_seed(5)
    for name, value in parameters.items():
        if name.endswith("lora_B"):
            value.data = torch.randn(value.shape, generator=generator) * 0.05
    names = {n: f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down")}
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(names.values()))
    theirs = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(tiny_base), settings)
    with torch.no_grad():
        for name, value in parameters.items():
            _, layer, part, side = name.split(".")
            group = "self_attn" if part in "qkvo" else "mlp"
            place = theirs.get_submodule(f"base_model.model.model.layers.{layer}.{group}.{names[part]}")
            getattr(place, side)["default"].weight.copy_(value)
        ids = torch.arange(30)
        mask = MaskedAttention(torch.ones(30, 30, dtype=torch.bool).tril())
        ours = decoder.logits(decoder.forward(decoder.embed(ids), ids, mask))
        assert torch.allclose(ours, theirs(ids[None]).logits[0], atol=1e-3)


def test_the_engine_computes_what_training_saw(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    model = stirred(TeamModel(tiny_base, rank=4, scale=2.0, seed=1, drafting=None))
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(team_bytes(model.parameters, 2.0, model.base_sha256, {}))
    bare = TeamModel(tiny_base, rank=4, scale=2.0, seed=1, drafting=None)
    decoder = load_team(str(tiny_base), path, None, bare.decoder).decoder
    ids = torch.arange(30)
    with torch.no_grad():
        trained, _ = model.forward(ids, np.zeros(0, dtype=np.int64), 1)
        untrained, _ = bare.forward(ids, np.zeros(0, dtype=np.int64), 1)
        cache = KVCache(model.config, 32)
        cache.see(causal(30, 0))
        served = decoder.forward(decoder.embed(ids), torch.arange(30), cache)
    assert (served - trained).norm() < 0.1 * (trained - untrained).norm()


def test_a_base_without_marks_takes_no_infill(tiny_base: Path, corpus: Corpus) -> None:
    with pytest.raises(DiffcoderError, match="marks for infill"):
        TeamTask(Team(infill=0.5), tiny_base, corpus, None)
    with pytest.raises(DiffcoderError, match="another base"):
        read_team_adapter(_team_file(tiny_base), open_checkpoint(tiny_base).config, "0" * 64)


def _team_file(base: Path) -> Path:
    path = base / "team.bin"
    model = TeamModel(base, rank=1, scale=1.0, seed=0, drafting=None)
    path.write_bytes(team_bytes(model.parameters, 1.0, model.base_sha256, {}))
    return path
