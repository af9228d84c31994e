"""Masks of `[noisy | clean]` against their definition in words, and dense against flex attention."""

import pytest
import torch

from training.attention import FlexAttention, MaskedAttention, dense, next_token, noisy_and_clean, sparse

DOCUMENTS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2])


@pytest.mark.parametrize("block", [1, 4, 5])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_mask_equals_its_definition(block, causal, documents):
    length = len(DOCUMENTS)
    mask = dense(noisy_and_clean(length, block, causal=causal, documents_L=documents), 2 * length)
    for row in range(2 * length):
        for column in range(2 * length):
            i, j = row % length, column % length
            same_document = documents is None or documents[i] == documents[j]
            if row < length and column < length:
                seen = i // block == j // block
            elif row < length:
                seen = j // block < i // block
            elif column < length:
                seen = False
            else:
                seen = j <= i if causal else j // block <= i // block
            assert bool(mask[row, column]) == bool(seen and same_document), (row, column)


def test_every_row_sees_something():
    assert dense(noisy_and_clean(14, 4, causal=True, documents_L=DOCUMENTS), 28).any(1).all()


@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_next_token_mask_is_the_clean_part_of_a_causal_one(documents):
    whole = dense(noisy_and_clean(14, 2, causal=True, documents_L=documents), 28)
    assert torch.equal(dense(next_token(documents_L=documents), 14), whole[14:, 14:])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [True, False])
def test_flex_and_dense_attention_give_the_same_numbers(causal, kind):
    """With fewer key heads than query heads; values of another kind than queries, as autocast leaves them. Flex attention
    has no backward pass on the processor."""
    length = 128
    rule = noisy_and_clean(length, 4, causal=causal, documents_L=(torch.arange(length) > 70).long())
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2 * length, heads, 16, generator=generator) for heads in (4, 2, 2))
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        expected = MaskedAttention(dense(rule, 2 * length)).attend(0, q, k, v.to(kind))
        found = FlexAttention(sparse(rule, 2 * length)).attend(0, q, k, v.to(kind))
    assert found.dtype == expected.dtype == kind
    assert torch.allclose(found, expected, atol=1e-5 if kind == torch.float32 else 0.02)
