"""The team recipe's task: low-rank weights on a frozen base that learn a repository, on clean and noisy rows alike.

A sequence is a piece of the repository, left to right or in the infill layout, or an edit from its history. One
forward holds its clean rows, which predict the next token, and masked blocks behind random anchors, which the drafting
adapter denoises as it does in the engine; the team's weights act on all of them. So that what drafts keeps up with what
verifies, the adapter learns along: noisy rows are asked for what the tuned model itself would write (`objective.py`). Its
first factors stay as they are, because the engine holds them among the base's own weights. The base's linears are int8 in
both directions (`frozen.py`). Each window of the repository is read once an epoch, in an order of its own.

Shape suffixes: C clean tokens, N noisy blocks, B places of a block, M = C + N * B rows, P rows that are asked for
something, D width, V vocabulary, R rank.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from model import store
from model.adapters import DRAFTING, read_adapter, seconds
from model.checkpoints import Checkpoint, open_checkpoint
from model.decoder import (
    FUSED,
    LINEARS,
    Decoder,
    Gate,
    Layer,
    Pairs,
    fused_bias,
    fused_weight,
    layer_norms,
)
from model.loading import TWO_DIGITS
from model.masks import clean_then_noisy
from model.schema import DiffcoderError
from training import layouts, objective
from training.attention import MaskedAttention
from training.corpus import Corpus
from training.draft_head import Asked, DraftHead
from training.examples import Examples
from training.files import write_atomically
from training.frozen import FrozenLinear, GatedLinear
from training.gated import chain_of, checkpoint_sha256, initial_pairs
from training.layouts import as_ids
from training.recipe import Team
from training.trainer import Loss

HELD_OUT_WINDOWS = 12
_HEAD_ROWS = 64  # of one chunk of the output head: its scores over the whole vocabulary take 40 MB


class TeamModel:
    """A frozen base, the team's trainable pairs on all rows, and the drafting adapter, trainable but for its first
    factors, on noisy ones."""

    def __init__(self, base: Path, *, rank: int, scale: float, seed: int, drafting: Path | None):
        checkpoint = open_checkpoint(base)
        c = self.config = checkpoint.config
        self.base_sha256 = checkpoint_sha256(base)
        self.parameters = initial_pairs(c, rank, torch.Generator().manual_seed(seed))
        self.scale = scale
        embedding_VD = checkpoint.tensor("embed.weight")
        head_VD = embedding_VD if c.tied else checkpoint.tensor("head.weight")
        self.head = FrozenLinear.head(head_VD)
        layers = [self._layer(checkpoint, n) for n in range(c.layers)]
        self.decoder = Decoder(c, layers, embedding_VD, checkpoint.tensor("norm.weight"), self.head.product)
        self.drafts: DraftHead | None = None
        if drafting is not None:
            file = read_adapter(drafting, c, self.base_sha256)
            own = {name: nn.Parameter(value.clone()) for name, value in seconds(file).items()}
            self.parameters |= own
            self.mask_embedding = own[DRAFTING + "mask_embedding"]
            self.drafting_pairs = _DraftingPairs(file.pairs, own)
            head = FrozenLinear.head(head_VD[file.draft_vocab_S])
            chain = chain_of(own, DRAFTING + "chain.")
            self.drafts = DraftHead(file.draft_vocab_S, c.vocab, head, chain, self.decoder.embed)

    def _layer(self, checkpoint: Checkpoint, n: int) -> Layer:
        c = self.config

        def linear(fused: str) -> GatedLinear:
            frozen = FrozenLinear(
                fused_weight(checkpoint.tensor, n, fused),
                fused_bias(checkpoint.tensor, c, n, fused),
                digits=2 if fused in TWO_DIGITS else 1,
            )
            pairs = [
                tuple(self.parameters[f"layers.{n}.{name}.lora_{side}"] for side in "AB")
                for name in FUSED[fused]
            ]
            return GatedLinear(frozen, pairs, self.scale)  # type: ignore[arg-type]

        return Layer(
            **{fused: linear(fused) for fused in FUSED},  # type: ignore[arg-type]
            **layer_norms(checkpoint.tensor, c, n),  # type: ignore[arg-type]
        )

    def forward(self, ids_C: Tensor, anchors_N: np.ndarray, block: int) -> tuple[Tensor, Tensor]:
        """Hidden states of the clean rows (C, D) and of masked blocks behind the anchors (N * B, D)."""
        c, noisy = len(ids_C), len(anchors_N) * block
        x_MD = self.decoder.embed(ids_C)
        gates: list[Gate] = []
        positions_M = torch.arange(c)
        if self.drafts is not None and noisy:
            x_MD = torch.cat([x_MD, self.mask_embedding.expand(noisy, -1)])
            places = as_ids(anchors_N)[:, None] + 1 + torch.arange(block)
            positions_M = torch.cat([positions_M, places.reshape(-1)])
            gates = [(self.drafting_pairs, slice(c, c + noisy))]
        mask_MM = clean_then_noisy(c, [(int(anchor) + 1, block) for anchor in anchors_N], 0)
        hidden_MD = self.decoder.forward(x_MD, positions_M, MaskedAttention(mask_MM), gates)
        return hidden_MD[:c], hidden_MD[c:]


class _DraftingPairs:
    """The drafting adapter's products with gradient: `model.decoder.LowRank` for training."""

    def __init__(self, pairs: Pairs, own: Mapping[str, Tensor]):
        self.pairs = [
            {name: (down, own[f"{DRAFTING}layers.{n}.{name}.lora_B"]) for name, (down, _) in layer.items()}
            for n, layer in enumerate(pairs)
        ]

    def add_(self, layer: int, names: Sequence[str], x_ND: Tensor, y_NO: Tensor) -> None:
        y_NO += torch.cat(
            [x_ND @ down.T @ up.T for down, up in (self.pairs[layer][name] for name in names)], 1
        )


