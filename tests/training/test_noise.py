"""Noise statistics against their closed forms."""

import numpy as np
import pytest

from training.noise import clipped_rates, mask_blocks, rate_ceiling


@pytest.mark.parametrize("block", [1, 2, 4, 16])
@pytest.mark.parametrize("ceiling", [0.3, 1.0])
def test_masked_share_is_the_closed_form_and_no_block_is_empty(block, ceiling):
    rng = np.random.default_rng(block)
    blocks = 200_000
    rates = clipped_rates(rng, blocks, block, ceiling)
    masked = mask_blocks(rng, rates, block)
    assert masked.any(1).all()
    # E[u] + P(none masked) / B, with u = 1/B below 1/B and uniform above.
    low = min(1 / block, ceiling)
    u = np.concatenate([[1 / block], np.linspace(1 / block, max(ceiling, 1 / block), 20_001)])
    mean = lambda f: (f(u[:1]).item() * low + np.trapezoid(f(u[1:]), u[1:])) / ceiling  # noqa: E731
    expected = mean(lambda u: u) + mean(lambda u: (1 - u) ** block) / block
    assert masked.mean() == pytest.approx(expected, abs=0.002)
    assert rates.min() == pytest.approx(min(1.0, 1 / block))


@pytest.mark.parametrize("block", [1, 2, 4, 16])
def test_weights_of_the_loss_are_the_closed_form(block):
    """The mean over places of masked / u: above 1, which plain noise gives, as a block without masks gets one."""
    rng = np.random.default_rng(block)
    rates = clipped_rates(rng, 200_000, block)
    masked = mask_blocks(rng, rates, block)
    # E[1 + P(none masked) / (B u)], with u = 1/B a B-th of the time and uniform above.
    extra = lambda u: (1 - u) ** block / (block * u)  # noqa: E731
    u = np.linspace(1 / block, 1, 20_001)
    expected = 1 + extra(1 / block) / block + np.trapezoid(extra(u), u)
    assert (masked / rates[:, None]).mean() == pytest.approx(expected, abs=0.004)


def test_warmup_rises_linearly_to_one():
    assert rate_ceiling(0, 100, 0.1) == pytest.approx(0.1)
    assert rate_ceiling(50, 100, 0.1) == pytest.approx(0.55)
    assert rate_ceiling(100, 100, 0.1) == 1.0
    assert rate_ceiling(7, 0, 0.1) == 1.0


def test_small_blocks_without_clipping_would_often_teach_nothing():
    rng = np.random.default_rng(0)
    plain = rng.random((100_000, 4)) < rng.random((100_000, 1))
    assert (~plain.any(1)).mean() == pytest.approx(0.2, abs=0.01)
