"""Adapter files: low-rank weights that turn a frozen base into a block-diffusion model.

A file is safetensors: `layers.N.<linear>.lora_A` (R, in) and `.lora_B` (out, R) for q, k, v, o, gate, up and down,
`mask_embedding` (D), `draft_vocab` (S): the token ids its drafting head scores, and optionally `chain.hidden_A`,
`chain.token_A` (C, D) and `chain.B` (D, C). Metadata: `kind` = "gated", `rank`,
`scale` (the low-rank product is multiplied by it), `base_sha256`. A team's file has `kind` = "team" and low-rank weights
for all rows. What training made of the base's drafting adapter may lie beside them: names that begin with `drafting.`,
every `lora_B` with its scale in it, the mask embedding and the chain; `drafting_sha256` says of which file. Knows nothing
of sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints import read_tensor
from model.decoder import Config, Pairs, linear_shapes
from model.headers import SafetensorsHeader
from model.schema import DiffcoderError

DRAFTING = "drafting."
CHAIN = ("hidden_A", "token_A", "B")
"""The names of a chain's weights, in the order of `decoder.Chain`."""


@dataclass(frozen=True)
class AdapterFile:
    """A gated adapter's weights and the vocabulary (S,) it drafts from; `decoder.Adapter` says what they do."""

    pairs: Pairs
    mask_embedding: Tensor
    chain: tuple[Tensor, Tensor, Tensor] | None
    """The weights of a `decoder.Chain`."""
    draft_vocab_S: Tensor


def read_adapter(path: Path, config: Config, base_sha256: str) -> AdapterFile:
    """Read and check a gated adapter for that base. Raises DiffcoderError("bad_adapter" or "corrupt_model")."""
    pairs, tensor, header = _read(path, "gated", config, base_sha256)
    d = config.width
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
    chain = None
    if (inner := header.regions.get("chain.B")) is not None:
        c = inner.shape[-1] if inner.shape else 0
        chain = tensor("chain.hidden_A", (c, d)), tensor("chain.token_A", (c, d)), tensor("chain.B", (d, c))
    mask_embedding = tensor("mask_embedding", (d,))
    weights = [weight for layer in pairs for pair in layer.values() for weight in pair]
    _finite(path, [*weights, mask_embedding, *(chain or ())])
    return AdapterFile(pairs, mask_embedding, chain, vocab)


@dataclass(frozen=True)
class TeamFile:
    """A team's weights, for all rows; and what `drafting_sha256`'s adapter became, by the names of `seconds`."""

    pairs: Pairs
    drafting: Mapping[str, Tensor]
    drafting_sha256: str | None


def read_team_adapter(path: Path, config: Config, base_sha256: str) -> TeamFile:
    """Read and check a team's adapter for that base. Raises as `read_adapter` does."""
    pairs, _, header = _read(path, "team", config, base_sha256)
    drafting = {
        name: read_tensor(header, name).float() for name in header.regions if name.startswith(DRAFTING)
    }
    _finite(
        path, [*(weight for layer in pairs for pair in layer.values() for weight in pair), *drafting.values()]
    )
    return TeamFile(pairs, drafting, header.metadata.get("drafting_sha256"))


def seconds(adapter: AdapterFile) -> dict[str, Tensor]:
    """What a team's file may bring anew of a gated adapter, by its names there: not the first factors, which the base's
    linears hold, nor the vocabulary."""
    found = {"mask_embedding": adapter.mask_embedding}
    for n, layer in enumerate(adapter.pairs):
        found |= {f"layers.{n}.{name}.lora_B": up for name, (_, up) in layer.items()}
    if adapter.chain:
        found |= {f"chain.{name}": weight for name, weight in zip(CHAIN, adapter.chain, strict=True)}
    return {DRAFTING + name: value for name, value in found.items()}


def with_seconds(adapter: AdapterFile, anew: Mapping[str, Tensor]) -> AdapterFile:
    """The adapter with these in place of its own. Raises DiffcoderError("bad_adapter") where shapes are others."""
    old = {name: value.shape for name, value in seconds(adapter).items()}
    if old != {name: value.shape for name, value in anew.items()}:
        raise DiffcoderError(
            "bad_adapter", "The team's adapter drafts in another form than the base's: tune again."
        )
    get = {name.removeprefix(DRAFTING): value for name, value in anew.items()}
    pairs = [
        {name: (down, get[f"layers.{n}.{name}.lora_B"]) for name, (down, _) in layer.items()}
        for n, layer in enumerate(adapter.pairs)
    ]
    chain = (get["chain.hidden_A"], get["chain.token_A"], get["chain.B"]) if adapter.chain else None
    return AdapterFile(pairs, get["mask_embedding"], chain, adapter.draft_vocab_S)


def _read(
    path: Path, kind: str, config: Config, base_sha256: str
) -> tuple[list[dict[str, tuple[Tensor, Tensor]]], Callable[..., Tensor], SafetensorsHeader]:
    """The low-rank pairs of an adapter file of that kind, what reads a further tensor of a given shape, the header."""
    header = SafetensorsHeader(path)
    facts = header.metadata
    if facts.get("kind") != kind:
        command = "diffcoder tune" if kind == "team" else "diffcoder train"
        raise DiffcoderError(
            "bad_adapter", f"{path} is not a {kind} adapter: name a file that `{command}` wrote."
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
        for name, (out, width) in linear_shapes(config).items():
            prefix = f"layers.{n}.{name}.lora_"
            layer[name] = (tensor(prefix + "A", (rank, width)), tensor(prefix + "B", (out, rank)) * scale)
        pairs.append(layer)
    return pairs, tensor, header


def _finite(path: Path, weights: Sequence[Tensor]) -> None:
    if not all(weight.isfinite().all() for weight in weights):
        raise DiffcoderError("bad_adapter", f"{path} holds a weight that is not a number: train it again.")
