"""Held-out numbers of a gated adapter while it trains: accuracy by place, and accepted further places.

Two sets: held-out text (accuracy by place of a wholly masked block of 4, against the text and against the
base's own next token at the same places), and greedy continuations that the base wrote from held-out prompts,
where every place of a draft can be compared with what the base really writes. `accepted` is the mean number
of places after the first (which the base gives exactly) that agree before the first miss, out of four: the
sampler commits 2 + accepted tokens a draft-and-verify cycle.

Shape suffixes as in gated.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from training.gated import GatedModel, as_ids
from training.layouts import Sequence
from training.noisy_blocks import Clean, Noisy

PLACES = 5
_BLOCKS_A_PASS = 96


@dataclass(frozen=True)
class HeldOut:
    """`text`: sequences of held-out files; `written`: the same with the base's own continuation from
    `first` on.
    """

    text: list[Sequence]
    written: list[Sequence]
    clean: dict[int, tuple[Clean, Tensor]] = field(default_factory=dict)
    """Clean passes by the sequence's identity: the base is frozen, so they are run once."""

    def read(self, model: GatedModel, sequence: Sequence) -> tuple[Clean, Tensor]:
        """The clean keys and values, and the base's choice after every position (C,)."""
        if id(sequence) not in self.clean:
            ((clean, hidden_CD),) = model.read(as_ids(sequence.ids))
            self.clean[id(sequence)] = clean, model.choose(hidden_CD)
        return self.clean[id(sequence)]


@torch.no_grad()
def draft(model: GatedModel, clean: Clean, argmax_C: Tensor, anchors_N: np.ndarray, shift: int) -> Tensor:
    """What the adapter proposes for places 1 to 5 after each anchor, (N, 5); with `shift`, place 1 is the
    base's.
    """
    drafts = []
    for some in np.split(anchors_N, range(_BLOCKS_A_PASS, len(anchors_N), _BLOCKS_A_PASS)):
        block = PLACES - shift
        anchors = as_ids(some)
        masked = torch.ones(len(some), block, dtype=torch.bool)
        ids = torch.zeros(len(some), block, dtype=torch.long)
        hidden_NBD = model.denoise(Noisy(clean, ids, masked, anchors)).view(len(some), block, -1)
        found = [argmax_C[anchors]] if shift else []
        for place in range(block):
            own = found[-1] if shift else torch.zeros_like(anchors)
            found.append(model.draft_vocab_S[model.draft_logits(hidden_NBD[:, place], own).argmax(-1)])
        drafts.append(torch.stack(found, 1))
    return torch.cat(drafts)


def measure(model: GatedModel, held_out: HeldOut, shift: int) -> dict[str, object]:
    """Numbers for the log; see the module's docstring."""
    steps = torch.arange(1, PLACES + 1)
    hits_text, hits_base, base_text = [], [], []
    for sequence in held_out.text:
        anchors = np.arange(sequence.first, len(sequence.ids) - PLACES, 15)
        clean, argmax_C = held_out.read(model, sequence)
        drafts = draft(model, clean, argmax_C, anchors, shift)
        at = as_ids(anchors)[:, None] + steps
        text = as_ids(sequence.ids)[at]
        hits_text.append(drafts == text)
        hits_base.append(drafts == argmax_C[at - 1])
        base_text.append(argmax_C[at - 1] == text)
    table: dict[str, object] = {}
    if held_out.text:
        table = {
            "text": _means(hits_text),
            "as_base": _means(hits_base),
            "base_text": _means(base_text),
        }
    right = []
    for sequence in held_out.written:
        anchors = np.arange(sequence.first, len(sequence.ids) - PLACES, 5)
        drafts = draft(model, *held_out.read(model, sequence), anchors, shift)
        right.append(drafts == as_ids(sequence.ids)[as_ids(anchors)[:, None] + steps])
    if right:
        table["written"] = _means(right)
        table["accepted"] = round(float(torch.cat(right)[:, 1:].long().cumprod(1).sum(1).float().mean()), 3)
    return table


def _means(parts: list[Tensor]) -> list[float]:
    return [round(x, 3) for x in torch.cat(parts).float().mean(0).tolist()]
