"""Block diffusion of all weights: gradients against a per-block reference, what it learns, what it exports."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from model.adapters import read_team_adapter
from model.checkpoints import open_checkpoint
from model.schema import DiffcoderError
from training import diffusion
from training.attention import MaskedAttention
from training.corpus import Corpus
from training.diffusion import DiffusionTask, export_checkpoint
from training.examples import Examples, store
from training.layouts import Sequence
from training.network import network
from training.noise import clipped_rates, mask_blocks
from training.parallel import World
from training.recipe import Diffusion
from training.team import merged
from training.trainer import Trainer

RECIPE = Diffusion(
    context=48,
    block=4,
    infill=0.0,
    mask_token=299,
    end_token=298,
    noise_warmup=5,
    lr=3e-3,
    lr_warmup=3,
    steps=40,
    decay_steps=10,
    ema=0.8,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents that count up from a random start, of different lengths."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    documents = [
        (start + np.arange(size)) % 250
        for start, size in zip(rng.integers(0, 250, 24), range(70, 94), strict=True)
    ]
    np.save(folder / "tokens.npy", np.concatenate(documents).astype(np.uint32))
    np.save(folder / "documents.npy", np.cumsum([0, *map(len, documents)]))
    records = [{"held_out": n % 6 == 0, "language": "python"} for n in range(24)]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (folder / "corpus.json").write_text("{}")
    return Corpus(folder)


def per_block(task, pack, masked_NB, rates_N):
    """The same loss, one block at a time: clean text before the block, then the noisy block, in a causal-free forward."""
    recipe, block = task.recipe, task.recipe.block
    ids, documents = torch.from_numpy(pack.ids_L), torch.from_numpy(pack.documents_L)
    total = torch.zeros(())
    for n in range(len(ids) // block):
        start, end = n * block, (n + 1) * block
        masked = torch.from_numpy(masked_NB[n])
        rows = torch.cat([ids[:start], torch.where(masked, recipe.mask_token, ids[start:end])])
        seen = torch.zeros(end, end, dtype=torch.bool)
        for i in range(end):
            for j in range(end):
                same = not recipe.document_mask or documents[i] == documents[j]
                if recipe.causal and i < start:
                    seen[i, j] = same and j <= i
                else:
                    seen[i, j] = same and j // block <= i // block
        hidden = task._forward(rows, torch.arange(end), MaskedAttention(seen))[start:]
        losses = F.cross_entropy(
            task.decoder.logits(hidden[masked]), ids[start:end][masked], reduction="none"
        )
        total = total + losses.sum() / rates_N[n]
    return total


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("document_mask", [True, False])
def test_loss_and_gradients_equal_those_of_one_block_at_a_time(tiny_base, corpus, causal, document_mask):
    recipe = msgspec.structs.replace(RECIPE, causal=causal, document_mask=document_mask)
    task = DiffusionTask(recipe, tiny_base, corpus)
    pack = task.train_packs[3]
    assert pack.documents_L.max() > 0  # a document ends inside
    together = task.pack_loss(pack, np.random.default_rng(5), 1.0)
    assert together.weight == recipe.context
    together.total.backward()
    gradients = {name: value.grad.clone() for name, value in task.parameters.items()}
    for value in task.parameters.values():
        value.grad = None
    rng = np.random.default_rng(5)
    rates = clipped_rates(rng, recipe.context // 4, 4, 1.0)
    alone = per_block(task, pack, mask_blocks(rng, rates, 4), rates)
    alone.backward()
    assert torch.allclose(together.total, alone, rtol=1e-4)
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, task.parameters[name].grad, rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("clipped", [True, False])
def test_while_noise_warms_up_masked_places_weigh_the_same(tiny_base, corpus, clipped):
    recipe = msgspec.structs.replace(RECIPE, clipped=clipped)
    task = DiffusionTask(recipe, tiny_base, corpus)
    pack, blocks, ceiling = task.train_packs[3], recipe.context // 4, 0.6
    rng = np.random.default_rng(5)
    if clipped:
        masked = mask_blocks(rng, clipped_rates(rng, blocks, 4, ceiling), 4)
    else:
        rates = rng.uniform(0.0, ceiling, blocks)
        masked = rng.random((blocks, 4)) < rates[:, None]
    loss = task.pack_loss(pack, np.random.default_rng(5), ceiling)
    assert loss.weight == masked.sum() < recipe.context
    assert torch.allclose(loss.total, per_block(task, pack, masked, np.ones(blocks)), rtol=1e-4)


def test_the_head_is_computed_a_few_rows_at_a_time_with_the_same_outcome(tiny_base, corpus, monkeypatch):
    """Scores are never kept for the backward pass: what is kept does not grow with the vocabulary."""
    task = DiffusionTask(RECIPE, tiny_base, corpus)
    monkeypatch.setattr(diffusion, "_LOSS_ROWS", 7)
    hidden = torch.randn(
        60, task.config.width, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    asked, targets = torch.arange(3, 53), torch.arange(50)
    rows = []
    logits = task.decoder.logits
    monkeypatch.setattr(task.decoder, "logits", lambda x: rows.append(len(x)) or logits(x))

    def kept(compute):
        """Losses, gradients, and the numbers that autograd kept in between."""
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            losses = compute()
        weights = torch.linspace(0.5, 2.0, len(losses))
        return losses, torch.autograd.grad((losses * weights).sum(), [hidden, *heads]), sum(sizes)

    heads = [task.parameters["head.weight"]]
    losses, slopes, few = kept(lambda: task._cross_entropy(hidden, asked, targets))
    assert max(rows) == 7
    assert sum(rows) == 2 * 50  # once more in the backward pass
    wanted, exact, many = kept(lambda: F.cross_entropy(logits(hidden[asked]), targets, reduction="none"))
    assert torch.allclose(losses, wanted, atol=1e-5)
    for slope, other in zip(slopes, exact, strict=True):
        assert torch.allclose(slope, other, atol=1e-5)
    assert many >= 50 * task.config.vocab
    assert few == 50 * (task.config.width + 2)  # rows, their places and targets


def test_the_likelihood_bound_falls_below_the_ar_start(tiny_base, corpus, tmp_path):
    twin = DiffusionTask(msgspec.structs.replace(RECIPE, objective="ar"), tiny_base, corpus)
    start = twin.measure()["bits_per_token"]
    recipe = msgspec.structs.replace(RECIPE, steps=120)
    task = DiffusionTask(recipe, tiny_base, corpus)
    Trainer(recipe, task, tmp_path / "run").train(minutes=60)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    assert lines[-1]["bits_per_token"] < 0.7 * start


def test_ar_twin_loss_is_that_of_the_next_token_within_a_document(tiny_base, corpus):
    task = DiffusionTask(msgspec.structs.replace(RECIPE, objective="ar"), tiny_base, corpus)
    pack = task.train_packs[3]
    loss = task.pack_loss(pack, np.random.default_rng(0), 1.0)
    ids, documents = torch.from_numpy(pack.ids_L), torch.from_numpy(pack.documents_L)
    expected, count = 0.0, 0
    for number in documents.unique():
        rows = (documents == number).nonzero().squeeze(1)
        earlier = torch.ones(len(rows), len(rows), dtype=torch.bool).tril()
        hidden = task._forward(ids[rows], rows, MaskedAttention(earlier))
        expected += F.cross_entropy(task.decoder.logits(hidden[:-1]), ids[rows[1:]], reduction="sum").item()
        count += len(rows) - 1
    assert loss.weight == count
    assert loss.total.item() == pytest.approx(expected, rel=1e-4)


def test_an_exported_model_opens_with_the_weights_of_the_run(tiny_base, corpus, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, steps=2)
    task = DiffusionTask(recipe, tiny_base, corpus)
    trainer = Trainer(recipe, task, tmp_path / "run")
    trainer.train(minutes=60)
    opened = open_checkpoint(tmp_path / "run" / "model")
    assert opened.config == task.config
    assert torch.equal(opened.tensor("layers.1.k.weight"), trainer.average["layers.1.qkv.weight"][64:96])
    assert torch.equal(opened.tensor("layers.0.up.weight"), trainer.average["layers.0.gate_up.weight"][128:])


@pytest.mark.parametrize("rank", [0, 4])
def test_a_run_goes_on_with_its_own_base_and_is_exported_with_it_alone(tiny_base, corpus, tmp_path, rank):
    recipe, run, other = (
        msgspec.structs.replace(RECIPE, steps=2, rank=rank),
        tmp_path / "run",
        tmp_path / "other",
    )
    Trainer(recipe, DiffusionTask(recipe, tiny_base, corpus), run).train(minutes=60)
    shutil.copytree(tiny_base, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, other / "model.safetensors")
    with pytest.raises(DiffcoderError, match="another recipe or base"):
        Trainer(recipe, DiffusionTask(recipe, other, corpus), run, resume=True)
    with pytest.raises(DiffcoderError, match="another base: name it with --base"):
        export_checkpoint(recipe, other, run)


def test_context_and_block_must_fit(tiny_base, corpus):
    with pytest.raises(DiffcoderError, match="multiple"):
        DiffusionTask(msgspec.structs.replace(RECIPE, context=50), tiny_base, corpus)


LORA = msgspec.structs.replace(RECIPE, rank=4, steps=3)


def gradients(task, number=3):
    for value in task.parameters.values():
        value.grad = None
    loss = task.pack_loss(task.train_packs[number], np.random.default_rng(5), 1.0)
    loss.total.backward()
    return loss.total.item(), {name: value.grad.clone() for name, value in task.parameters.items()}


@pytest.mark.parametrize("recipe", [RECIPE, LORA], ids=["all weights", "low rank"])
def test_layers_computed_again_give_the_same_loss_and_gradients(tiny_base, corpus, recipe):
    kept = DiffusionTask(recipe, tiny_base, corpus)
    again = DiffusionTask(msgspec.structs.replace(recipe, recompute=True), tiny_base, corpus)
    (loss, one), (same, two) = gradients(kept), gradients(again)
    assert loss == same
    for name, gradient in one.items():
        assert torch.equal(gradient, two[name]), name


@pytest.mark.parametrize("changes", [{}, {"objective": "ar"}, {"rank": 4, "causal": True, "ar_weight": 1.0}])
def test_everything_that_a_step_computes_lies_on_the_device(tiny_base, corpus, changes):
    """On torch's device without memory: an operation over two devices is an error there as on a GPU."""
    recipe = msgspec.structs.replace(RECIPE, recompute=True, **changes)
    task = DiffusionTask(recipe, tiny_base, corpus, world=World(device=torch.device("meta")))
    loss = task._pack_loss(task.train_packs[3], np.random.default_rng(5), 1.0)
    (loss.total / loss.weight).backward()
    assert {value.device.type for value in task.parameters.values()} == {"meta"}
    assert all(value.grad is not None and value.grad.is_meta for value in task.parameters.values())