class _HeadLoss(torch.autograd.Function):
    """Cross entropy over the whole vocabulary, a few rows at a time: scores are never kept, gradients made at once."""

    @staticmethod
    def forward(ctx, hidden_PD, targets_P, head):
        losses, gradients = [], []
        for hidden, targets in zip(hidden_PD.split(_HEAD_ROWS), targets_P.split(_HEAD_ROWS), strict=True):
            log = head.product(hidden).log_softmax(-1)
            at = targets[:, None]
            losses.append(-log.gather(1, at)[:, 0])
            slope = log.exp_()
            slope.scatter_add_(1, at, -torch.ones_like(at, dtype=slope.dtype))
            gradients.append(head.transposed(slope))
        ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx, d_P):
        return ctx.saved_tensors[0] * d_P[:, None], None, None


def head_losses(hidden_PD: Tensor, targets_P: Tensor, head: FrozenLinear) -> Tensor:
    """(P,) cross entropies with memory that does not grow with the rows."""
    return _HeadLoss.apply(hidden_PD, targets_P, head)


class TeamTask:
    """`Task` of the team recipe. `edits`: examples from the repository's history, where the recipe wants some."""

    def __init__(
        self,
        recipe: Team,
        base: Path,
        corpus: Corpus,
        marks: layouts.Marks | None,
        drafting: Path | None = None,
        edits: Examples | None = None,
    ):
        layouts.require_marks(recipe.infill, marks)
        self.recipe, self.corpus, self.edits, self.marks = recipe, corpus, edits, marks
        self.model = TeamModel(
            base, rank=recipe.rank, scale=recipe.scale, seed=recipe.seed, drafting=drafting
        )
        self.parameters, self.base_sha256 = self.model.parameters, self.model.base_sha256
        self.drafting_sha256 = store.sha256(drafting) if drafting is not None else None
        self.windows = self._windows(held_out=False)
        self.held_out = self._windows(held_out=True)[:HELD_OUT_WINDOWS]

    def _windows(self, *, held_out: bool) -> np.ndarray:
        """(W, 2) document and start of every window; windows of a document are of one length and cover it."""
        length, found = self.recipe.length, []
        for document in self.corpus.indices(held_out=held_out, least=16):
            size = len(self.corpus.document(int(document)))
            count = -(-size // length)
            starts = np.linspace(0, max(0, size - length), count).astype(int)
            found += [(int(document), int(start)) for start in starts]
        if not found:
            side = "held-out" if held_out else "training"
            raise DiffcoderError("empty_corpus", f"The corpus has no {side} document: add files to it.")
        return np.random.default_rng([self.recipe.seed, 4]).permutation(np.array(found))

    @lru_cache(maxsize=2)  # noqa: B019 - one task lives as long as its run
    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.recipe.seed, 5, epoch]).permutation(len(self.windows))

    def tokens(self) -> int:
        """Tokens of an epoch."""
        return sum(len(self._window(window)) for window in self.windows)

    def _window(self, window: np.ndarray) -> np.ndarray:
        document, start = window
        return self.corpus.document(int(document))[start : start + self.recipe.length]

    def loss(self, rng: np.random.Generator, step: int, number: int) -> Loss:
        if self.edits is not None and rng.random() < self.recipe.edits:
            return self.sequence_loss(self.edits.draw(rng), rng)
        epoch, place = divmod(number, len(self.windows))
        ids = self._window(self.windows[self._order(epoch)[place]])
        return self.sequence_loss(self._laid_out(ids, rng), rng)

    def _laid_out(self, ids: np.ndarray, rng: np.random.Generator) -> layouts.Sequence:
        if self.marks is not None and rng.random() < self.recipe.infill:
            return layouts.turned(rng, ids, len(ids) // 3, self.marks, ends=1)
        return layouts.Sequence(np.asarray(ids, dtype=np.int64), 0)

    def sequence_loss(self, sequence: layouts.Sequence, rng: np.random.Generator) -> Loss:
        """Mean loss of the clean rows from `first` on, plus `noisy_weight` times that of the noisy rows."""
        recipe, block, ids_C = self.recipe, self.recipe.block, as_ids(sequence.ids)
        anchors_N = np.zeros(0, dtype=np.int64)
        places = np.arange(sequence.first, len(ids_C) - block - 1)
        if self.model.drafts is not None and len(places):
            count = min(recipe.noisy_rows // block, len(places))
            anchors_N = np.sort(rng.choice(places, count, replace=False))
        hidden_CD, hidden_MD = self.model.forward(ids_C, anchors_N, block)
        asked = slice(sequence.first, len(ids_C) - 1)
        losses_P = head_losses(hidden_CD[asked], ids_C[sequence.first + 1 :], self.model.head)
        total, weight = losses_P.sum(), float(len(losses_P))
        if len(anchors_N):
            noisy, asked_for = self._noisy_loss(rng, sequence, anchors_N, hidden_CD.detach(), hidden_MD)
            total = total + recipe.noisy_weight * noisy * (weight / max(asked_for, 1e-9))
        return Loss(total, weight, len(ids_C) + len(hidden_MD))

    def _noisy_loss(
        self,
        rng: np.random.Generator,
        sequence: layouts.Sequence,
        anchors_N: np.ndarray,
        hidden_CD: Tensor,
        hidden_MD: Tensor,
    ) -> tuple[Tensor, float]:
        """The weighted sum of the noisy rows' losses, and the weight. They are all masks, so that what they are asked for
        may depend on what the clean rows of the same forward say."""
        recipe, drafts = self.recipe, self.model.drafts
        assert drafts is not None
        teacher_CS = drafts.teach(hidden_CD)
        made = objective.make_blocks(
            rng,
            sequence.ids,
            drafts.vocab_S[teacher_CS.argmax(-1)].numpy(),
            anchors_N,
            recipe.block,
            shift=1,
            partial=0.0,
            ceiling=1.0,
            weights=objective.Weights(0.0, recipe.decay, recipe.off_weight, 0.0),
        )
        asked = Asked.of(made, shift=1)
        return drafts.loss(hidden_MD, asked, teacher_CS, soft=recipe.soft, missed=recipe.missed)

    @torch.no_grad()
    def measure(self) -> dict[str, object]:
        """Bits per token of windows of held-out files, left to right."""
        total, count = 0.0, 0
        for window in self.held_out:
            ids_C = as_ids(self._window(window))
            hidden_CD, _ = self.model.forward(ids_C, np.zeros(0, dtype=np.int64), 1)
            losses_P = head_losses(hidden_CD[:-1], ids_C[1:], self.model.head)
            total, count = total + float(losses_P.sum()), count + len(losses_P)
        return {"bits_per_token": round(total / count / float(np.log(2)), 4)}

    def export(self, run: Path, weights: dict[str, Tensor], facts: dict[str, object]) -> None:
        if self.drafting_sha256 is not None:
            facts = {"drafting_sha256": self.drafting_sha256} | facts
        write_atomically(
            run / "adapter.safetensors", team_bytes(weights, self.model.scale, self.model.base_sha256, facts)
        )


def team_bytes(
    weights: Mapping[str, Tensor], scale: float, base_sha256: str, facts: dict[str, object]
) -> bytes:
    """A team's adapter as a file: fp16 pairs, and the metadata that the engine needs."""
    table = {
        "kind": "team",
        "rank": len(weights["layers.0.q.lora_A"]),
        "scale": scale,
        "base_sha256": base_sha256,
    } | facts
    return save(
        {name: value.detach().half().contiguous() for name, value in weights.items()},
        {name: value if isinstance(value, str) else json.dumps(value) for name, value in table.items()},
    )


def merged(base: Path, adapter: Path) -> dict[str, Tensor]:
    """The base's linears with a team's adapter added, by the decoder's names (`layers.N.q.weight`, ...)."""
    checkpoint = open_checkpoint(base)
    with safe_open(adapter, "pt") as file:
        scale = float(file.metadata()["scale"])
        return {
            f"layers.{n}.{name}.weight": checkpoint.tensor(f"layers.{n}.{name}.weight")
            + scale
            * file.get_tensor(f"layers.{n}.{name}.lora_B").float()
            @ file.get_tensor(f"layers.{n}.{name}.lora_A").float()
            for n in range(checkpoint.config.layers)
            for name in LINEARS
        }
