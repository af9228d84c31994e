"""How a linear layer holds its numbers: fp32 as they are, or int8 with one scale for each output channel.

Int8 products quantise each *row* of the input on its own (symmetric, scale = largest magnitude of the row), so a row's
result depends on that row alone; integer sums are exact. Inputs take 8 bits, and 7 on CPUs without VNNI: there FBGEMM
adds byte products in pairs in 16 bits, which 8-bit inputs would overflow. So results are the same on all machines of
either kind. CPUs with AMX take oneDNN's products, which use its tiles, in place of FBGEMM's, which do not: the same
numbers to the bit, and from some eight rows on up to four times as fast; with VNNI alone it is so for the output head,
and a little from some hundred rows on.
This file alone touches torch's quantised operators, which are deprecated in favour of torchao (whose dynamic int8
linears need a compiler at run time).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_CAN = torch.cpu.get_capabilities()

Product = Callable[[Tensor], Tensor]
"""x_NI in [-1, 1] to x @ weight.T, with x rounded to `levels` on either side of 0."""

warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_channel and other")


def quantise_weight(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 weight, float32 scale of each output channel); weight = int8 * scale."""
    scale_O = weight_OI.abs().amax(1).div(127).clamp_min(1e-12)
    return (weight_OI / scale_O[:, None]).round().clamp_(-127, 127).to(torch.int8), scale_O.float()


class Fp32Linear:
    """x @ weight.T + bias, and x @ further.T in the columns behind (an adapter's first factor, see decoder.Adapter)."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, further_RI: Tensor | None = None):
        self.width = len(weight_OI)
        self.weight, self.bias = weight_OI, bias_O
        if further_RI is not None:
            self.weight = torch.cat([weight_OI, further_RI])
            self.bias = _padded(bias_O, len(further_RI))

    def __call__(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self.weight, self.bias)


class Int8Linear:
    """x @ weight.T + bias with int8 weights and inputs of 7 or 8 bits a row; float32 in and out, no gradient.

    `further` rows are quantised and packed behind the weight's, so that their products, which stand in the columns
    behind, cost no pass of their own.

    `digits` = 2 sends what the first rounding left over through the same weights once more (13 or 15 bits in all):
    twice the rows, no further weights read.

    `many_rows` says that inputs will have hundreds of rows, as in training, where another kernel is quicker.
    """

    def __init__(
        self,
        weight_OI: Tensor,
        scale_O: Tensor,
        bias_O: Tensor | None = None,
        digits: int = 1,
        further_RI: Tensor | None = None,
        many_rows: bool = False,
    ):
        self.width = len(weight_OI)
        if further_RI is not None:
            rows_RI, scale_R = quantise_weight(further_RI)
            weight_OI, scale_O = torch.cat([weight_OI, rows_RI]), torch.cat([scale_O, scale_R])
            bias_O = _padded(bias_O, len(further_RI))
        self._product: Product = pack(weight_OI, scale_O, INPUT_LEVELS, many_rows)
        self.bias, self.digits = bias_O, digits

    @classmethod
    def of(cls, weight_OI: Tensor) -> Int8Linear:
        """A float weight, quantised."""
        return cls(*quantise_weight(weight_OI))

    def __call__(self, x_NI: Tensor) -> Tensor:
        size_N1 = x_NI.abs().amax(-1, keepdim=True).clamp_min_(1e-30)  # vector_norm(inf) is 10 times slower
        x_NI = x_NI / size_N1
        if self.digits == 1:
            y_NO = self._product(x_NI)
        else:
            rest_NI = (x_NI - (x_NI * INPUT_LEVELS).round_() / INPUT_LEVELS) * (2 * INPUT_LEVELS)
            y_NO, rest_NO = self._product(torch.cat([x_NI, rest_NI])).chunk(2)
            y_NO = y_NO + rest_NO / (2 * INPUT_LEVELS)
        y_NO *= size_N1
        return y_NO if self.bias is None else y_NO.add_(self.bias)


def _padded(bias_O: Tensor | None, rows: int) -> Tensor | None:
    return None if bias_O is None else F.pad(bias_O, (0, rows))


class Fbgemm:
    """FBGEMM's arrangement of an int8 weight. Lets other Python threads run while it is made."""

    ROWS = 80_000
    """Of a weight packed in one piece: a whole output head takes twice as long as halves."""

    def __init__(self, weight_OI: Tensor, scale_O: Tensor, levels: int):
        self._levels, self._parts = levels, list[torch.ScriptObject]()
        for weight, scale in zip(weight_OI.split(self.ROWS), scale_O.split(self.ROWS), strict=True):
            zeros = torch.zeros(len(scale), dtype=torch.long)
            quantised = torch._make_per_channel_quantized_tensor(weight, scale.double(), zeros, 0)
            self._parts.append(torch.ops.quantized.linear_prepack(quantised, None))

    def __call__(self, x_NI: Tensor) -> Tensor:
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        parts = [product(x_NI, 1 / self._levels, self._levels + 1, part) for part in self._parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


class OneDnn:
    """oneDNN's arrangement of an int8 weight."""

    def __init__(self, weight_OI: Tensor, scale_O: Tensor, levels: int):
        self._levels = levels
        self._weight = torch.ops.onednn.qlinear_prepack(weight_OI, None)
        # The input's scale is in the weight's: of two factors one kernel takes them in this order, the next in that,
        # and a row's last bit would depend on how many rows there are.
        self._scale_O, self._zeros_O = scale_O * (1 / levels), torch.zeros(len(scale_O), dtype=torch.int)

    def __call__(self, x_NI: Tensor) -> Tensor:
        zero = self._levels + 1
        quantised = torch.quantize_per_tensor(x_NI.contiguous(), 1 / self._levels, zero, torch.quint8)
        # The bytes themselves: `int_repr` copies them on one thread, slower than the product.
        bytes_NI = torch.empty(0, dtype=torch.uint8).set_(
            quantised.untyped_storage(), 0, quantised.shape, quantised.stride()
        )
        return torch.ops.onednn.qlinear_pointwise(
            bytes_NI, 1.0, zero, self._weight, self._scale_O, self._zeros_O,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip


def pack(weight_OI: Tensor, scale_O: Tensor, levels: int, many_rows: bool = False) -> Product:
    """The arrangement that measured quicker here (docs/experiments.md)."""
    head = len(weight_OI) > Fbgemm.ROWS
    onednn = _CAN.get("amx_int8") or (_CAN.get("avx512_vnni") and (head or many_rows))
    return (OneDnn if onednn else Fbgemm)(weight_OI, scale_O, levels)


def _holds_8_bits() -> bool:
    """Whether the largest products of 8-bit inputs come out whole on this CPU."""
    product = pack(torch.full((32, 64), 127, dtype=torch.int8), torch.ones(32), 127)
    return bool((product(torch.ones(1, 64)) == 127 * 64).all())


INPUT_LEVELS = 127 if _holds_8_bits() else 63
