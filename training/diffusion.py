"""Block diffusion of an autoregressive base over packed documents, and the AR twin to compare with.

Every weight is trained, or low-rank pairs on the linears of a frozen base, which may be held in fewer bits.

Noise, clipping and the 1/u weight as in Stable-DiffCoder (arXiv 2601.15892): with plain noise the mean over a sequence's
tokens of CE / u at masked places estimates the bound on the negative log-likelihood. While the ceiling of the masking
rate rises (warm-up), masked places weigh the same. No shift: a masked place is asked for its own token.

Shape suffixes: L tokens of a sequence, M = 2L rows (`attention.py`), D width, H query heads, K key/value heads, E head
width, P rows that are asked for something.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from model.checkpoints import open_checkpoint
from model.decoder import FUSED, Attention, Config, linear_shapes
from model.schema import DiffcoderError
from training import layouts
from training.attention import attention, next_token, noisy_and_clean
from training.corpus import Corpus
from training.examples import Examples
from training.files import write_atomically
from training.gated import checkpoint_sha256
from training.layouts import as_ids
from training.models import write_model
from training.network import network
from training.noise import clipped_rates, mask_blocks, rate_ceiling
from training.packing import Pack, Packing, WholePacking
from training.parallel import World
from training.recipe import Diffusion
from training.team import merged, team_bytes
from training.trainer import Loss, averages

HELD_OUT_PACKS, _MOST_PACKS = 4, 4096
_LOSS_ROWS = 1024  # of one chunk of the output head: memory stays flat however large the vocabulary is


class DiffusionTask:
    """`Task` of a diffusion recipe. Exports a model of its own, or an adapter where the base is frozen."""

    def __init__(
        self,
        recipe: Diffusion,
        base: Path,
        corpus: Corpus,
        examples: Examples | None = None,
        world: World | None = None,
        marks: layouts.Marks | None = None,
    ):
        mask, end = recipe.mask_token, recipe.end_token
        if mask is None or end is None:
            raise DiffcoderError(
                "bad_recipe",
                "This base has no mask or end token of its own: name mask_token and end_token in the recipe.",
            )
        if recipe.data == "examples" and examples is None:
            raise DiffcoderError(
                "no_examples",
                "The recipe learns examples: make some with `diffcoder train commits` and name their folder with"
                " --examples.",
            )
        if recipe.context % recipe.block:
            raise DiffcoderError(
                "bad_recipe",
                f"context {recipe.context} is not a multiple of block {recipe.block}: change one.",
            )
        world = world or World()
        if recipe.rank and world.mesh is not None:
            raise DiffcoderError(
                "bad_launch",
                "Low-rank weights are too small to shard: launch this recipe without FSDP's configuration file.",
            )
        source = open_checkpoint(base)
        if max(mask, end) >= source.config.vocab:
            raise DiffcoderError(
                "bad_recipe",
                f"mask_token {mask} or end_token {end} is none of the base's {source.config.vocab} tokens.",
            )
        self.mask, self.end = mask, end
        self.recipe, self.config, self.base = recipe, source.config, base
        self.device = world.device
        self.parameters, self.decoder = network(recipe, source.config, source.tensor, world)
        self.base_sha256 = checkpoint_sha256(base)
        if recipe.data == "examples" and examples is not None:
            self.train_packs: Packing | WholePacking
            self.held_out_packs: Packing | WholePacking
            self.train_packs, self.held_out_packs = (
                _of_examples(recipe, examples, side, end) for side in (0, 1)
            )
        else:
            self.train_packs = _packing(recipe, corpus, marks, end, held_out=False)
            self.held_out_packs = _packing(recipe, corpus, marks, end, held_out=True)

    def loss(self, rng: np.random.Generator, step: int, number: int) -> Loss:
        ceiling = rate_ceiling(step, self.recipe.noise_warmup, self.recipe.noise_initial)
        return self.pack_loss(self.train_packs[number], rng, ceiling)

    def pack_loss(self, pack: Pack, rng: np.random.Generator, ceiling: float) -> Loss:
        """The loss of one pack under noise drawn with `rng`; `weight` is the number of tokens it is a mean over."""
        kind, precision = self.device.type, self.recipe.precision
        bf16 = precision == "bf16" or (precision == "auto" and kind == "cuda")
        # Without autocast's cache, which would hold every weight in bf16 once more until the loss is there.
        with torch.autocast(kind, torch.bfloat16, enabled=bf16, cache_enabled=False):
            return self.decoder.gathered(self._pack_loss, pack, rng, ceiling)

    def _pack_loss(self, pack: Pack, rng: np.random.Generator, ceiling: float) -> Loss:
        # Rows are chosen on the processor, so that a GPU need not be waited for to know how many are asked.
        recipe, ids_L, learnt_L = self.recipe, as_ids(pack.ids_L), torch.from_numpy(pack.learnt_L)
        length, positions_L = len(ids_L), torch.arange(len(ids_L))
        documents_L = torch.from_numpy(pack.documents_L) if recipe.document_mask else None
        apart_L = None if documents_L is None else documents_L.to(self.device)
        if recipe.objective == "ar":
            sight = attention(next_token(documents_L=apart_L), length, self.device)
            hidden_LD = self._forward(ids_L, positions_L, sight)
            return self._next_token_loss(hidden_LD, ids_L, documents_L, learnt_L)
        rates_N, masked_NB = _noise(rng, length // recipe.block, recipe, ceiling)
        masked_L = torch.from_numpy(masked_NB).reshape(-1) & learnt_L
        noisy_L = torch.where(masked_L, self.mask, ids_L)
        rule = noisy_and_clean(length, recipe.block, causal=recipe.causal, documents_L=apart_L)
        sight = attention(rule, 2 * length, self.device)
        hidden_MD = self._forward(torch.cat([noisy_L, ids_L]), positions_L.repeat(2), sight)
        asked_P = masked_L.nonzero().squeeze(1)
        losses_P = self._cross_entropy(hidden_MD, asked_P, ids_L[asked_P])
        if ceiling < 1.0:
            total, weight = losses_P.sum(), float(len(asked_P))
        else:
            rates_P = torch.from_numpy(rates_N).float().repeat_interleave(recipe.block)[asked_P]
            total, weight = (losses_P / rates_P.to(self.device)).sum(), float(learnt_L.sum())
        if recipe.ar_weight:
            ar = self._next_token_loss(hidden_MD[length:], ids_L, documents_L, learnt_L)
            total = total + recipe.ar_weight * ar.total * (weight / max(1.0, ar.weight))
        return Loss(total, weight, 2 * length)

    def _forward(self, ids_M: Tensor, positions_M: Tensor, sight: Attention) -> Tensor:
        x_MD = self.decoder.embed(ids_M.to(self.device))
        return self.decoder.forward(x_MD, positions_M.to(self.device), sight)

    def _next_token_loss(
        self, hidden_LD: Tensor, ids_L: Tensor, documents_L: Tensor | None, learnt_L: Tensor
    ) -> Loss:
        asked_P = learnt_L[1:].nonzero().squeeze(1)
        if documents_L is not None:
            asked_P = asked_P[documents_L[asked_P] == documents_L[asked_P + 1]]
        total = self._cross_entropy(hidden_LD, asked_P, ids_L[asked_P + 1]).sum()
        return Loss(total, float(len(asked_P)), len(ids_L))

    def _cross_entropy(self, hidden_MD: Tensor, asked_P: Tensor, targets_P: Tensor) -> Tensor:
        """(P,) losses of the rows asked; logits of a few at a time, computed again in the backward pass."""
        hidden_PD, targets_P = hidden_MD[asked_P.to(self.device)], targets_P.to(self.device)

        def chunk(hidden: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self.decoder.logits(hidden), targets, reduction="none")

        pairs = zip(hidden_PD.split(_LOSS_ROWS), targets_P.split(_LOSS_ROWS), strict=True)
        return torch.cat(
            [recompute(chunk, hidden, targets, use_reentrant=False) for hidden, targets in pairs]
        )

    @torch.no_grad()
    def measure(self) -> dict[str, object]:
        """Bits a token of held-out packs: exact for the AR twin. For diffusion a weighted loss under the recipe's own
        noise: the bound only where `clipped` is false (clipped noise weighs a token 1.11 times at block 4), and not to be
        compared between block sizes."""
        total, weight, index, asked = 0.0, 0.0, 0, 0
        while asked < HELD_OUT_PACKS:  # a pack may hold nothing but a prompt
            if index == _MOST_PACKS and not asked:
                raise DiffcoderError(
                    "bad_recipe",
                    "No held-out sequence has a token to predict: raise context, or add examples.",
                )
            loss = self.pack_loss(self.held_out_packs[index], np.random.default_rng([7, index]), 1.0)
            total, weight = total + float(loss.total), weight + loss.weight
            index, asked = index + 1, asked + bool(loss.weight)
        return {"bits_per_token": round(total / weight / math.log(2), 4)}

    def export(self, run: Path, weights: dict[str, Tensor], facts: dict[str, object]) -> None:
        """A folder `model` that the engine opens; of low-rank weights `adapter.safetensors`, small enough to be written
        whenever the run is measured (`export_checkpoint` makes a model of it)."""
        if self.recipe.rank:
            _write_adapter(self.recipe, self.base_sha256, run, weights, facts)
        else:
            _write_model(self.recipe, self.base, run, weights, facts)


def export_checkpoint(recipe: Diffusion, base: Path, run: Path) -> Path:
    """The model of a run's last checkpoint as a folder; low-rank weights are added to their base's, for good."""
    base_sha256 = checkpoint_sha256(base)
    weights, facts = averages(run, base_sha256)
    if not recipe.rank:
        return _write_model(recipe, base, run, weights, facts)
    return _write_model(
        recipe, base, run, merged(base, _write_adapter(recipe, base_sha256, run, weights, facts)), facts
    )


def _write_adapter(
    recipe: Diffusion, base_sha256: str, run: Path, weights: Mapping[str, Tensor], facts: dict[str, object]
) -> Path:
    """As the engine takes it (`model.loading.load_team`: on every row)."""
    path = run / "adapter.safetensors"
    write_atomically(path, team_bytes(weights, recipe.scale, base_sha256, facts))
    return path


def _write_model(
    recipe: Diffusion, base: Path, run: Path, weights: Mapping[str, Tensor], facts: dict[str, object]
) -> Path:
    """`weights` by the names of the decoder's parameters, fused or not; the base's own where there are none."""
    checkpoint = open_checkpoint(base)
    found = {
        part: value[rows] for name, value in weights.items() for part, rows in _parts(checkpoint.config, name)
    }
    fields = ("objective", "block", "causal", "ar_weight", "mask_token", "end_token")
    made = {field: getattr(recipe, field) for field in fields}
    write_model(
        run / "model",
        checkpoint,
        lambda name: found[name] if name in found else checkpoint.tensor(name),
        made | facts,
    )
    return run / "model"


def _noise(
    rng: np.random.Generator, blocks: int, recipe: Diffusion, ceiling: float
) -> tuple[np.ndarray, np.ndarray]:
    if recipe.clipped:
        rates_N = clipped_rates(rng, blocks, recipe.block, ceiling)
        return rates_N, mask_blocks(rng, rates_N, recipe.block)
    rates_N = np.maximum(rng.uniform(0.0, ceiling, blocks), 1e-3)
    return rates_N, rng.random((blocks, recipe.block)) < rates_N[:, None]


def _packing(
    recipe: Diffusion, corpus: Corpus, marks: layouts.Marks | None, end: int, *, held_out: bool
) -> Packing:
    """Documents of one side of the split, some in the infill layout (chosen and cut by their number)."""
    layouts.require_marks(recipe.infill, marks)
    indices = corpus.indices(held_out=held_out)
    if not len(indices):
        side = "held-out" if held_out else "training"
        raise DiffcoderError("empty_corpus", f"The corpus has no {side} document: read more files into it.")
    turned = np.random.default_rng([recipe.seed, 2]).random(len(indices)) < recipe.infill

    def read(number: int) -> np.ndarray:
        ids = corpus.document(int(indices[number]))
        if not turned[number] or marks is None:
            return ids
        rng = np.random.default_rng([recipe.seed, 3, number])
        cut = int(rng.integers(1, len(ids)))
        return np.concatenate([[marks.prefix, marks.suffix], ids[cut:], [marks.middle], ids[:cut]])

    lengths = corpus.starts[indices + 1] - corpus.starts[indices] + 3 * turned
    return Packing(read, lengths, recipe.context, end, recipe.seed, recipe.ends)


def _of_examples(recipe: Diffusion, examples: Examples, side: int, end: int) -> WholePacking:
    """Training examples (side 0), or one in sixteen of all (side 1)."""
    numbers = np.array([n for n in range(len(examples)) if (n % 16 == 15) == side])
    if not len(numbers):
        raise DiffcoderError("no_examples", f"{len(examples)} examples are too few: 16 at least are needed.")
    return WholePacking(
        lambda number: examples[int(numbers[number])].ids,
        np.diff(examples.starts)[numbers],
        examples.firsts[numbers] + 1,
        recipe.context,
        end,
        recipe.seed,
        recipe.ends,
    )


def _parts(c: Config, name: str) -> list[tuple[str, slice]]:
    """The canonical tensors inside a fused parameter, and their rows."""
    shapes = linear_shapes(c)
    head, _, kind = name.rpartition(".")
    prefix, _, fused = head.rpartition(".")
    names = FUSED.get(fused, ())
    if len(names) < 2:
        return [(name, slice(None))]
    parts, start = [], 0
    for part in names:
        rows = shapes[part][0]
        parts.append((f"{prefix}.{part}.{kind}", slice(start, start + rows)))
        start += rows
    return parts