def test_bf16_changes_products_and_neither_weights_nor_gradients(tiny_base, corpus):
    exact, slopes = gradients(DiffusionTask(RECIPE, tiny_base, corpus))
    rounded = DiffusionTask(msgspec.structs.replace(RECIPE, precision="bf16"), tiny_base, corpus)
    loss, found = gradients(rounded)
    assert loss == pytest.approx(exact, rel=0.02)
    assert loss != pytest.approx(exact, rel=1e-5)
    for name, slope in slopes.items():
        assert rounded.parameters[name].dtype == found[name].dtype == torch.float32
        likeness = F.cosine_similarity(slope.flatten(), found[name].flatten(), dim=0)
        assert likeness > 0.98, name


# Looked for and not imported: that is what must not happen unguarded.
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the train extra")


@needs_bitsandbytes
def test_a_4_bit_base_fetches_no_kernel_to_compute_with(tmp_path):
    (tmp_path / "kernels.py").write_text("print('asked for')\n")
    script = (
        "from training.network import import_bitsandbytes as found; found(); from bitsandbytes.functional import"
        " has_avx512bf16; print(bool(has_avx512bf16())); import kernels"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    fast_bf16, *rest = done.stdout.split("\n")
    assert done.stderr == ""
    assert rest == ["asked for", ""]  # by the last statement
    if fast_bf16 != "True":
        pytest.skip("bitsandbytes asks for none on this processor")


@pytest.mark.parametrize("form", ["fp32", "int8", pytest.param("nf4", marks=needs_bitsandbytes)])
def test_a_frozen_base_in_any_form_teaches_its_low_rank_pairs_alone(tiny_base, corpus, tmp_path, form):
    task = DiffusionTask(msgspec.structs.replace(LORA, form=form), tiny_base, corpus)
    assert all("lora_" in name for name in task.parameters)
    exact, _ = gradients(DiffusionTask(LORA, tiny_base, corpus))
    loss, slopes = gradients(task)
    assert loss == pytest.approx(exact, rel=0.1)
    assert all(slopes[name].norm() > 0 for name in slopes if name.endswith("lora_B"))
    before = task.measure()["bits_per_token"]
    recipe = msgspec.structs.replace(LORA, form=form, steps=50, lr=5e-3, sequences=2)
    Trainer(recipe, task, tmp_path / "run").train(minutes=60)
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert last["bits_per_token"] < before - 0.5
    read_team_adapter(tmp_path / "run" / "adapter.safetensors", task.config, task.base_sha256)


def test_merged_low_rank_weights_equal_the_unmerged_ones(tiny_base, corpus, tmp_path):
    task = DiffusionTask(LORA, tiny_base, corpus)
    Trainer(msgspec.structs.replace(LORA, lr=2e-2, ema=0.0), task, tmp_path / "run").train(minutes=60)
    for value in task.parameters.values():
        value.data = value.data.half().float()  # as the file holds them
    weights, source = merged(tiny_base, tmp_path / "run" / "adapter.safetensors"), open_checkpoint(tiny_base)
    plain = msgspec.structs.replace(LORA, rank=0)
    _, whole = network(
        plain, task.config, lambda name: weights[name] if name in weights else source.tensor(name)
    )
    ids, rows = torch.arange(30), torch.arange(30)
    mask = MaskedAttention(torch.ones(30, 30, dtype=torch.bool).tril())
    with torch.no_grad():
        apart = task.decoder.forward(task.decoder.embed(ids), rows, mask)
        together = whole.forward(whole.embed(ids), rows, mask)
        _, base = network(plain, task.config, source.tensor)
        untrained = base.forward(base.embed(ids), rows, mask)
    assert torch.allclose(apart, together, atol=1e-3)
    assert not torch.allclose(apart, untrained, atol=0.1)


def test_the_prompt_of_an_example_is_never_masked(tiny_base, corpus, tmp_path, monkeypatch):
    store(tmp_path / "e", [Sequence(np.arange(40) + n, 24) for n in range(32)])
    recipe = msgspec.structs.replace(RECIPE, data="examples", document_mask=True)
    with pytest.raises(DiffcoderError, match="learns examples"):
        DiffusionTask(recipe, tiny_base, corpus)
    task = DiffusionTask(recipe, tiny_base, corpus, Examples(tmp_path / "e", "x"))
    seen = []
    forward = task._forward
    monkeypatch.setattr(task, "_forward", lambda ids, *rest: seen.append(ids) or forward(ids, *rest))
    for number in range(6):
        pack = task.train_packs[number]
        loss = task.pack_loss(pack, np.random.default_rng(number), 1.0)
        noisy, clean = seen[-1].chunk(2)
        assert torch.equal(clean, torch.from_numpy(pack.ids_L))
        assert torch.equal(noisy[~pack.learnt_L], clean[~pack.learnt_L])
        assert loss.weight == pack.learnt_L.sum()
