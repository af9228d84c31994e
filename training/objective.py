"""What a noisy block is asked for: random anchors over a clean sequence, their masks, targets and weights.

A block of B places follows its anchor p at p+1 .. p+B. With `shift` 0 the row at position t predicts token t;
with `shift` 1 it predicts token t+1, as the base does, so that the clean row at p already covers the first
place and every noisy row adds a further one.

The target of a wholly masked block is the base's own greedy continuation of the text up to p, without
generating it: it equals the text as long as the base's argmax agrees with the text, so the argmax is the
right target up to and including the first disagreement. Later places get the text's token with a smaller
weight. In partly masked blocks the targets are the text's own tokens. (Anchors: DFlash, arXiv 2602.06036.
On-policy prefix: arXiv 2607.05722.)

Where a place is asked for the base's choice, the target may be mixed with the base's whole distribution (DSpark, arXiv
2607.05147); and places that a verifier would not reach, because the drafter is wrong before them, may weigh less
(accept-until-fail, arXiv 2607.01893).

`agree_C[t]` says that the base's argmax after t-1 is token t.

Shape suffixes: C clean tokens, N blocks, B places, P rows that are asked for something, S the drafting head's vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.noise import clipped_rates, mask_blocks

Ints = NDArray[np.integer]

_ROWS_A_PIECE = 8  # of the loss


@dataclass(frozen=True)
class Blocks:
    """N noisy blocks over one clean sequence. `targets_NB` are full-vocabulary ids; weight 0: no loss
    there.
    """

    anchors_N: Ints
    ids_NB: Ints
    mask_NB: NDArray[np.bool_]
    targets_NB: Ints
    weights_NB: NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """`first` for the place after the anchor, `decay` a factor from each place to the next from the second
    on, `off` for places behind the first disagreement, `partial` for the masked places of partly masked
    blocks.
    """

    first: float
    decay: float
    off: float
    partial: float


def agreement_runs(agree_C: NDArray[np.bool_]) -> Ints:
    """(C,) how many tokens after each position agree with the base, up to the first that does not."""
    runs = np.zeros(len(agree_C), dtype=np.int64)
    for t in range(len(agree_C) - 2, -1, -1):
        runs[t] = runs[t + 1] + 1 if agree_C[t + 1] else 0
    return runs


def choose_anchors(
    rng: np.random.Generator,
    agree_C: NDArray[np.bool_],
    first: int,
    block: int,
    shift: int,
    count: int,
    easy: float,
) -> Ints:
    """Up to `count` distinct anchors, sorted; each block's targets lie inside the sequence.

    `easy` 0 draws uniformly; larger values prefer places from where the base agrees with the text for
    longer, where the block teaches what the base itself would write.
    """
    candidates = np.arange(first, len(agree_C) - block - shift)
    runs = np.minimum(agreement_runs(agree_C)[candidates], block + shift)
    weights = 1.0 + easy * runs / (block + shift)
    size = min(count, len(candidates))
    return np.sort(rng.choice(candidates, size, replace=False, p=weights / weights.sum()))


def make_blocks(
    rng: np.random.Generator,
    ids_C: Ints,
    argmax_C: Ints,
    anchors_N: Ints,
    block: int,
    *,
    shift: int,
    partial: float,
    ceiling: float,
    weights: Weights,
) -> Blocks:
    """Noise, targets and weights for blocks after `anchors_N`. `argmax_C[t]` is the base's choice after
    position t.
    """
    count = len(anchors_N)
    places_B = np.arange(1, block + 1)
    positions_NB = anchors_N[:, None] + places_B
    targets_at_NB = positions_NB + shift
    text_NB = ids_C[targets_at_NB]
    greedy_NB = argmax_C[targets_at_NB - 1]

    agree_C = np.concatenate([[True], argmax_C[:-1] == ids_C[1:]])
    before = agree_C[
        anchors_N[:, None] + np.arange(1, block + shift)
    ]  # tokens between the anchor and the last target
    on_policy = np.concatenate([np.ones((count, 1), bool), np.logical_and.accumulate(before, 1)], 1)[
        :, shift:
    ]

    slots_B = places_B + shift
    by_slot = np.where(slots_B == 1, weights.first, weights.decay ** np.maximum(0, slots_B - 2))
    weights_NB = np.where(on_policy, by_slot, by_slot * weights.off)
    targets_NB = np.where(on_policy, greedy_NB, text_NB)
    mask_NB = np.ones((count, block), bool)

    # With shift, the clean row at the anchor settles the first place: a partly masked block always shows it.
    partly_N = rng.random(count) < partial
    open_places = block - shift
    drawn_NB = mask_blocks(rng, clipped_rates(rng, count, open_places, ceiling), open_places)
    mask_NB[partly_N, :shift] = False
    mask_NB[partly_N, shift:] = drawn_NB[partly_N]
    hidden_NB = mask_NB if shift == 0 else np.concatenate([mask_NB[:, 1:], np.ones((count, 1), bool)], 1)
    weights_NB = np.where(partly_N[:, None], weights.partial * hidden_NB, weights_NB)
    targets_NB = np.where(partly_N[:, None], text_NB, targets_NB)
    return Blocks(anchors_N, ids_C[positions_NB], mask_NB, targets_NB, weights_NB.astype(np.float32))


def distilled(logits_PS: Tensor, choices_P: Tensor, teacher_CS: Tensor, at_P: Tensor, soft: float) -> Tensor:
    """(P,) cross-entropies to one token each, `choices_P`; where that is the teacher's own choice, `soft` of its place is
    taken by the teacher's whole distribution. `at_P` is the teacher's row for each.
    """
    losses_P: Tensor = _Distilled.apply(logits_PS, choices_P, teacher_CS, at_P, soft)
    return losses_P


class _Distilled(torch.autograd.Function):
    """A few rows at a time, which stay in the cache: what is slow here is passes over memory. Losses and their gradient
    (what the drafter says less what it should say) come out of the same rows.
    """

    @staticmethod
    def forward(ctx, logits_PS, choices_P, teacher_CS, at_P, soft):
        losses_P, d_PS = logits_PS.new_empty(len(logits_PS)), torch.empty_like(logits_PS)
        parts = zip(
            *(x.split(_ROWS_A_PIECE) for x in (logits_PS, choices_P, at_P, losses_P, d_PS)), strict=True
        )
        for logits, choices, at, losses, d in parts:
            log, choices = logits.log_softmax(-1), choices[:, None]
            torch.exp(log, out=d)
            hard = -log.gather(1, choices)
            d.scatter_add_(1, choices, -torch.ones_like(hard))
            if soft:
                teacher = teacher_CS[at]
                own = soft * (teacher.gather(1, choices) == teacher.amax(-1, keepdim=True)).float()
                teacher = teacher.softmax(-1)
                d.scatter_add_(1, choices, own).addcmul_(teacher, own, value=-1)
                hard = hard.lerp(-(teacher.mul_(log)).sum(-1, keepdim=True), own)
            losses.copy_(hard.squeeze(1))
        ctx.save_for_backward(d_PS)
        return losses_P

    @staticmethod
    def backward(ctx, dlosses_P):
        (d_PS,) = ctx.saved_tensors
        return d_PS * dlosses_P[:, None], None, None, None, None


def reached(right_NB: Tensor) -> Tensor:
    """(N, B) whether all places of the block before this one are right: a verifier would look no further."""
    before_NB = right_NB.long().cumprod(1).bool()
    return torch.cat([torch.ones_like(before_NB[:, :1]), before_NB[:, :-1]], 1)
