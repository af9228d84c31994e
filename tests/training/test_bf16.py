"""Gated linears in bf16 against their definition in fp32, and the gated model that is made of them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training import bf16
from training.gated import GatedModel
from training.noisy_blocks import BlockAttention, Noisy

BLOCK = 3


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.mark.parametrize("outputs", [(64,), (64, 32, 32)])
def test_a_gated_linear_and_its_gradients_are_those_of_its_parts(outputs):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    weight, bias, x, seed = (
        random(sum(outputs), 96),
        random(sum(outputs)),
        random(40, 96),
        random(40, sum(outputs)),
    )
    pairs = [(nn.Parameter(random(4, 96)), nn.Parameter(random(out, 4))) for out in outputs]
    found = {}
    x.requires_grad_()
    for name in ("bf16", "fp32"):
        for value in (x, *(factor for pair in pairs for factor in pair)):
            value.grad = None
        if name == "bf16":
            y = bf16.GatedLinear(weight, bias, pairs, 2.0)(x)
        else:
            y = F.linear(x, weight, bias) + torch.cat([x @ a.T @ b.T * 2.0 for a, b in pairs], -1)
        y.backward(seed.to(y.dtype))
        found[name] = [y, x.grad, *(factor.grad for pair in pairs for factor in pair)]
    assert all(relative(a.float(), b) < 0.02 for a, b in zip(found["bf16"], found["fp32"], strict=True))


def test_factors_that_moved_are_used():
    pairs = [(nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.zeros(2, 1)))]
    linear = bf16.GatedLinear(torch.zeros(2, 4), None, pairs, 1.0)
    assert not linear(torch.ones(1, 4)).any()
    pairs[0][1].data += 1
    assert linear(torch.ones(1, 4)).tolist() == [[4.0, 4.0]]


def test_bf16_is_never_timed_where_the_processor_cannot_multiply_it(monkeypatch):
    def forbidden(*_):
        raise AssertionError("it may take minutes")

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    monkeypatch.setattr(bf16, "F", type("", (), {"linear": forbidden}))
    assert not bf16.is_fast.__wrapped__()


@pytest.mark.parametrize(("seconds", "fast"), [((2.0, 1.0), True), ((1.0, 0.9), False), ((1.0, 1.8), False)])
def test_bf16_is_taken_where_its_products_take_less_time(monkeypatch, seconds, fast):
    """A clock that each product moves on by its kind's seconds."""
    now = [0.0]

    def linear(x, weight):
        now[0] += seconds[x.dtype is torch.bfloat16]

    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}
    )  # no product is computed
    monkeypatch.setattr(bf16, "F", type("", (), {"linear": staticmethod(linear)}))
    monkeypatch.setattr(bf16.time, "perf_counter", lambda: now[0])
    assert bf16.is_fast.__wrapped__() is fast


@pytest.fixture(scope="module")
def models(tiny_base):
    made = []
    for precision in ("bf16", "int8"):
        model = GatedModel(
            tiny_base,
            rank=4,
            scale=2.0,
            draft_vocab_S=torch.arange(300),
            seed=1,
            chain=8,
            precision=precision,
        )
        generator = torch.Generator().manual_seed(5)
        for name, value in model.parameters.items():
            if name.endswith("B"):
                value.data = torch.randn(value.shape, generator=generator) * 0.05
        made.append(model)
    return made


def noisy_rows(model, lengths=(40,)):
    generator = torch.Generator().manual_seed(2)
    sequences = [torch.randint(0, 300, (length,), generator=generator) for length in lengths]
    anchors = torch.tensor([3, 10, 30])
    parts = []
    for ids, (clean, _) in zip(sequences, model.read(*sequences), strict=True):
        mask = torch.rand(3, BLOCK, generator=generator) < 0.7
        parts.append(Noisy(clean, ids[anchors[:, None] + 1 + torch.arange(BLOCK)], mask, anchors))
    return parts


def test_the_model_in_bf16_is_nearly_the_one_in_int8(models):
    gradients = []
    for model in models:
        for value in model.parameters.values():
            value.grad = None
        hidden = model.denoise(*noisy_rows(model))
        model.drafts.logits(hidden, torch.arange(len(hidden))).logsumexp(-1).sum().backward()
        gradients.append((hidden.detach().float(), {n: value.grad for n, value in model.parameters.items()}))
    (half, of_half), (whole, of_whole) = gradients
    assert relative(half, whole) < 0.1
    alike = torch.stack(
        [F.cosine_similarity(of_half[n].flatten(), of_whole[n].flatten(), 0) for n in of_half]
    )
    assert alike.min() > 0.9, dict(zip(of_half, alike.tolist(), strict=True))


@pytest.mark.parametrize("number", [0, 1])
def test_several_sequences_of_one_pass_are_those_of_passes_of_their_own(models, number):
    model = models[number]
    together = model.denoise(*noisy_rows(model, (40, 56))).split(3 * BLOCK)
    for part, rows in zip(noisy_rows(model, (40, 56)), together, strict=True):
        assert torch.allclose(model.denoise(part), rows, atol=2e-2, rtol=2e-2)


def test_attention_of_blocks_and_its_gradients_are_those_of_one_dense_product(models):
    model = models[1]
    (part,) = noisy_rows(model, (40,))
    c, rows = model.config, 3 * BLOCK
    generator = torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(rows, heads, c.head_dim, generator=generator).requires_grad_()
        for heads in (c.heads, c.kv_heads, c.kv_heads)
    )
    seed = torch.randn(rows, c.heads, c.head_dim, generator=generator)
    found = BlockAttention([part], c.heads // c.kv_heads).attend(0, q, k, v)
    found.backward(seed)
    gradients = [value.grad.clone() for value in (q, k, v)]
    q.grad = k.grad = v.grad = None
    keys, values = (
        torch.cat([x[0], y.transpose(0, 1)], 1) for x, y in ((part.clean.keys, k), (part.clean.values, v))
    )
    own = torch.arange(rows) // BLOCK
    clean = torch.arange(part.clean.keys.shape[2]) <= part.anchors_N.repeat_interleave(BLOCK)[:, None]
    seen = torch.cat([clean, own[:, None] == own], 1)
    dense = F.scaled_dot_product_attention(q.transpose(0, 1), keys, values, attn_mask=seen, enable_gqa=True)
    dense.transpose(0, 1).backward(seed)
    assert torch.allclose(found, dense.transpose(0, 1), atol=1e-5)
    for gradient, value in zip(gradients, (q, k, v), strict=True):
        assert torch.allclose(gradient, value.grad, atol=1e-5)
