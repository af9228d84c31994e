"""Where a filling ends, asked of the model itself: after which of its tokens does what follows the gap come best?

A model that writes on past the gap rarely writes the suffix letter by letter. For every possible end e the joint
log-probability of "the first e tokens, then the suffix's first ones" is a full account of the same text, so the
accounts compare directly; the best one says where the gap closes. Two forwards: one over the filling for the first suffix
token at every end, one over the few best ends with more of the suffix, as branches of one tree.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.decoder import KVCache
from model.sampler import Network

BRANCHES = 8  # ends that are looked at closely
HEAD_TOKENS = 12  # of the suffix, on a branch


@torch.inference_mode()
def best_end(
    network: Network,
    cache: KVCache,
    last: int,
    tokens: Sequence[int],
    head: Sequence[int],
    allowed: Sequence[int],
) -> int:
    """How many of `tokens` to keep, one of `allowed` (counts), so that `head` (ids) follows best.

    `cache` ends before `last`, the prompt's last token, and is left so. Costs two forwards.
    """
    head = head[:HEAD_TOKENS]
    rows = [last, *tokens]
    scores_NV, _ = network.forward(cache, rows, (), len(rows))
    log_NV = scores_NV.log_softmax(-1)
    taken_N = log_NV[:-1].gather(1, torch.tensor(tokens)[:, None])[:, 0]
    text_N = torch.cat([torch.zeros(1), taken_N.cumsum(0)])  # of the first e tokens
    first_N = text_N + log_NV[:, head[0]]
    near = sorted(allowed, key=lambda e: -first_N[e].item())[:BRANCHES]
    cache.keep(len(rows))
    follow = _branches(network, cache, len(rows), near, rows, head)
    cache.truncate(cache.length - len(rows))
    return max(zip(near, follow, strict=True), key=lambda pair: text_N[pair[0]].item() + pair[1])[0]


def _branches(
    network: Network,
    cache: KVCache,
    count: int,
    ends: Sequence[int],
    rows: Sequence[int],
    head: Sequence[int],
) -> list[float]:
    """Log-probability of `head` after each end: branches that share the cache up to their end and see only themselves
    behind it. A branch begins with the token before its end, run once more for its scores."""
    past, k = cache.length, len(head)
    start = past - count  # the place of rows[0]
    ids: list[int] = []
    positions: list[int] = []
    mask_NT = torch.zeros(len(ends) * k, past + len(ends) * k, dtype=torch.bool)
    for n, end in enumerate(ends):
        ids += [rows[end], *head[:-1]]
        positions += range(start + end, start + end + k)
        mask_NT[n * k : (n + 1) * k, : start + end] = True
        mask_NT[n * k : (n + 1) * k, past + n * k : past + (n + 1) * k] = torch.ones(
            k, k, dtype=torch.bool
        ).tril()
    decoder = network.decoder
    cache.see(mask_NT)
    hidden_ND = decoder.forward(decoder.embed(torch.tensor(ids)), torch.tensor(positions), cache)
    log_NV: Tensor = decoder.logits(hidden_ND).log_softmax(-1)
    wanted = torch.tensor([*head] * len(ends))
    return log_NV.gather(1, wanted[:, None]).view(len(ends), k).sum(1).tolist()
