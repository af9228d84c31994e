"""Linears of a frozen base, in int8 in both directions, and low-rank products on top of them.

Forward they are the engine's own products (`model.quantise`); backward the gradient rows go through the transposed int8
weight, each row scaled on its own like any input. On two AVX2 cores this is twice as fast as fp32, and an adapter learns
against the very numbers it will run on.

Shape suffixes: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.decoder import Linear
from model.quantise import Int8Linear, quantise_weight

HEAD_DIGITS = 2
"""Of an output head's gradient: a row of it is one large entry and very many small ones, which together weigh as much and
which 8 bits would round to nothing."""


class _Product(torch.autograd.Function):
    """y = forward(x), dx = backward(dy): a linear map whose weights are not trained."""

    @staticmethod
    def forward(ctx, x, forward_linear, backward_linear):
        ctx.backward_linear = backward_linear
        return forward_linear(x)

    @staticmethod
    def backward(ctx, dy):
        return ctx.backward_linear(dy), None, None


class FrozenLinear:
    """x @ weight.T + bias in int8, with a gradient for x alone: through `transposed`, else in int8 as well."""

    def __init__(
        self,
        weight_OI: Tensor,
        bias_O: Tensor | None = None,
        digits: int = 1,
        gradient_digits: int = 1,
        transposed: Linear | None = None,
    ):
        self.product = Int8Linear(*quantise_weight(weight_OI), bias_O, digits, many_rows=True)
        self.transposed = transposed or Int8Linear(
            *quantise_weight(weight_OI.T.contiguous()), digits=gradient_digits, many_rows=True
        )
        self.width = len(weight_OI)

    def __call__(self, x_NI: Tensor) -> Tensor:
        return _Product.apply(x_NI, self.product, self.transposed)


class GatedLinear:
    """A frozen (fused) linear with the low-rank products of its parts added to every row."""

    def __init__(self, frozen: Linear, pairs: list[tuple[nn.Parameter, nn.Parameter]], scale: float):
        self.frozen, self.pairs, self.scale, self.width = frozen, pairs, scale, frozen.width

    def __call__(self, x_NI: Tensor) -> Tensor:
        parts = [x_NI @ down.T @ (up.T * self.scale) for down, up in self.pairs]
        return self.frozen(x_NI) + (parts[0] if len(parts) == 1 else torch.cat(parts, -1))
