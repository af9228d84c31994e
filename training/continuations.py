"""Text that the frozen base writes itself, greedily, from real prompts: on-policy data for the drafter, and
its yardstick.

A drafter is judged by what the base would write, so it learns fastest from that. Batches of prompts of any
length run through one padded cache.

Shape suffixes: S sequences of a batch, T places of the cache, K key/value heads, G query heads of one of
them, E head width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.gated import GatedModel
from training.layouts import Ids, Sequence, as_ids


class _Batch:
    """Keys and values of S sequences of different lengths; each forward adds one row to each."""

    def __init__(self, model: GatedModel, lengths_S: Tensor, capacity: int):
        c = model.config
        shape = (c.layers, len(lengths_S), c.kv_heads, capacity, c.head_dim)
        self.keys, self.values, self.lengths_S = torch.zeros(shape), torch.zeros(shape), lengths_S

    def attend(self, layer: int, q_SHE: Tensor, k_SKE: Tensor, v_SKE: Tensor) -> Tensor:
        rows, heads, e = q_SHE.shape
        index, end = torch.arange(rows), int(self.lengths_S.max()) + 1
        keys_SKTE, values_SKTE = self.keys[layer], self.values[layer]
        keys_SKTE[index, :, self.lengths_S] = k_SKE
        values_SKTE[index, :, self.lengths_S] = v_SKE
        q_SKGE = (q_SHE * e**-0.5).view(rows, k_SKE.shape[1], -1, e)
        scores = q_SKGE @ keys_SKTE[:, :, :end].transpose(2, 3)
        unseen_ST = torch.arange(end)[None] > self.lengths_S[:, None]
        weights = scores.masked_fill_(unseen_ST[:, None, None], -torch.inf).softmax(-1)
        return (weights @ values_SKTE[:, :, :end]).reshape(rows, heads, e)


@torch.no_grad()
def write_on(model: GatedModel, prompts: list[Ids], tokens: int, stop: int) -> list[Sequence]:
    """Each prompt with up to `tokens` greedy tokens of the base behind it, cut after the `stop` token."""
    lengths_S = torch.tensor([len(prompt) for prompt in prompts])
    batch = _Batch(model, lengths_S, int(lengths_S.max()) + tokens)
    following = []
    for row, prompt in enumerate(prompts):
        ((clean, hidden_CD),) = model.read(as_ids(prompt))
        batch.keys[:, row, :, : len(prompt)] = clean.keys
        batch.values[:, row, :, : len(prompt)] = clean.values
        following.append(model.choose(hidden_CD[-1:]))
    found = [torch.cat(following)]
    for _ in range(tokens - 1):
        hidden_SD = model.clean.forward(model.clean.embed(found[-1]), batch.lengths_S, batch)
        batch.lengths_S = batch.lengths_S + 1
        found.append(model.choose(hidden_SD))
    written_ST = torch.stack(found, 1).numpy()
    result = []
    for prompt, ids in zip(prompts, written_ST, strict=True):
        ends = np.flatnonzero(ids == stop)
        kept = ids[: ends[0] + 1] if len(ends) else ids
        result.append(Sequence(np.concatenate([prompt, kept]).astype(np.int64), len(prompt) - 1))
    return result
