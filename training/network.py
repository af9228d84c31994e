"""A checkpoint as a decoder to train: every weight, or low-rank pairs on a frozen base held in fp32, int8 or 4 bits.

The decoder is the engine's own (`model.decoder`); what differs is how its linears hold their numbers, whether its layers
are computed again in the backward pass, and that its layers are modules, by which weights are sharded (`parallel.py`).
Knows nothing of losses, data or schedules.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.decoder import FUSED, Config, Decoder, Layer, Linear, fused_bias, fused_weight
from model.quantise import Fp32Linear
from model.schema import DiffcoderError
from training.frozen import FrozenLinear, Pair
from training.gated import initial_pairs
from training.parallel import World
from training.recipe import Diffusion

T = TypeVar("T")


def import_bitsandbytes() -> ModuleType:
    """bitsandbytes, kept from the network. Where the processor multiplies bf16 and a package named `kernels` is there,
    its import downloads a kernel from a hub and runs it. Told that there is none, it computes with its own.

    Raises DiffcoderError: "missing_library".
    """
    # Without that package it would ask for it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]  # None: cannot be imported
    try:
        import bitsandbytes
    except ImportError:
        raise DiffcoderError(
            "missing_library", "A 4-bit base needs bitsandbytes: install diffcoder with its train extra."
        ) from None
    finally:
        if sys.modules["kernels"] is None:
            del sys.modules["kernels"]
    return bitsandbytes


class Nf4Linear:
    """x @ weight.T + bias with 4-bit weights (bitsandbytes' nf4, its scales quantised too), and a gradient for x."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None):
        bitsandbytes = import_bitsandbytes()
        self.width, self.bias, self._product = len(weight_OI), bias_O, bitsandbytes.matmul_4bit
        self.packed, self.state = bitsandbytes.functional.quantize_4bit(
            weight_OI.contiguous(), quant_type="nf4", compress_statistics=True
        )

    def __call__(self, x_NI: Tensor) -> Tensor:
        y_NO = self._product(x_NI, self.packed.t(), quant_state=self.state)
        return y_NO if self.bias is None else y_NO + self.bias


class LoraLinear:
    """A frozen (fused) linear, however it is held, with the low-rank products of its parts added to every row."""

    def __init__(self, frozen: Linear, pairs: Sequence[Pair], scale: float):
        self.frozen, self.pairs, self.scale, self.width = frozen, pairs, scale, frozen.width

    def __call__(self, x_NI: Tensor) -> Tensor:
        parts = [x_NI @ down.T @ (up.T * self.scale) for down, up in self.pairs]
        return self.frozen(x_NI) + (parts[0] if len(parts) == 1 else torch.cat(parts, -1))


class Trained(nn.Module):
    """x @ weight.T + bias, all of it trained."""

    bias: nn.Parameter | None

    def __init__(self, weight_OI: nn.Parameter, bias_O: nn.Parameter | None):
        super().__init__()
        self.width, self.weight = len(weight_OI), weight_OI
        self.register_parameter("bias", bias_O)

    def forward(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self.weight, self.bias)


class Block(nn.Module):
    """A `model.decoder.Layer` as a module: sharded weights are whole while it is called."""

    def __init__(self, recompute: bool, **fields: Linear | Tensor | None):
        super().__init__()
        self.recompute = recompute
        for name, value in fields.items():
            setattr(self, name, value)

    def forward(self, compute: Callable[..., Tensor], *arguments: Any) -> Tensor:
        if self.recompute:  # keep the layer's input alone, and compute the layer again in the backward pass
            return cast(Tensor, checkpoint(compute, *arguments, use_reentrant=False))
        return compute(*arguments)


class Network(Decoder, nn.Module):
    """The engine's decoder over blocks, on a device."""

    def __init__(
        self,
        c: Config,
        blocks: Sequence[Block],
        embedding: Tensor,
        norm: Tensor,
        head: Linear,
        device: torch.device,
    ):
        nn.Module.__init__(self)
        super().__init__(c, cast(Sequence[Layer], nn.ModuleList(blocks)), embedding, norm, head)
        self._cos, self._sin = self._cos.to(device), self._sin.to(device)

    def gathered(self, compute: Callable[..., T], *arguments: Any) -> T:
        """What `compute` gives: while it runs, and in its backward pass, sharded weights outside of blocks are whole."""
        return compute(*arguments)

    def _layer(self, index: int, *arguments: Any) -> Tensor:
        return cast(Block, self.layers[index])(super()._layer, index, *arguments)


def network(
    recipe: Diffusion, c: Config, read: Callable[[str], Tensor], world: World | None = None
) -> tuple[dict[str, nn.Parameter], Network]:
    """What is trained, by name, and the decoder that computes with it. `read` gives the base's weights."""
    world = world or World()
    # What is sharded is cut on the processor: whole, it may not fit the device.
    device = torch.device("cpu") if world.mesh is not None else world.device
    pairs = initial_pairs(c, recipe.rank, torch.Generator().manual_seed(recipe.seed)) if recipe.rank else {}
    pairs = {name: nn.Parameter(pair.detach().to(device)) for name, pair in pairs.items()}
    frozen: dict[str, Callable[..., Linear]] = {"fp32": Fp32Linear, "int8": FrozenLinear, "nf4": Nf4Linear}
    trained: list[str] = []

    def tensor(name: str) -> Tensor:
        return read(name).to(device)

    def weight(name: str, value: Tensor) -> Tensor:
        if recipe.rank:
            return value
        trained.append(name)
        return nn.Parameter(value)

    def linear(layer: int, fused: str) -> Linear:
        prefix, names = f"layers.{layer}.", FUSED[fused]
        held = weight(f"{prefix}{fused}.weight", fused_weight(tensor, layer, fused))
        bias = fused_bias(tensor, c, layer, fused)
        if bias is not None:
            bias = weight(f"{prefix}{fused}.bias", bias)
        if isinstance(held, nn.Parameter):
            return Trained(held, cast(nn.Parameter | None, bias))
        low_rank = [(pairs[f"{prefix}{n}.lora_A"], pairs[f"{prefix}{n}.lora_B"]) for n in names]
        return LoraLinear(frozen[recipe.form](held, bias), low_rank, recipe.scale)

    def norm(name: str) -> Tensor:
        return weight(name, tensor(name))

    def block(n: int) -> Block:
        made = Block(
            recipe.recompute,
            attn_norm=norm(f"layers.{n}.attn_norm.weight"),
            qkv=linear(n, "qkv"),
            o=linear(n, "o"),
            mlp_norm=norm(f"layers.{n}.mlp_norm.weight"),
            gate_up=linear(n, "gate_up"),
            down=linear(n, "down"),
            q_norm=norm(f"layers.{n}.q_norm.weight") if c.qk_norm else None,
            k_norm=norm(f"layers.{n}.k_norm.weight") if c.qk_norm else None,
        )
        world.shard(made)
        return made

    embedding = weight("embed.weight", tensor("embed.weight"))
    blocks = [block(n) for n in range(c.layers)]
    head = embedding if c.tied else weight("head.weight", tensor("head.weight"))
    to_logits = Trained(head, None) if isinstance(head, nn.Parameter) else Fp32Linear(head)
    net = Network(c, blocks, embedding, norm("norm.weight"), to_logits, world.device)
    world.shard(net, "gathered")
    return pairs or {name: net.get_parameter(_attribute(name)) for name in trained}, net


def _attribute(name: str) -> str:
    """Where a network holds a trained weight: those of linears lie in modules of their own, others beside them."""
    place = name.removesuffix(".weight")
    return place.replace("embed", "embedding") if place.endswith(("norm", "embed")) else name
