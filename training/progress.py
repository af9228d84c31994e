"""Held-out numbers of a gated adapter while it trains: accuracy by place, and accepted further places.

Two sets: held-out text (accuracy by place of a wholly masked block of 4, against the text and against the
base's own next token at the same places), and greedy continuations that the base wrote from held-out prompts,
where every place of a draft can be compared with what the base really writes. `accepted` is the mean number
of places after the first (which the base gives exactly) that agree before the first miss, out of four: the
sampler commits 2 + accepted tokens a draft-and-verify cycle.

Shape suffixes as in gated.py.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from training.gated import GatedModel
from training.layouts import Sequence, as_ids
from training.noisy_blocks import Clean, Noisy

PLACES = 5
# By what is measured: right or not (or how many), (anchors, places) for each sequence.
Hits = dict[str, list[Tensor]]
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
            found.append(model.drafts.vocab_S[model.drafts.logits(hidden_NBD[:, place], own).argmax(-1)])
        drafts.append(torch.stack(found, 1))
    return torch.cat(drafts)


def hits(model: GatedModel, held_out: HeldOut, shift: int) -> Hits:
    """Which places of all drafts are right; see the module's docstring."""
    steps = torch.arange(1, PLACES + 1)
    found: Hits = {name: [] for name in ("text", "as_base", "base_text", "written", "accepted")}
    for sequence in held_out.text:
        anchors = np.arange(sequence.first, len(sequence.ids) - PLACES, 15)
        clean, argmax_C = held_out.read(model, sequence)
        drafts = draft(model, clean, argmax_C, anchors, shift)
        at = as_ids(anchors)[:, None] + steps
        text = as_ids(sequence.ids)[at]
        found["text"].append(drafts == text)
        found["as_base"].append(drafts == argmax_C[at - 1])
        found["base_text"].append(argmax_C[at - 1] == text)
    for sequence in held_out.written:
        anchors = np.arange(sequence.first, len(sequence.ids) - PLACES, 5)
        drafts = draft(model, *held_out.read(model, sequence), anchors, shift)
        right = drafts == as_ids(sequence.ids)[as_ids(anchors)[:, None] + steps]
        found["written"].append(right)
        found["accepted"].append(right[:, 1:].long().cumprod(1).sum(1, keepdim=True))
    return {name: parts for name, parts in found.items() if parts}


def measure(model: GatedModel, held_out: HeldOut, shift: int) -> dict[str, object]:
    """Numbers for the log."""
    means = {name: torch.cat(parts).float().mean(0) for name, parts in hits(model, held_out, shift).items()}
    return {name: _rounded(mean, name) for name, mean in means.items()}


def difference(one: Hits, other: Hits) -> Hits:
    """Place by place, what `one` gets right more than `other`, of two drafters over the same held-out set."""
    return {
        name: [a.float() - b.float() for a, b in zip(parts, other[name], strict=True)]
        for name, parts in one.items()
        if name != "base_text"  # the frozen base's own
    }


def with_intervals(groups: abc.Sequence[Hits], draws: int = 2000) -> dict[str, object]:
    """The same numbers, as their mean over groups (languages), each with a 95 % interval: a bootstrap over the sequences
    of every group. They are a file each, and places of one file are alike. `places`: over how many each number is."""
    table: dict[str, object] = {
        "files": sum(len(next(iter(group.values()))) for group in groups),
        "places": sum(len(part) for group in groups for part in next(iter(group.values()))),
    }
    for name in groups[0]:
        rng, means, drawn = np.random.default_rng(0), [], []
        for group in groups:
            sums_FP = np.array([part.sum(0).numpy() for part in group[name]], dtype=float)
            counts_F = np.array([len(part) for part in group[name]])
            chosen = rng.integers(len(counts_F), size=(draws, len(counts_F)))
            means.append(sums_FP.sum(0) / counts_F.sum())
            drawn.append(sums_FP[chosen].sum(1) / counts_F[chosen].sum(1, keepdims=True))
        ends = np.quantile(np.mean(drawn, 0), (0.025, 0.975), axis=0)
        table[name] = _rounded(np.mean(means, 0), name)
        table[f"{name}_interval"] = _rounded(ends.T, name)
    return table


def _rounded(values: Tensor | np.ndarray, name: str) -> object:
    """By place; `accepted` is one number."""
    found = np.round(np.asarray(values, dtype=float), 3)
    return (found[0] if name == "accepted" else found).tolist()
