"""Int8 products against float64 ones of the same weights: inputs of 7 and of 8 bits, one digit and two, each library."""

from __future__ import annotations

import pytest
import torch

from model import quantise
from model.quantise import Int8Linear, quantise_weight


@pytest.mark.parametrize("levels", sorted({63, quantise.INPUT_LEVELS}))
@pytest.mark.parametrize("digits", [1, 2])
def test_a_product_is_as_exact_as_its_inputs(
    monkeypatch: pytest.MonkeyPatch, levels: int, digits: int
) -> None:
    monkeypatch.setattr(quantise, "INPUT_LEVELS", levels)
    generator = torch.Generator().manual_seed(0)
    weight_OI, scale_O = quantise_weight(torch.randn(40, 300, generator=generator))
    x_NI = torch.randn(7, 300, generator=generator)
    x_NI[:, 5] *= 50  # an outlier channel
    linear = Int8Linear(weight_OI, scale_O, digits=digits)
    true_NO = x_NI.double() @ (weight_OI.double() * scale_O.double()[:, None]).T
    # Each input is off by half a step at most.
    step_N1 = x_NI.abs().amax(-1, keepdim=True).double() / (levels if digits == 1 else 2 * levels**2)
    off_NO = step_N1 / 2 * (weight_OI.double().abs() * scale_O.double()[:, None]).sum(1)
    error_NO = (linear(x_NI).double() - true_NO).abs()
    assert (error_NO <= off_NO + 1e-6 * true_NO.abs().max()).all()
    assert error_NO.max() > off_NO.max() / 1000  # and no more exact than it can be
    assert torch.equal(linear(x_NI[2:3])[0], linear(x_NI)[2])


def test_8_bits_are_taken_where_the_largest_products_come_out_whole() -> None:
    ones = torch.ones(3, 4864)
    for sign in (1, -1):
        weight = torch.full((32, 4864), sign * 127, dtype=torch.int8)
        product = Int8Linear(weight, torch.ones(32))(ones)
        assert product.allclose(torch.full((3, 32), sign * 127.0 * 4864), rtol=1e-6)


@pytest.mark.parametrize("levels", sorted({63, quantise.INPUT_LEVELS}))
@pytest.mark.parametrize("rows", [0, 1, 5, 33, 200])
def test_both_libraries_give_the_same_numbers_to_the_bit(levels: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight_OI, scale_O = quantise_weight(torch.randn(321, 896, generator=generator))
    x_NI = torch.randn(896, rows, generator=generator).T  # not contiguous
    x_NI = x_NI / x_NI.abs().amax().clamp_min(1) if rows else x_NI
    expected_NO = quantise.Fbgemm(weight_OI, scale_O, levels)(x_NI)
    assert torch.equal(quantise.OneDnn(weight_OI, scale_O, levels)(x_NI), expected_NO)
