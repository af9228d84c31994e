"""The gated model: what its rows see, what they leave alone, and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from model.checkpoints import open_checkpoint
from training.frozen import FrozenLinear, GatedLinear
from training.gated import GatedModel, adapter_bytes, checkpoint_sha256, load_adapter
from training.network import LoraLinear
from training.noisy_blocks import Noisy

BLOCK = 3


@pytest.fixture
def model(tiny_base):
    made = GatedModel(tiny_base, rank=4, scale=2.0, draft_vocab_S=torch.arange(0, 300, 2), seed=1)
    generator = torch.Generator().manual_seed(5)
    for name, value in made.parameters.items():
        if name.endswith("lora_B"):
            value.data = torch.randn(value.shape, generator=generator) * 0.05
    return made


@pytest.fixture
def ids():
    return torch.randint(0, 300, (40,), generator=torch.Generator().manual_seed(2))


def blocks_after(ids, anchors):
    places = anchors[:, None] + 1 + torch.arange(BLOCK)
    return ids[places]


def test_clean_rows_are_the_frozen_bases_bit_for_bit(tiny_base, model, ids):
    untouched = GatedModel(tiny_base, rank=4, scale=2.0, draft_vocab_S=torch.arange(0, 300, 2), seed=9)
    ((cache, hidden),) = model.read(ids)
    anchors = torch.tensor([3, 10])
    model.denoise(Noisy(cache, blocks_after(ids, anchors), torch.ones(2, BLOCK, dtype=torch.bool), anchors))
    ((again, same),) = untouched.read(ids)
    assert torch.equal(hidden, same)
    assert torch.equal(cache.keys, again.keys)
    assert torch.equal(cache.values, again.values)


def test_a_masked_row_never_sees_its_target_nor_anything_behind_its_anchor(model, ids):
    anchors = torch.tensor([3, 10, 11, 30])
    mask = torch.ones(4, BLOCK, dtype=torch.bool)
    ((cache, _),) = model.read(ids)
    before = model.denoise(Noisy(cache, blocks_after(ids, anchors), mask, anchors)).view(4, BLOCK, -1)
    for row, anchor in enumerate(anchors.tolist()):
        other = ids.clone()
        other[anchor + 1 :] = (other[anchor + 1 :] + 7) % 300
        ((cache, _),) = model.read(other)
        after = model.denoise(Noisy(cache, blocks_after(other, anchors), mask, anchors)).view(4, BLOCK, -1)
        assert torch.equal(before[row], after[row])
        if row + 1 < len(anchors):
            assert not torch.equal(before[row + 1], after[row + 1])  # later blocks do see what changed


def test_a_revealed_place_is_seen_by_its_own_block_alone(model, ids):
    anchors = torch.tensor([5, 20])
    mask = torch.tensor([[True, False, True], [True, True, True]])
    ((cache, _),) = model.read(ids)
    blocks = blocks_after(ids, anchors)
    before = model.denoise(Noisy(cache, blocks, mask, anchors)).view(2, BLOCK, -1)
    blocks[0, 1] = (blocks[0, 1] + 1) % 300
    after = model.denoise(Noisy(cache, blocks, mask, anchors)).view(2, BLOCK, -1)
    assert not torch.equal(before[0, 0], after[0, 0])
    assert torch.equal(before[1], after[1])


def test_noisy_rows_equal_one_dense_forward_of_clean_and_noisy(model, ids):
    """The brute-force reading: for each block, prefix and block in one forward under an explicit mask."""
    from model.decoder import KVCache

    anchors = torch.tensor([4, 17, 33])
    mask = torch.tensor([[True, True, True], [False, True, True], [True, False, False]])
    ((cache, _),) = model.read(ids)
    together = model.denoise(Noisy(cache, blocks_after(ids, anchors), mask, anchors)).view(3, BLOCK, -1)
    for row, anchor in enumerate(anchors.tolist()):
        prefix = ids[: anchor + 1]
        dense = KVCache(model.config, anchor + 1 + BLOCK)
        dense.see(torch.ones(anchor + 1, anchor + 1, dtype=torch.bool).tril())
        model.clean.forward(model.clean.embed(prefix), torch.arange(anchor + 1), dense)
        dense.keep(anchor + 1)
        dense.see(torch.ones(BLOCK, anchor + 1 + BLOCK, dtype=torch.bool))
        x = model.noisy.embed(ids[anchor + 1 : anchor + 1 + BLOCK])
        x = torch.where(mask[row][:, None], model.parameters["mask_embedding"], x)
        with torch.no_grad():
            alone = model.noisy.forward(x, torch.arange(anchor + 1, anchor + 1 + BLOCK), dense)
        assert torch.allclose(together[row], alone, atol=2e-2, rtol=1e-2)


def test_gradient_of_a_frozen_int8_linear_is_that_of_its_weight():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(96, 64, generator=generator) / 8, torch.randn(50, 64, generator=generator)
    bias = torch.randn(96, generator=generator)
    seed = torch.randn(50, 96, generator=generator) * torch.logspace(-6, 1, 50)[:, None]
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    FrozenLinear(weight, bias)(a).backward(seed)
    F.linear(b, weight, bias).backward(seed)
    error = (a.grad - b.grad).norm(dim=1) / b.grad.norm(dim=1)
    assert error.max() < 0.04  # each row keeps its own scale, from 1e-6 to 10


def test_an_adapter_file_brings_the_weights_back(tiny_base, model, tmp_path):
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(
        adapter_bytes(
            model.parameters, model.drafts.vocab_S, model.scale, checkpoint_sha256(tiny_base), {"shift": 1}
        )
    )
    other = GatedModel(tiny_base, rank=4, scale=2.0, draft_vocab_S=torch.arange(0, 300, 2), seed=7)
    facts = load_adapter(other, path)
    assert facts["shift"] == "1"
    assert facts["kind"] == "gated"
    for name, value in model.parameters.items():
        assert torch.allclose(other.parameters[name], value, atol=1e-3)
    from model.adapters import read_adapter

    read = read_adapter(path, open_checkpoint(tiny_base).config, checkpoint_sha256(tiny_base))
    assert torch.equal(read.draft_vocab_S, torch.arange(0, 300, 2))


@pytest.mark.parametrize("head", [False, True])
def test_a_heads_gradient_keeps_its_many_small_entries(head):
    """A row of softmax minus a target: in int8, what is below a 254th of the largest entry is lost."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4096, 64, generator=generator)
    small = torch.rand(5, 4096, generator=generator)
    small /= small.sum(1, keepdim=True)
    gradient = small.clone()
    gradient[:, 7] -= 1.0
    x = torch.zeros(5, 64, requires_grad=True)
    (FrozenLinear.head(weight) if head else FrozenLinear(weight))(x).backward(gradient)
    off = (x.grad - gradient @ weight).norm(dim=1) / (small @ weight).norm(dim=1)
    assert off.max() < 1e-4 if head else off.min() > 0.9


def test_a_gated_linear_is_what_autograd_makes_of_its_products():
    generator = torch.Generator().manual_seed(0)
    frozen = FrozenLinear(torch.randn(96, 64, generator=generator), torch.randn(96, generator=generator))
    pairs = [
        (torch.nn.Parameter(torch.randn(4, 64)), torch.nn.Parameter(torch.randn(rows, 4)))
        for rows in (32, 48, 16)
    ]
    x, seed = torch.randn(50, 64, generator=generator), torch.randn(50, 96, generator=generator)
    found = []
    for linear in (GatedLinear(frozen, pairs, 2.0), LoraLinear(frozen, pairs, 2.0)):
        inputs = x.clone().requires_grad_()
        y = linear(inputs)
        found.append([y, *torch.autograd.grad(y, [inputs, *(f for pair in pairs for f in pair)], seed)])
    for ours, plain in zip(*found, strict=True):
        assert torch.allclose(ours, plain, atol=1e-3, rtol=1e-5), (ours - plain).abs().max()
