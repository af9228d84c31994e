"""Adapter files: low-rank weights that turn a frozen base into a block-diffusion model.

A file is safetensors: `layers.N.<linear>.lora_A` (R, in) and `.lora_B` (out, R) for q, k, v, o, gate, up and down,
`mask_embedding` (D), and `draft_vocab` (S): the token ids its drafting head scores. Metadata: `kind` = "gated", `rank`,
`scale` (the low-rank product is multiplied by it), `base_sha256`. Knows nothing of sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints import read_tensor
from model.decoder import Adapter, Config
from model.headers import SafetensorsHeader
from model.schema import DiffcoderError

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class AdapterFile:
    """A gated adapter and the vocabulary (S,) it drafts from."""

    adapter: Adapter
    draft_vocab_S: Tensor


def read_adapter(path: Path, config: Config, base_sha256: str) -> AdapterFile:
    """Read and check a gated adapter for that base. Raises DiffcoderError("bad_adapter" or "corrupt_model")."""
    header = SafetensorsHeader(path)
    facts = header.metadata
    if facts.get("kind") != "gated":
        raise DiffcoderError(
            "bad_adapter", f"{path} is not a gated adapter: name a file that `diffcoder train` wrote."
        )
    if facts.get("base_sha256") != base_sha256:
        raise DiffcoderError(
            "bad_adapter", f"{path} was trained for another base model: use it with that model."
        )
    try:
        rank, scale = int(facts["rank"]), float(facts["scale"])
    except (KeyError, ValueError):
        raise DiffcoderError(
            "bad_adapter", f"{path} does not say its rank and scale: train it again."
        ) from None
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    d, m = config.width, config.mlp_width
    sizes = {
        "q": (q, d),
        "k": (kv, d),
        "v": (kv, d),
        "o": (d, q),
        "gate": (m, d),
        "up": (m, d),
        "down": (d, m),
    }

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        region = header.regions.get(name)
        if region is None or tuple(region.shape) != shape or region.kind not in ("F32", "F16", "BF16"):
            raise DiffcoderError(
                "bad_adapter",
                f"{path} does not fit this base model ({name} should be {shape}): use it with its own.",
            )
        return read_tensor(header, name).float()

    pairs = []
    for n in range(config.layers):
        layer = {}
        for name in LINEARS:
            out, width = sizes[name]
            prefix = f"layers.{n}.{name}.lora_"
            layer[name] = (tensor(prefix + "A", (rank, width)), tensor(prefix + "B", (out, rank)) * scale)
        pairs.append(layer)
    vocab = (
        read_tensor(header, "draft_vocab").long()
        if "draft_vocab" in header.regions
        else torch.arange(config.vocab)
    )
    if vocab.ndim != 1 or not len(vocab) or vocab.min() < 0 or vocab.max() >= config.vocab:
        raise DiffcoderError(
            "bad_adapter",
            f"{path} drafts from a vocabulary that this base model does not have: use it with its own.",
        )
    adapter = Adapter(pairs, tensor("mask_embedding", (d,)))
    weights = [weight for layer in pairs for pair in layer.values() for weight in pair]
    if not all(weight.isfinite().all() for weight in (*weights, adapter.mask_embedding)):
        raise DiffcoderError("bad_adapter", f"{path} holds a weight that is not a number: train it again.")
    return AdapterFile(adapter, vocab)
