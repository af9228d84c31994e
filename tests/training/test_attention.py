"""Masks of `[noisy | clean]` against their definition in words, and dense against flex attention."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import flex_attention

from training.attention import dense, noisy_and_clean, sparse

DOCUMENTS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2])


@pytest.mark.parametrize("block", [1, 4, 5])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("documents", [None, DOCUMENTS])
def test_mask_equals_its_definition(block, causal, documents):
    length = len(DOCUMENTS)
    mask = dense(noisy_and_clean(length, block, causal=causal, documents_L=documents), length)
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
    assert dense(noisy_and_clean(14, 4, causal=True, documents_L=DOCUMENTS), 14).any(1).all()


@pytest.mark.parametrize("causal", [True, False])
def test_flex_and_dense_attention_give_the_same_numbers(causal):
    length = 128
    rule = noisy_and_clean(length, 4, causal=causal, documents_L=(torch.arange(length) > 70).long())
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 2 * length, 16, generator=generator) for _ in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=dense(rule, length))
    found = flex_attention(q, k, v, block_mask=sparse(rule, length, "cpu"))
    assert torch.allclose(found, expected, atol=1e-5)
