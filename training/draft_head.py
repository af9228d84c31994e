"""The drafting head as training sees it: what a noisy row says, and what that costs.

Scores are over the drafting vocabulary alone, the frozen base's own rows of it; a chain before them tells a row the
token at its own place. Ids that this module takes are full-vocabulary ones.

Shape suffixes: C clean tokens, N noisy blocks, B places of a block, R = N * B noisy rows, P rows that are asked for
something, D width, V vocabulary, S the drafting vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.decoder import Chain
from training import objective
from training.frozen import FrozenLinear
from training.layouts import as_ids


class Asked(NamedTuple):
    """What noisy rows are asked for. `teacher_NB`: the teacher's row for each; weight 0: no loss there."""

    ids_NB: Tensor
    mask_NB: Tensor
    targets_NB: Tensor
    weights_NB: Tensor
    teacher_NB: Tensor

    @staticmethod
    def of(blocks: objective.Blocks, shift: int, before: int = 0) -> Asked:
        """`before`: how many rows of the teacher's scores are other sequences'."""
        places_NB = before + shift + blocks.anchors_N[:, None] + np.arange(blocks.mask_NB.shape[1])
        return Asked(
            as_ids(blocks.ids_NB),
            torch.from_numpy(blocks.mask_NB),
            as_ids(blocks.targets_NB),
            torch.from_numpy(blocks.weights_NB),
            as_ids(places_NB),
        )


class DraftHead:
    """`head`: the base's rows of `vocab_S`, in its order. `chain` is trained, where there is one."""

    def __init__(
        self,
        vocab_S: Tensor,
        size: int,
        head: FrozenLinear,
        chain: Chain | None,
        embed: Callable[[Tensor], Tensor],
    ):
        """`size` and `embed` are the base's vocabulary and its embedding of ids."""
        self.vocab_S, self.head, self.chain, self.embed = vocab_S, head, chain, embed
        self._column_V = torch.full((size,), -1).scatter_(0, vocab_S, torch.arange(len(vocab_S)))

    @torch.no_grad()
    def teach(self, hidden_CD: Tensor) -> Tensor:
        """The base's own scores (C, S) for the token after each clean row."""
        scores_CS: Tensor = self.head.product(hidden_CD)
        return scores_CS

    def logits(self, hidden_PD: Tensor, own_P: Tensor) -> Tensor:
        """(P, S) scores, with gradient, given the tokens at the rows' own places."""
        return self.head(self.chain(hidden_PD, self.embed(own_P)) if self.chain else hidden_PD)

    def loss(
        self, hidden_RD: Tensor, asked: Asked, teacher_CS: Tensor, *, soft: float, missed: float
    ) -> tuple[Tensor, float]:
        """The weighted sum of losses (`objective.distilled`), and the weight; `missed` is a factor behind the first place
        that comes out wrong in a wholly masked block. What the drafting vocabulary lacks is not asked for."""
        ids_R, targets_R, weights_R, at_R = (
            x.reshape(-1) for x in (asked.ids_NB, asked.targets_NB, asked.weights_NB, asked.teacher_NB)
        )
        columns_R = self._column_V[targets_R]
        asked_P = ((weights_R > 0) & (columns_R >= 0)).nonzero().squeeze(1)
        logits_PS, columns_P = self.logits(hidden_RD[asked_P], ids_R[asked_P]), columns_R[asked_P]
        loss_P = objective.distilled(logits_PS, columns_P, teacher_CS, at_R[asked_P], soft)
        right_R = torch.zeros(len(columns_R), dtype=torch.bool)
        right_R[asked_P] = logits_PS.argmax(-1) == columns_P
        unread_NB = asked.mask_NB.all(1)[:, None] & ~objective.reached(right_R.view(asked.mask_NB.shape))
        weights_P = weights_R.where(~unread_NB.view(-1), weights_R * missed)[asked_P]
        return (loss_P * weights_P).sum(), float(weights_P.sum())
