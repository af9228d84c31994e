"""Gated linears in bf16, for processors that multiply it fast (AMX's tiles, AMD's AVX512_BF16).

There bf16 products run two to seven times as fast as fp32 ones and need no rounding of their inputs first, as int8 ones
do; what is left is passes over memory. So an adapter's second factors stand as further columns behind the frozen
weight, where their products cost no addition. Sums inside a product are fp32; what is trained and its gradients are fp32.

Shape suffixes: N rows, I inputs, O outputs, R adapter rank of all parts of a fused linear together, W = I + R.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from training.frozen import Pair, places

BF16 = torch.bfloat16


@cache
def is_fast() -> bool:
    """Whether bf16 products of this processor are at least 1.3 times as fast as fp32's.

    Timed (some 50 ms), because to have the instruction says little: an Intel Xeon with AVX512_BF16 and without AMX takes
    1.8 times as long as for fp32. Not timed where there is none: it may take a hundred times as long.
    """
    capabilities = torch.cpu.get_capabilities()
    if not any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16")):
        return False
    x_NI, weight_OI = torch.ones(256, 1024), torch.ones(1024, 1024)
    pairs = [(x_NI, weight_OI), (x_NI.to(BF16), weight_OI.to(BF16))]
    least = [float("inf"), float("inf")]
    for _ in range(6):
        for kind, (x, weight) in enumerate(pairs):
            begun = time.perf_counter()
            F.linear(x, weight)
            least[kind] = min(least[kind], time.perf_counter() - begun)
    return least[0] > 1.3 * least[1]


class Frozen:
    """x @ weight.T + bias in bf16, no gradient."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None):
        self.width = len(weight_OI)
        self.weight, self.bias = weight_OI.to(BF16), None if bias_O is None else bias_O.to(BF16)

    def __call__(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI.to(BF16), self.weight, self.bias)


class GatedLinear:
    """As `frozen.GatedLinear`: a frozen (fused) linear with the low-rank products of its parts added to every row."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, pairs: Sequence[Pair], scale: float):
        self.width, self.inputs, self.scale, self.pairs = *weight_OI.shape, scale, pairs
        rank = sum(len(down) for down, _ in pairs)
        self.wide = F.pad(weight_OI.to(BF16), (0, rank))  # (O, I + R): the scaled second factors stand behind
        self.frozen = Frozen(self.wide[:, : self.inputs], bias_O)

    def __call__(self, x_NI: Tensor) -> Tensor:
        """(N, O) in bf16."""
        y_NO: Tensor = _Product.apply(x_NI, self, *(factor for pair in self.pairs for factor in pair))
        return y_NO


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_NI, linear, *factors):
        downs, ups, inputs = factors[::2], factors[1::2], linear.inputs
        for (rows, columns), up in zip(places(linear.pairs), ups, strict=True):
            linear.wide[rows, inputs:][:, columns] = up * linear.scale
        down_RI = torch.cat(downs).to(BF16)
        x_NW = torch.empty(len(x_NI), linear.wide.shape[1], dtype=BF16)
        x_NW[:, :inputs] = x_NI
        x_NW[:, inputs:] = x_NW[:, :inputs] @ down_RI.T
        ctx.linear, ctx.kind = linear, x_NI.dtype
        ctx.save_for_backward(x_NW, down_RI)
        return F.linear(x_NW, linear.wide, linear.frozen.bias)

    @staticmethod
    def backward(ctx, dy_NO):
        (x_NW, down_RI), linear = ctx.saved_tensors, ctx.linear
        inputs, dy_NO = linear.inputs, dy_NO.to(BF16)
        dx_NW = dy_NO @ linear.wide
        inner_NR = dx_NW[:, inputs:].contiguous()
        ddown_RI = (inner_NR.T @ x_NW[:, :inputs]).float()
        gradients = []
        for rows, columns in places(linear.pairs):
            gradients += [
                ddown_RI[columns],
                (dy_NO[:, rows].T @ x_NW[:, inputs:][:, columns]).float() * linear.scale,
            ]
        return torch.addmm(dx_NW[:, :inputs], inner_NR, down_RI).to(ctx.kind), None, *gradients
