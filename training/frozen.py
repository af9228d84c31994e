"""Linears of a frozen base, in int8 in both directions, and low-rank products on top of them.

Forward they are the engine's own products (`model.quantise`); backward the gradient rows go through the transposed int8
weight, each row scaled on its own like any input. On two AVX2 cores this is twice as fast as fp32, and an adapter learns
against the very numbers it will run on.

Shape suffixes: N rows, I inputs, O outputs, R ranks of all parts of a fused linear together, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.decoder import Linear
from model.quantise import Fp32Linear, Int8Linear, quantise_weight

Pair = tuple[nn.Parameter, nn.Parameter]


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
        transposed: Linear | None = None,
    ):
        self.product = Int8Linear(*quantise_weight(weight_OI), bias_O, digits, many_rows=True)
        self.transposed = transposed or Int8Linear(*quantise_weight(weight_OI.T.contiguous()), many_rows=True)
        self.width = len(weight_OI)

    @classmethod
    def head(cls, weight_VD: Tensor) -> FrozenLinear:
        """An output head, whose gradient comes through the weight as it is, in fp32: a row of it is one large entry and
        very many small ones, which together weigh as much and which 8 bits round to nothing. Rounding so wide a row in
        two pieces takes longer than this product."""
        return cls(weight_VD, transposed=Fp32Linear(weight_VD.T))

    def __call__(self, x_NI: Tensor) -> Tensor:
        return _Product.apply(x_NI, self.product, self.transposed)


class GatedLinear:
    """A frozen (fused) linear with the low-rank products of its parts added to every row."""

    def __init__(self, frozen: FrozenLinear, pairs: Sequence[Pair], scale: float):
        self.frozen, self.pairs, self.scale, self.width = frozen, pairs, scale, frozen.width

    def __call__(self, x_NI: Tensor) -> Tensor:
        y_NO: Tensor = _Gated.apply(x_NI, self, *(factor for pair in self.pairs for factor in pair))
        return y_NO


class _Gated(torch.autograd.Function):
    """What autograd would make of it, with fewer passes over memory: parts are added where they stand."""

    @staticmethod
    def forward(ctx, x_NI, linear, *factors):
        down_RI, ups = torch.cat(factors[::2]), factors[1::2]
        inner_NR, y_NO = x_NI @ down_RI.T, linear.frozen.product(x_NI)
        for (rows, columns), up in zip(places(linear.pairs), ups, strict=True):
            y_NO[:, rows].addmm_(inner_NR[:, columns], up.T, alpha=linear.scale)
        ctx.linear = linear
        ctx.save_for_backward(x_NI, inner_NR, down_RI, *ups)
        return y_NO

    @staticmethod
    def backward(ctx, dy_NO):
        (x_NI, inner_NR, down_RI, *ups), linear = ctx.saved_tensors, ctx.linear
        parts = places(linear.pairs)
        dinner_NR = torch.cat([dy_NO[:, rows] @ up for (rows, _), up in zip(parts, ups, strict=True)], 1)
        dinner_NR *= linear.scale
        ddown_RI = dinner_NR.T @ x_NI
        gradients = []
        for rows, columns in parts:
            gradients += [ddown_RI[columns], (dy_NO[:, rows].T @ inner_NR[:, columns]).mul_(linear.scale)]
        dx_NI = None
        if ctx.needs_input_grad[0]:
            dx_NI = linear.frozen.transposed(dy_NO).addmm_(dinner_NR, down_RI)
        return dx_NI, None, *gradients


def places(pairs: Sequence[Pair]) -> list[tuple[slice, slice]]:
    """Of each pair of a fused linear: its rows of the weight, and its columns among the ranks of all."""
    found, row, column = [], 0, 0
    for down, up in pairs:
        found.append((slice(row, row + len(up)), slice(column, column + len(down))))
        row, column = row + len(up), column + len(down)
    return found
