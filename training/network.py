"""A checkpoint as a decoder to train: every weight, or low-rank pairs on a frozen base held in fp32, int8 or 4 bits.

The decoder is the engine's own (`model.decoder`); only how its linears hold their numbers differs, and whether its layers
are computed again in the backward pass. Knows nothing of losses, data or schedules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.decoder import FUSED, Config, Decoder, Layer, Linear, fused_bias, fused_weight
from model.quantise import Fp32Linear
from model.schema import DiffcoderError
from training.gated import FrozenLinear, GatedLinear, initial_pairs
from training.recipe import Diffusion


class Nf4Linear:
    """x @ weight.T + bias with 4-bit weights (bitsandbytes' nf4, its scales quantised too), and a gradient for x."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None):
        try:
            import bitsandbytes
        except ImportError:
            raise DiffcoderError(
                "missing_library", "A 4-bit base needs bitsandbytes: install diffcoder with its train extra."
            ) from None
        self.width, self.bias, self._product = len(weight_OI), bias_O, bitsandbytes.matmul_4bit
        self.packed, self.state = bitsandbytes.functional.quantize_4bit(
            weight_OI.contiguous(), quant_type="nf4", compress_statistics=True
        )

    def __call__(self, x_NI: Tensor) -> Tensor:
        y_NO = self._product(x_NI, self.packed.t(), quant_state=self.state)
        return y_NO if self.bias is None else y_NO + self.bias


class Recomputing(Decoder):
    """Keeps each layer's input alone for the backward pass, and computes the layer again there."""

    def _layer(self, *arguments: Any) -> Tensor:
        return cast(Tensor, checkpoint(super()._layer, *arguments, use_reentrant=False))


def network(
    recipe: Diffusion, c: Config, tensor: Callable[[str], Tensor]
) -> tuple[dict[str, nn.Parameter], Decoder]:
    """What is trained, by name, and the decoder that computes with it. `tensor` reads the base's weights."""
    pairs = initial_pairs(c, recipe.rank, torch.Generator().manual_seed(recipe.seed)) if recipe.rank else {}
    parameters: dict[str, nn.Parameter] = dict(pairs)
    frozen: dict[str, Callable[..., Linear]] = {"fp32": Fp32Linear, "int8": FrozenLinear, "nf4": Nf4Linear}

    def weight(name: str, value: Tensor) -> Tensor:
        if recipe.rank:
            return value
        parameters[name] = nn.Parameter(value)
        return parameters[name]

    def linear(layer: int, fused: str) -> Linear:
        prefix, names = f"layers.{layer}.", FUSED[fused]
        held = weight(f"{prefix}{fused}.weight", fused_weight(tensor, layer, fused))
        bias = fused_bias(tensor, c, layer, fused)
        if bias is not None:
            bias = weight(f"{prefix}{fused}.bias", bias)
        if not recipe.rank:
            return Fp32Linear(held, bias)
        low_rank = [(pairs[f"{prefix}{n}.lora_A"], pairs[f"{prefix}{n}.lora_B"]) for n in names]
        return GatedLinear(frozen[recipe.form](held, bias), low_rank, recipe.scale)

    def norm(name: str) -> Tensor:
        return weight(name, tensor(name))

    embedding = weight("embed.weight", tensor("embed.weight"))
    layers = [
        Layer(
            attn_norm=norm(f"layers.{n}.attn_norm.weight"),
            qkv=linear(n, "qkv"),
            o=linear(n, "o"),
            mlp_norm=norm(f"layers.{n}.mlp_norm.weight"),
            gate_up=linear(n, "gate_up"),
            down=linear(n, "down"),
            q_norm=norm(f"layers.{n}.q_norm.weight") if c.qk_norm else None,
            k_norm=norm(f"layers.{n}.k_norm.weight") if c.qk_norm else None,
        )
        for n in range(c.layers)
    ]
    head = embedding if c.tied else weight("head.weight", tensor("head.weight"))
    kind = Recomputing if recipe.recompute else Decoder
    return parameters, kind(c, layers, embedding, norm("norm.weight"), Fp32Linear(head))
